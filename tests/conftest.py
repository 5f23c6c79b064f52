"""Shared by all tests: quiet TensorFlow, fixed seeds, the data beside the repository, what runs where."""

import os
import pathlib

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# JAX compiles each test's step for longer than it runs it: half the time goes without LLVM's optimiser.
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true")

import keras  # noqa: E402  (after the log level is set)
import pytest  # noqa: E402

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
)

# Files of minutes go first: two workers that share whole files (--dist loadfile) then end at about the same time.
LONG = (
    "test_torchvision",
    "test_model",
    "test_cli",
    "test_overfit",
    "test_published",
    "test_weights",
    "test_serving",
    "test_onnx",
    "test_litert",
    "test_experiment",
    "test_native",
)


def pytest_ignore_collect(collection_path):
    """Leave the host-only files out when the tests run again on another backend."""
    if keras.backend.backend() != "tensorflow" and collection_path.name.startswith(HOST_ONLY):
        return True
    return None


def pytest_collection_modifyitems(items):
    """Long files first; skip what needs TensorFlow when another backend is chosen."""
    items.sort(key=lambda item: not item.path.name.startswith(LONG))
    backend = keras.backend.backend()
    if backend == "tensorflow":
        return
    for item in items:
        if item.get_closest_marker("tensorflow"):
            item.add_marker(pytest.mark.skip(reason=f"needs TensorFlow; the backend is {backend}"))


@pytest.fixture(autouse=True)
def fixed_seed():
    """Every test starts from the same seed, so that order and selection do not matter."""
    keras.utils.set_random_seed(0)


@pytest.fixture(scope="session")
def shared_data():
    """The folder of real images beside the repository; tests that need it skip where it is missing."""
    data = SHARED / "data"
    if not data.is_dir():
        pytest.skip("the folder of real images, ../shared/data, is not beside this checkout")
    return data
