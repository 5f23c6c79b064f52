"""Export to ONNX, for onnxruntime, OpenVINO and other runtimes: one file of standard operators, without loops.

`make_onnx` makes the graph, `quantizing.py` its form in int8, `openvino.py` the form of OpenVINO.

Uses tf2onnx, as Keras' `model.export(format="onnx")` does. Keras runs all optimisers of tf2onnx, and two of them break
this graph: "reshape_optimizer" writes 0 for "same as the input", then "remove_back_to_back" changes the input of the
reshape. Called by users and by the command line.
"""

import numpy as np

from keras_maskrcnn.host.files import write_atomically
from keras_maskrcnn.host.locks import locked_file
from keras_maskrcnn.host.messages import argument
from keras_maskrcnn.serving.converting import (
    INPUT,
    check_arguments,
    check_dtype,
    check_new,
    describe,
    need,
    trace,
)
from keras_maskrcnn.serving.quantizing import quantize

OPSET = 17  # the default and the oldest


def export_onnx(model, path, input_dtype=None, opset=OPSET, overwrite=False, dtype=None, calibration=None):
    """Write a model as one .onnx file for images of any size. Boxes are in pixels of these images.

    Input `images` (B, H, W, C), not normalised, any B, H and W. Three more inputs need not be given: `score_threshold`
    and `nms_threshold` float32 (), `max_detections` int32 (), at most the model's. Their defaults, also for negative
    numbers, are the model's; the score's is -1 if `tune` gave the model thresholds of classes. Outputs, D = the model's
    `max_detections` rows, M = `mask_size`:
        boxes    float32 (B, D, [x1, y1, x2, y2]), pixels of the input images
        scores   float32 (B, D), descending       labels  int32 (B, D), 0..K-1
        masks    float32 (B, D, M, M), probabilities in the frame of each box
        valid    bool (B, D), False rows hold zeros          num_detections  int32 (B,)
    The file's metadata holds class names, category ids and the fingerprint of the weights.

    Args:
        model: MaskRCNN, on the TensorFlow backend. Not changed; the file contains it with folded batch norm.
        path: output file, ending in .onnx.
        input_dtype: "uint8" or "float32"; None means "uint8" if the model's images are uint8, else "float32" in their
            range.
        opset: version of the ONNX operator set, 17 or later, as far as the installed tf2onnx knows them.
        overwrite: replace an existing file.
        dtype: None or "float32"; "float16": convolutions and dense layers have weights and results in float16, boxes,
            NMS and scores in float32. Half the file; a gain on GPUs. onnxruntime's CPU provider computes in float32.
        calibration: images, as `Predictor` takes them: convolutions and dense layers are computed in int8, with ranges
            from these images (`quantizing.py`). A quarter of the file.

    Returns:
        The file as a pathlib.Path.

    Raises:
        ValueError: the backend is not TensorFlow, an argument is invalid, or the file exists and `overwrite` is False.
        ImportError: tf2onnx is not installed.
    """
    path, input_dtype = check_arguments(path, ".onnx", input_dtype, overwrite, model.config)
    check_dtype(dtype, (None, "float32", "float16"), calibration)
    onnx = need("onnx", "onnx")
    check_opset(opset)
    with locked_file(path):
        check_new(path, overwrite)
        proto = make_onnx(model, input_dtype, opset, dtype, calibration)
        write_atomically(path, lambda partial: onnx.save_model(proto, partial))
    return path


def check_opset(opset):
    """Refuse a version of the operator set that the installed packages cannot write."""
    onnx, tf2onnx = need("onnx", "onnx"), need("tf2onnx", "onnx")
    newest = min(max(tf2onnx.constants.OPSET_TO_IR_VERSION), onnx.defs.onnx_opset_version())
    if isinstance(opset, bool) or not isinstance(opset, int) or not OPSET <= opset <= newest:
        raise ValueError(
            f"{argument('opset')} must be a whole number in {OPSET}..{newest}: what tf2onnx {tf2onnx.__version__} and "
            f"onnx {onnx.__version__} can write. Received: {opset!r}. Leave it out for {OPSET}."
        )


def make_onnx(model, input_dtype, opset=OPSET, dtype=None, calibration=None, **described):
    """The onnx.ModelProto of a model, checked. Args: those of `export_onnx`, checked; described: more metadata."""
    onnx = need("onnx", "onnx")
    traced = trace(model, input_dtype, dtype=dtype or "float32")  # holds the weights that the graph reads
    proto = _convert(traced.graph, opset)
    cancel_transposes(proto.graph)
    if calibration is not None:
        proto = quantize(proto, model.config, calibration)
    _set_defaults(proto.graph, model.config)
    weights = "float16" if dtype == "float16" else "float32" if calibration is None else "int8"
    del proto.metadata_props[:]
    onnx.helper.set_model_props(proto, describe(model) | {"weights": weights} | described)
    _name_free_sizes(proto.graph)
    _drop_unused_domains(proto)
    onnx.checker.check_model(proto, full_check=True)
    return proto


