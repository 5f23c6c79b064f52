"""Export to ONNX, for onnxruntime and other runtimes: one file with standard operators.

Uses tf2onnx, as Keras' `model.export(format="onnx")` does. Keras runs all optimisers of tf2onnx, and two of them break
this graph: "reshape_optimizer" writes 0 for "same as the input", then "remove_back_to_back" changes the input of the
reshape. Called by users and by the command line.
"""

from keras_maskrcnn.host.files import write_atomically
from keras_maskrcnn.host.locks import locked_file
from keras_maskrcnn.serving.converting import INPUT, check_arguments, check_new, describe, need, trace

OPSET = 17


def export_onnx(model, path, input_dtype=None, opset=OPSET, overwrite=False):
    """Write a model as one .onnx file for images of any size. Boxes are in pixels of these images.

    Input `images` (B, H, W, C), not normalised, any B, H and W. Outputs, D = `max_detections` rows, M = `mask_size`:
        boxes    float32 (B, D, [x1, y1, x2, y2]), pixels of the input images
        scores   float32 (B, D), descending       labels  int32 (B, D), 0..K-1
        masks    float32 (B, D, M, M), probabilities in the frame of each box
        valid    bool (B, D), False rows hold zeros          num_detections  int32 (B,)
    The file's metadata holds class names, category ids and the fingerprint of the weights.

    Args:
        model: MaskRCNN, on the TensorFlow backend. Not changed; the file contains it with folded batch norm, in
            float32.
        path: output file, ending in .onnx.
        input_dtype: "uint8" or "float32"; None means "uint8" if the model's images are uint8, else "float32" in their
            range.
        opset: version of the ONNX operator set.
        overwrite: replace an existing file.

    Returns:
        The file as a pathlib.Path.

    Raises:
        ValueError: the backend is not TensorFlow, an argument is invalid, or the file exists and `overwrite` is False.
        ImportError: tf2onnx is not installed.
    """
    path, input_dtype = check_arguments(path, ".onnx", input_dtype, overwrite, model.config)
    onnx, _ = need("onnx", "onnx"), need("tf2onnx", "onnx")
    with locked_file(path):
        check_new(path, overwrite)
        traced = trace(model, input_dtype)  # holds the weights that the graph reads
        proto = _convert(traced.graph, opset)
        onnx.helper.set_model_props(proto, describe(model))
        _name_free_sizes(proto.graph)
        onnx.checker.check_model(proto)
        write_atomically(path, lambda partial: onnx.save_model(proto, partial))
    return path


def _convert(graph, opset):
    """Convert a concrete function of `images` that returns a dict to an onnx.ModelProto with the same names."""
    import tensorflow as tf
    from tf2onnx import optimizer, tf_loader, tfonnx

    inputs = [tensor.name for tensor in graph.inputs if tensor.dtype != tf.resource]
    outputs = [tensor.name for tensor in graph.outputs]
    names = dict(zip((*inputs, *outputs), (INPUT, *sorted(graph.structured_outputs))))
    frozen = tf_loader.from_function(graph, inputs, outputs)
    with tf.Graph().as_default() as imported:
        tf.import_graph_def(frozen, name="")
        converted = tfonnx.process_tf_graph(
            imported, opset=opset, input_names=inputs, output_names=outputs, tensors_to_rename=names
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


def _name_free_sizes(graph):
    """Give dynamic dimensions meaningful names instead of unk__123."""
    for value in (*graph.input, *graph.output):
        names = ("batch", "height", "width") if value.name == INPUT else ("batch",)
        for size, name in zip(value.type.tensor_type.shape.dim, names):
            if not size.dim_value:
                size.dim_param = name
