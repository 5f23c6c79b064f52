"""The samples as modules, an export of a small model, and loopback servers for it."""

import functools
import pathlib
import sys
import types

import pytest
from PIL import Image
from soak import noise
from tiny import scatter_weights, tiny_config

HERE = pathlib.Path(__file__).parent
SAMPLE = HERE.parents[1] / "samples" / "serving"
CLASS_NAMES = ("cat", "dog", "bird")


@pytest.fixture(scope="session")
def samples():
    """The samples' folder, importable, as it is for a script that is started from it."""
    sys.path.insert(0, str(SAMPLE))
    yield SAMPLE
    sys.path.remove(str(SAMPLE))


@pytest.fixture(scope="session")
def export(tmp_path_factory):
    """A folder with versions 1 and 2; weights are scattered, so that there are detections everywhere."""
    import keras_maskrcnn as km

    folder = tmp_path_factory.mktemp("export")
    config = tiny_config(image_scale=None, min_size=64, max_size=110, class_names=CLASS_NAMES, max_detections=6)
    first = km.export_saved_model(scatter_weights(km.MaskRCNN(config)), folder)
    (folder / "2").symlink_to(first)
    return folder


@pytest.fixture(scope="module")
def servable(export):
    """All versions with batching as in the sample's batching_parameters.txt.

    TensorFlow's graph optimiser is off: it takes seconds for each signature, and the server process of the slow test
    has it on.
    """
    import tensorflow as tf
    from servable import Servable

    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})
    yield Servable(export, "maskrcnn", max_batch_size=4, batch_timeout_micros=5000, labels={"stable": 1})
    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": False})


@pytest.fixture(scope="module")
def server(servable):
    """The servable behind gRPC and REST, in threads of this process."""
    import loopback

    service, port, http = loopback.start(servable)
    yield types.SimpleNamespace(grpc=f"127.0.0.1:{port}", rest=f"http://127.0.0.1:{http.server_port}")
    http.shutdown()
    service.stop(None)


@pytest.fixture(scope="module")
def signatures(servable):
    """The signatures as functions of arrays, without server and batching."""
    import tensorflow as tf

    def call(signature, **inputs):
        outputs = signature(**{name: tf.constant(value) for name, value in inputs.items()})
        return {name: value.numpy() for name, value in outputs.items()}

    return {name: functools.partial(call, signature) for name, signature in servable.signatures[1].items()}


@pytest.fixture(scope="module")
def clients(samples, server):
    """The three ways to ask: REST in both layouts, gRPC."""
    from grpc_client import GrpcModel
    from rest_client import RestModel

    return {
        "row": RestModel(server.rest, "maskrcnn", layout="row"),
        "column": RestModel(server.rest, "maskrcnn", layout="column"),
        "grpc": GrpcModel(server.grpc, "maskrcnn"),
    }


@pytest.fixture(scope="session")
def photo(tmp_path_factory):
    """A JPEG file, stored turned by 90 degrees with the orientation in its EXIF."""
    path = tmp_path_factory.mktemp("photo") / "photo.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(noise(5, (150, 70))).save(path, exif=exif)
    return path
