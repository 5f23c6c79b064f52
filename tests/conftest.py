"""Shared by all tests: quiet TensorFlow, fixed seeds, the data beside the repository, what runs where.

Keras is imported late: the process that hands tests out to workers (pytest -n) starts them seconds sooner.
"""

import contextlib
import gc
import os
import pathlib
import random
import sys

import numpy
import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

pytest.register_assert_rewrite("twin_tests")

SHARED = pathlib.Path(__file__).parents[1].parent / "shared"

# Files that touch the backend little or not: they run once, with TensorFlow's run.
HOST_ONLY = (
    "test_architecture",
    "test_data",
    "test_readers",
    "test_opener",
    "test_split",
    "test_checkup",
    "test_visualize",
    "test_resizing",
    "test_tiling",
    "test_cli",
    "test_pth",
    "test_published",
    "test_weights",
    "test_converting_families",
    "test_detectron2.py",
    "test_matterport.py",
    "test_batch",
    "test_doctor",
    "test_evaluation",
    "test_calibration",
    "test_suspects",
    "test_input_values",
    "test_fuzz",
    "test_progress",
    "test_run_page",
    "test_image_kinds",
    "test_host",
    "test_kills",
    "test_state",
    "test_import",
    "test_train_options",
    "test_extending",
    "test_compatibility",
    "test_experiment",
    "test_tensorboard",
    "test_damaged_weights",
    "test_finding_files",
    "test_fuzz",
    "test_image_faults",
    "test_input_values",
    "test_kills",
    "test_malformed_readers",
    "test_messages",
    "test_native",
    "test_segmentation_shapes",
    "test_state",
    "test_workers",
    "test_record_table",
    "test_coco_pieces",
    "test_annotation_cache",
    "test_addresses",
    "test_scale",
    "test_remote_training",
    "test_error_figures",
    "test_error_kinds",
    "test_errors_page",
    "test_labelling",
    "test_label_tools",
    "test_measuring",
    "test_napari",
    "test_gigapixels",
    "test_video",
)

# Files that compare values of models which run once or twice. TensorFlow traces a model's step in 13 seconds and runs
# it in 0.1, so these run eagerly; tests marked `compiled` do not. Graphs of the whole model are traced by the twins,
# the exports, the samples and the tests of `fit`.
EAGER = ("test_model", "test_optimize", "test_cli", "test_streaming", "test_rank")

# TensorFlow's graph optimiser takes two thirds of a graph's first call, and most graphs of tests are called once or
# twice. These files and the processes that tests start run with it, as users do; the others do without, and so do tests
# of these files that use the fixture `unoptimised`.
OPTIMISED = (
    "test_torchvision_v1",
    "test_ops",
    "test_training",
    "test_samples",
    "test_overfit",
    "test_onnx_models",
)

# Files of minutes go first: two workers that share whole files (--dist loadfile) then end at about the same time.
LONG = (
    "test_torchvision",
    "test_model",
    "test_cli",
    "test_published",
    "test_weights",
    "test_serving",
    "test_onnx",
    "test_litert",
    "test_experiment",
    "test_native",
    "test_samples",
    "test_new_branch",
    "test_channels.py",
    "test_optimize",
    "test_backbones",
    "test_compatibility",
    "test_kills",
    "test_damaged_weights",
    "test_fuzz",
)


def backend():
    """The name of Keras' backend; Keras is imported only where the environment does not say it."""
    if "KERAS_BACKEND" in os.environ:
        return os.environ["KERAS_BACKEND"]
    import keras

    return keras.backend.backend()


def pytest_ignore_collect(collection_path):
    """Leave the host-only files out when the tests run again on another backend."""
    if backend() != "tensorflow" and collection_path.name.startswith(HOST_ONLY):
        return True
    return None


def pytest_collection_modifyitems(items):
    """Long files first; skip what needs TensorFlow when another backend is chosen."""
    items.sort(key=lambda item: not item.path.name.startswith(LONG))
    name = backend()
    for item in items:
        if name != "tensorflow" and item.get_closest_marker("tensorflow"):
            item.add_marker(pytest.mark.skip(reason=f"needs TensorFlow; the backend is {name}"))


def pytest_collection_finish():
    """Keep the garbage collector away from what was imported, which stays: it would look through it all each time."""
    if "tensorflow" in sys.modules:
        from backend_tools import without_stacks

        without_stacks()
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def fixed_seed():
    """Every test starts from the same seed, so that order and selection do not matter.

    Tests of data alone import no framework, which would take longer than most of them run.
    """
    random.seed(0)
    numpy.random.seed(0)
    if "keras" in sys.modules:
        from backend_tools import seed_keras

        seed_keras(0)


@pytest.fixture(autouse=True, scope="module")
def quick_graphs(request):
    """Leave out TensorFlow's graph optimiser, but for the files of OPTIMISED."""
    if "tensorflow" not in sys.modules or request.path.name.startswith(OPTIMISED):
        yield
        return
    from backend_tools import graph_optimiser

    with graph_optimiser(False):
        yield


@pytest.fixture
def unoptimised():
    """Leave out TensorFlow's graph optimiser in a test of a file of OPTIMISED."""
    from backend_tools import graph_optimiser

    with graph_optimiser(False):
        yield


@pytest.fixture(autouse=True)
def eager_steps(request):
    """Run the files of EAGER without tracing, on TensorFlow."""
    if not request.path.name.startswith(EAGER) or request.node.get_closest_marker("compiled"):
        yield
        return
    from backend_tools import without_graphs

    with without_graphs():
        yield


@pytest.fixture
def eagerly():
    """Run a test of another file without tracing, on TensorFlow."""
    from backend_tools import without_graphs

    with without_graphs():
        yield


@pytest.fixture
def cache_folder(tmp_path, monkeypatch):
    """An empty cache of the test's own: where the package keeps what it downloads and reads often."""
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "home"))
    return tmp_path / "home" / "keras_maskrcnn"


@pytest.fixture(params=["native", "stock"] if backend() == "tensorflow" else ["only"])
def path(request):
    """On TensorFlow a test runs twice: with native operators and with stock ones."""
    from keras_maskrcnn.backend import operators, stock_operators

    if request.param == "native" and not operators().startswith("native"):
        pytest.skip("no native library: was there a compiler?")
    with stock_operators() if request.param == "stock" else contextlib.nullcontext():
        yield


@pytest.fixture
def quick_curves(monkeypatch):
    """Runs draw no curves, which takes longer than the epochs of the smallest models; test_experiment.py has them."""
    from keras_maskrcnn.runs import recorder

    monkeypatch.setattr(recorder, "_plot", lambda path, rows: path.write_bytes(b"no picture"))


@pytest.fixture(scope="session")
def shared_data():
    """The folder of real images beside the repository; tests that need it skip where it is missing."""
    data = SHARED / "data"
    if not data.is_dir():
        pytest.skip("the folder of real images, ../shared/data, is not beside this checkout")
    return data


@pytest.fixture(scope="session")
def shapes_run(tmp_path_factory):
    """The run folder of a model that learned the demo's shapes; the environment variable SHAPES_RUN names another."""
    if "SHAPES_RUN" in os.environ:
        return pathlib.Path(os.environ["SHAPES_RUN"])
    from keras_maskrcnn.cli.demo import train_on_shapes

    folder = tmp_path_factory.mktemp("trained")
    train_on_shapes(folder, minutes=2, verbose=0)
    return folder / "run"
