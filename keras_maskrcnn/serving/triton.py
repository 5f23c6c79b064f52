"""Export for NVIDIA's Triton Inference Server: the folder of one model in a model repository.

    config.pbtxt      inputs, outputs, dynamic batching, the onnxruntime backend; class names as parameters
    labels.txt        one class name a line, by label
    1/model.onnx      the graph of `export_onnx`; score, NMS and count limits are constants, the model's

Triton stacks requests of one image size into a batch. Its onnxruntime backend accepts optional inputs only of models
without batches (max_batch_size 0), so the limits are no inputs here. Called by users and by the command line.
"""

import json
import pathlib

import numpy as np

from keras_maskrcnn.host.files import write_folder
from keras_maskrcnn.host.locks import locked_file
from keras_maskrcnn.serving.converting import INPUT, check_graph_arguments, check_new_folder, describe, need
from keras_maskrcnn.serving.onnx import export_onnx

CONFIG, LABELS = "config.pbtxt", "labels.txt"
MAX_BATCH = 8
TYPES = {"bool": "BOOL", "uint8": "UINT8", "int32": "INT32", "int64": "INT64", "float32": "FP32"}  # of KServe, too


def export_triton(model, directory, max_batch=MAX_BATCH, input_dtype=None, overwrite=False):
    """Write a model as a folder for Triton.

    Inputs and outputs for each image as of `export_onnx`: `images` (H, W, C); boxes, scores, labels, masks, valid, and
    num_detections (1).

    Args:
        model: MaskRCNN, on the TensorFlow backend. Not changed.
        directory: folder of the model inside the repository; its name is the model's name on the server.
        max_batch: int, most images in a batch.
        input_dtype: as for `export_onnx`.
        overwrite: replace an existing folder.

    Returns:
        The folder as a pathlib.Path. The server's repository is the folder above it.

    Raises:
        ValueError: the backend is not TensorFlow, an argument is invalid, or the folder exists and may not be replaced.
        ImportError: tf2onnx is not installed.
    """
    directory = pathlib.Path(directory)
    if isinstance(max_batch, bool) or not isinstance(max_batch, int) or max_batch < 1:
        raise ValueError(f"max_batch must be a whole number above 0. Received: {max_batch!r}. For example {MAX_BATCH}.")
    check_new_folder(directory, CONFIG, overwrite)
    check_graph_arguments(directory, "triton", input_dtype, model.config)
    with locked_file(directory):
        write_folder(directory, lambda folder: _fill(folder, model, max_batch, input_dtype))
    return directory


def _fill(folder, model, max_batch, input_dtype):
    (folder / "1").mkdir(parents=True)
    path = export_onnx(model, folder / "1" / "model.onnx", input_dtype)
    graph = _fix_limits(path)
    (folder / CONFIG).write_text(config_text(graph, describe(model), max_batch), encoding="utf-8")
    (folder / LABELS).write_text("".join(f"{name}\n" for name in model.config.class_names), encoding="utf-8")


def _fix_limits(path):
    """Make the inputs that have defaults constants, in a file. Returns its graph."""
    onnx = need("onnx", "onnx")
    proto = onnx.load(str(path))
    kept = [value for value in proto.graph.input if value.name == INPUT]
    del proto.graph.input[:]
    proto.graph.input.extend(kept)
    onnx.checker.check_model(proto)
    onnx.save_model(proto, str(path))
    return proto.graph


def config_text(graph, described, max_batch):
    """The text of config.pbtxt: a ModelConfig of Triton's model_config.proto, without a name, which is the folder's.

    Args:
        graph: onnx.GraphProto whose inputs and outputs have the batch as first axis.
        described: dict of `describe`, for clients: it stands under `parameters`.
        max_batch: int.
    """
    tensors = [("input", value) for value in graph.input] + [("output", value) for value in graph.output]
    blocks = [f'backend: "onnxruntime"\nmax_batch_size: {max_batch}\ndynamic_batching {{ }}\n']
    blocks += [f"{kind} {{\n{_tensor_text(value)}}}\n" for kind, value in tensors]
    blocks += [
        f"parameters {{\n  key: {_quoted(key)}\n  value {{ string_value: {_quoted(text)} }}\n}}\n"
        for key, text in described.items()
        if key != "config"  # of training, too; model.onnx has it
    ]
    return "".join(blocks)


def _tensor_text(value):
    """Name, type and shape of an input or output, without the batch. An empty shape is written as one reshaped."""
    import onnx

    kind = value.type.tensor_type
    dtype = TYPES[np.dtype(onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type)).name]
    sizes = [size.dim_value or -1 for size in kind.shape.dim][1:]
    shape = f"[ {', '.join(map(str, sizes or [1]))} ]"
    reshape = "" if sizes else "  reshape { shape: [ ] }\n"
    return f"  name: {_quoted(value.name)}\n  data_type: TYPE_{dtype}\n  dims: {shape}\n{reshape}"


def _quoted(text):
    return json.dumps(text, ensure_ascii=False)