def _convert(graph, opset):
    """Convert a concrete function of `images` that returns a dict to an onnx.ModelProto with the same names."""
    import tensorflow as tf
    from tf2onnx import optimizer, tf_loader, tfonnx

    from keras_maskrcnn.backend.portable import ONNX_NMS, ONNX_ROI_ALIGN

    placeholders = [tensor for tensor in graph.inputs if tensor.dtype != tf.resource]
    inputs, outputs = ([tensor.name for tensor in tensors] for tensors in (placeholders, graph.outputs))
    wanted = [each.op.name for each in placeholders] + sorted(graph.structured_outputs)
    names = dict(zip((*inputs, *outputs), wanted))
    frozen = tf_loader.from_function(graph, inputs, outputs)
    with tf.Graph().as_default() as imported:
        tf.import_graph_def(frozen, name="")
        operators = imported.get_operations()
        shapes = {op.outputs[0].name: [None, 3] for op in operators if op.type == ONNX_NMS}
        shapes |= {op.outputs[0].name: [None] * 4 for op in operators if op.type == ONNX_ROI_ALIGN}
        converted = tfonnx.process_tf_graph(
            imported,
            opset=opset,
            input_names=inputs,
            output_names=outputs,
            tensors_to_rename=names,
            shape_override=shapes,
            custom_op_handlers={
                ONNX_NMS: (_write_nms, []),
                ONNX_ROI_ALIGN: (_write_roi_align, []),
                "SelectV2": (_write_where, []),
            },
        )
    chosen = {
        "optimize_transpose": optimizer.TransposeOptimizer,
        "fold_constants": optimizer.ConstFoldOptimizer,
        "merge_duplication": optimizer.MergeDuplicatedNodesOptimizer,
        "remove_identity": optimizer.IdentityOptimizer,
    }
    # Do not catch errors: to do so, tf2onnx copies the graph with all weights before each step.
    optimized = optimizer.optimize_graph(converted, catch_errors=False, optimizers=chosen)
    return optimized.make_model("keras-maskrcnn")


def _write_nms(graph, node, name, _):
    """Write ONNX's operator in the place that `portable.onnx_nms` keeps for it."""
    _write(graph, node, "NonMaxSuppression", node.input, node.output_shapes)


def _write_where(graph, node, name, _):
    """Write `tf.where` as Where. tf2onnx multiplies and adds, which lets NaN through."""
    _write(graph, node, "Where", node.input, node.output_shapes)


def _write(graph, node, kind, inputs, shapes, **attributes):
    """Put an operator of ONNX in the place of a node."""
    name, outputs, dtypes = node.name, node.output, node.output_dtypes
    graph.remove_node(name)
    graph.make_node(kind, inputs, name=name, outputs=outputs, shapes=shapes, dtypes=dtypes, attr=attributes)


def _write_roi_align(graph, node, name, _):
    """Write ONNX's operator in the place that `portable.onnx_roi_align` keeps for it."""
    scale, *counts = node.inputs[3].get_tensor_value()
    height, width, ratio, aligned = map(int, counts)
    channels = graph.get_shape(node.input[0])[1]
    _write(
        graph,
        node,
        "RoiAlign",
        node.input[:3],
        [[-1, channels, height, width]],
        spatial_scale=float(scale),
        output_height=height,
        output_width=width,
        sampling_ratio=ratio,
        coordinate_transformation_mode="half_pixel" if aligned else "output_half_pixel",
    )


def cancel_transposes(graph):
    """Remove pairs of transposes that undo each other, of which tf2onnx leaves many, in an onnx.GraphProto.

    Between a convolution and the next they would be in the way of int8, and cost time in runtimes that keep them.
    """
    # One without `perm` reverses the axes; no layout of images does.
    makers = {node.output[0]: node for node in graph.node if node.op_type == "Transpose" and node.attribute}
    stands_for = {}
    for name, node in makers.items():
        first = makers.get(node.input[0])
        if first is not None:
            inner, outer = first.attribute[0].ints, node.attribute[0].ints
            if [inner[axis] for axis in outer] == sorted(inner):
                stands_for[name] = stands_for.get(first.input[0], first.input[0])
    for node in graph.node:
        node.input[:] = [stands_for.get(name, name) for name in node.input]
    for _ in range(2):  # the second ones, then the first ones
        used = {name for node in graph.node for name in node.input} | {value.name for value in graph.output}
        kept = [node for node in graph.node if node.op_type != "Transpose" or node.output[0] in used]
        del graph.node[:]
        graph.node.extend(kept)


def _set_defaults(graph, config):
    """Give the scalar inputs the model's values: an initializer of an input's name is its default."""
    from onnx import numpy_helper

    from keras_maskrcnn.serving.signatures import own_value

    for value in graph.input:
        if value.name != INPUT:
            default = np.array(own_value(config, value.name), "int32" if value.name == "max_detections" else "float32")
            graph.initializer.append(numpy_helper.from_array(default, value.name))


def _name_free_sizes(graph):
    """Give dynamic dimensions meaningful names instead of unk__123."""
    for value in (*graph.input, *graph.output):
        names = ("batch", "height", "width") if value.name == INPUT else ("batch",)
        for size, name in zip(value.type.tensor_type.shape.dim, names):
            if not size.dim_value:
                size.dim_param = name


def _drop_unused_domains(proto):
    """Leave out the operator sets of which the graph has no operator: tf2onnx names that of machine learning always."""
    used = [entry for entry in proto.opset_import if entry.domain in {node.domain for node in proto.graph.node}]
    del proto.opset_import[:]
    proto.opset_import.extend(used)
