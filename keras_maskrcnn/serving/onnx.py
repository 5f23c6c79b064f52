"""Export to ONNX, for onnxruntime and what else reads it (OpenVINO, TensorRT): one file, standard operators.

The conversion is tf2onnx's, which Keras' own `model.export(format="onnx")` calls too. That one runs all of tf2onnx's
optimisers, and two of them together break this graph: "reshape_optimizer" writes 0 for "as in the input", and
"remove_back_to_back" then gives the reshape another input. Called by users and by the command line.
"""

from keras_maskrcnn.host.files import write_atomically
from keras_maskrcnn.serving.converting import INPUT, check_arguments, describe, need, trace

OPSET = 17


def export_onnx(model, path, input_dtype=None, opset=OPSET, overwrite=False):
    """Write a model as one .onnx file that takes images of any size and answers in their pixels.

    Input `images` (B, H, W, C), not normalised, any B, H and W. Outputs, D = `max_detections` rows, M = `mask_size`:
        boxes    float32 (B, D, [x1, y1, x2, y2]), pixels of the images that came in
        scores   float32 (B, D), falling          labels  int32 (B, D), 0..K-1
        masks    float32 (B, D, M, M), probabilities in the frame of each box
        valid    bool (B, D), False rows hold zeros          num_detections  int32 (B,)
    Class names, category ids and the weights' fingerprint are in the file's metadata.

    Args:
        model: MaskRCNN, on the TensorFlow backend. Stays as it is; the file holds it with batch norm folded, in
            float32.
        path: file to make, ending in .onnx.
        input_dtype: "uint8" or "float32"; None: "uint8" where the model's images are, else "float32" of their values.
        opset: version of ONNX's operators.
        overwrite: replace a file that is there already.

    Returns:
        The file as a pathlib.Path.

    Raises:
        ValueError: the backend is not TensorFlow, a wrong argument, or the file exists and `overwrite` is False.
        ImportError: tf2onnx is not installed.
    """
    path, input_dtype = check_arguments(path, ".onnx", input_dtype, overwrite, model.config)
    onnx, _ = need("onnx", "onnx"), need("tf2onnx", "onnx")
    traced = trace(model, input_dtype)
    proto = _convert(traced.graph, opset)
    onnx.helper.set_model_props(proto, describe(model))
    _name_free_sizes(proto.graph)
    onnx.checker.check_model(proto)
    write_atomically(path, lambda partial: onnx.save_model(proto, partial))
    return path


def _convert(graph, opset):
    """A concrete function of `images` and a dict of outputs -> onnx.ModelProto with the same names."""
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
    # Errors are not caught: for that tf2onnx copies the graph with all weights before each step.
    optimized = optimizer.optimize_graph(converted, catch_errors=False, optimizers=chosen)
    return optimized.make_model("keras-maskrcnn")


def _name_free_sizes(graph):
    """Call the free sizes what they are, instead of unk__123."""
    for value in (*graph.input, *graph.output):
        names = ("batch", "height", "width") if value.name == INPUT else ("batch",)
        for size, name in zip(value.type.tensor_type.shape.dim, names):
            if not size.dim_value:
                size.dim_param = name
