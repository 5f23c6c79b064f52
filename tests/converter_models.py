"""A Mask R-CNN that converts in seconds and the comparison of what came out with it; for test_onnx and test_litert."""

import numpy as np
from tiny import plain_backbone, scatter_weights, tiny_config

import keras_maskrcnn as km
from keras_maskrcnn import cli


def small_model(**overrides):
    """Plain convolutions as the backbone; resizes, and finds nothing in some images and all rows in others."""
    config = tiny_config(**{"image_scale": None, "min_size": 96, "max_size": 150, "score_threshold": 0.37} | overrides)
    model = scatter_weights(km.MaskRCNN(config, backbone=plain_backbone()))
    model.run_eagerly = True  # answers a dozen images before a graph of it is traced
    return model


def export_by_command(model, target, *options):
    """`keras-maskrcnn export` of the saved model; returns the target."""
    source = target.with_suffix(".keras")
    model.save(source)
    assert cli.main(["export", str(source), str(target), *options]) == cli.SUCCESS
    source.unlink()
    return target


def noise(height, width, seed=0):
    """One image, uint8 (h, w, 3)."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def assert_same(answer, row, found, boxes=2e-3, scores=2e-5, masks=1e-4):
    """Compare a row of a converted model's outputs with what Predictor finds, row by row, padding included."""
    count = len(found)
    assert answer["num_detections"][row] == count and answer["valid"][row].tolist() == [True] * count + [False] * (
        len(answer["valid"][row]) - count
    )
    np.testing.assert_allclose(answer["boxes"][row, :count], found.boxes, atol=boxes)
    np.testing.assert_allclose(answer["scores"][row, :count], found.scores, atol=scores)
    np.testing.assert_array_equal(answer["labels"][row, :count], found.labels)
    np.testing.assert_allclose(answer["masks"][row, :count], found.box_masks, atol=masks)
    for name in ("boxes", "scores", "labels", "masks"):
        assert not answer[name][row, count:].any()


# What `fixed_graph` finds in every image: numbers that bfloat16 has as well.
FIXED = {
    "boxes": [[8, 16, 40, 64], [3, 2, 90, 50], [0, 0, 30, 20]],
    "scores": [0.875, 0.5, 0.4375],
    "labels": [1, 2, 0],
}


def fixed_graph(model, **described):
    """An onnx.ModelProto with the images, outputs and metadata of an export, for tests of what is packed around it."""
    import onnx

    from keras_maskrcnn.serving.converting import describe

    config, make, count = model.config, onnx.helper.make_node, len(FIXED["scores"])
    rows, side = config.max_detections, config.mask_size
    padded = {name: np.zeros((rows, 4)[: 1 + (name == "boxes")], np.float32) for name in FIXED}
    for name, values in FIXED.items():
        padded[name][:count] = values
    masks = np.zeros((rows, side, side), np.float32)
    masks[:count, : side // 2] = 1
    outputs = padded | {"labels": padded["labels"].astype(np.int32), "masks": masks, "valid": np.arange(rows) < count}
    outputs |= {"num_detections": np.array(count, np.int32)}
    nodes, tensors, values = [make("Shape", ["images"], ["batch"], start=0, end=1)], [], []
    for name, array in outputs.items():
        shape = np.array(array.shape, np.int64)
        tensors += [
            onnx.numpy_helper.from_array(each, name + end) for each, end in ((array, " of one"), (shape, " row"))
        ]
        nodes.append(make("Concat", ["batch", f"{name} row"], [f"{name} shape"], axis=0))
        nodes.append(make("Expand", [f"{name} of one", f"{name} shape"], [name]))
        dtype = onnx.helper.np_dtype_to_tensor_dtype(array.dtype)
        values.append(onnx.helper.make_tensor_value_info(name, dtype, ["batch", *array.shape]))
    images = onnx.helper.make_tensor_value_info("images", onnx.TensorProto.UINT8, ["batch", "height", "width", 3])
    graph = onnx.helper.make_graph(nodes, "fixed", [images], values, tensors)
    proto = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    onnx.helper.set_model_props(proto, describe(model) | {"weights": "float32"} | described)
    onnx.checker.check_model(proto, full_check=True)
    return proto
