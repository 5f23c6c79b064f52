"""The export: the same detections as the model, in the pixels that came in; nothing half-written."""

import numpy as np
import pytest
from tiny import random_batch, scatter_weights, tiny_config

import keras_maskrcnn as km
from keras_maskrcnn.demo import compare_export

pytestmark = pytest.mark.tensorflow


@pytest.fixture(scope="module")
def model():
    config = tiny_config(image_scale=None, min_size=96, max_size=150)
    return scatter_weights(km.MaskRCNN(config))


@pytest.fixture(scope="module")
def export(model, tmp_path_factory):
    return km.export_saved_model(model, tmp_path_factory.mktemp("export") / "model")


def test_call_predict_and_the_reloaded_export_agree(model, export):
    import tensorflow as tf

    # 96 high and 128 wide: no resizing and no padding, so that all three see the same pixels.
    images = random_batch([(96, 128)] * 2, (96, 128))["images"]
    called = {name: np.asarray(value) for name, value in model(images).items()}
    predicted = model.predict(images, verbose=0)
    served = tf.saved_model.load(export).signatures["serving_default"](images=tf.constant(images))
    assert called["valid"].all() and np.ptp(called["boxes"]) > 50
    for other in (predicted, served):
        for name, tolerance in (("boxes", 1e-3), ("scores", 1e-5), ("masks", 1e-4), ("labels", 0), ("valid", 0)):
            np.testing.assert_allclose(
                np.asarray(other[name]).astype("float32"), called[name].astype("float32"), atol=tolerance
            )
    assert served["num_detections"].numpy().tolist() == [10, 10]


@pytest.mark.parametrize("size", [(50, 70), (33, 500)])
def test_export_resizes_as_the_predictor_does_and_answers_in_source_pixels(model, export, size):
    image = np.random.default_rng(0).integers(0, 256, (1, *size, 3), dtype=np.uint8)
    errors = compare_export(model, export, image)
    assert errors["compared"] == 10
    assert errors["box_error"] < 1e-3 and errors["score_error"] < 1e-5


def test_only_stock_operators_are_in_the_graph(export):
    import tensorflow as tf

    graph = tf.saved_model.load(export).signatures["serving_default"].graph
    functions = [*graph.as_graph_def().library.function]
    used = {node.op for function in functions for node in function.node_def}
    used |= {node.op for node in graph.as_graph_def().node}
    called = {function.signature.name for function in functions}
    known = set(dir(tf.raw_ops))
    assert not {op for op in used - called if op not in known}


def test_an_export_is_not_overwritten_unasked_and_leaves_nothing_behind(model, export):
    before = sorted(path.name for path in export.parent.iterdir())
    with pytest.raises(ValueError, match="exists.*overwrite=True"):
        km.export_saved_model(model, export)
    km.export_saved_model(model, export, overwrite=True)
    assert sorted(path.name for path in export.parent.iterdir()) == before
    assert (export / "saved_model.pb").is_file()
