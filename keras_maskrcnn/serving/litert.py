"""Export to LiteRT (TensorFlow Lite): one file with only built-in operators, for phones, boards and the interpreter.

LiteRT plans its memory in advance, so the image size is fixed and the batch size is 1. RoIAlign uses gathers, NMS uses
NonMaxSuppressionV4. Files that describe the model (`describe`) are appended to the graph as a zip archive, as LiteRT's
own metadata are: runtimes pass them by. Called by users and by the command line.
"""

import io
import json
import pathlib
import zipfile

from keras_maskrcnn.config import MaskRCNNConfig
from keras_maskrcnn.host.files import write_atomically
from keras_maskrcnn.host.locks import locked_file
from keras_maskrcnn.serving.converting import CONFIG, check_arguments, check_new, describe, trace

QUANTIZATIONS = (None, "float16", "dynamic_range")


def export_litert(model, path, image_size, input_dtype=None, quantization=None, overwrite=False):
    """Write a model as one .tflite file for images of one size. Boxes are in pixels of these images.

    Signature `serving_default`. Input `images` (1, H, W, C), not normalised. Outputs, D = `max_detections` rows,
    M = `mask_size`:
        boxes    float32 (1, D, [x1, y1, x2, y2]), pixels of the input image
        scores   float32 (1, D), descending       labels  int32 (1, D), 0..K-1
        masks    float32 (1, D, M, M), probabilities in the frame of each box
        valid    bool (1, D), False rows hold zeros          num_detections  int32 (1,)
    The file needs no TensorFlow (Flex) operators, and contains class names and config (`unzip -l` lists them). All D
    rows are always computed, so a smaller `max_detections` is faster.

    Args:
        model: MaskRCNN, on the TensorFlow backend. Not changed; the file contains it with folded batch norm.
        path: output file, ending in .tflite.
        image_size: (height, width) of the input images, image pixels; they are resized in the graph.
        input_dtype: "uint8" or "float32"; None means "uint8" if the model's images are uint8, else "float32" in their
            range.
        quantization: None: float32. "float16": weights are stored in float16, computed in float32. "dynamic_range":
            int8 weights of convolutions and dense layers, inputs quantised at run time; detections differ.
        overwrite: replace an existing file.

    Returns:
        The file as a pathlib.Path.

    Raises:
        ValueError: the backend is not TensorFlow, an argument is invalid, or the file exists and `overwrite` is False.
    """
    _check_size(image_size)
    if quantization not in QUANTIZATIONS:
        raise ValueError(f"quantization must be one of {QUANTIZATIONS}. Received: {quantization!r}.")
    path, input_dtype = check_arguments(path, ".tflite", input_dtype, overwrite, model.config)
    with locked_file(path):
        check_new(path, overwrite)
        content = _convert(trace(model, input_dtype, tuple(image_size)), quantization) + _described(model)
        write_atomically(path, lambda partial: partial.write_bytes(content))
    return path


def read_litert_config(path):
    """The MaskRCNNConfig of a .tflite file of this package. Raises ValueError if it is another file."""
    path = pathlib.Path(path)
    if not path.is_file():
        raise ValueError(f"The .tflite file must exist. Received: {path}. Check its path.")
    try:
        with zipfile.ZipFile(path) as archive:
            fields = archive.read(CONFIG)
    except (zipfile.BadZipFile, KeyError) as error:
        raise ValueError(
            f"A .tflite file with its config is needed, as this package writes it. Received: {path} ({error}). "
            f"Export it again: keras-maskrcnn export MODEL {path} --format litert --image-size H W --overwrite."
        ) from error
    return MaskRCNNConfig.from_dict(json.loads(fields))


def _described(model):
    """A zip archive with a file for each entry of `describe`, bytes. The same model gives the same bytes."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, text in describe(model).items():
            archive.writestr(zipfile.ZipInfo(name), text)  # dated 1980
    return buffer.getvalue()


def _check_size(image_size):
    whole = isinstance(image_size, (tuple, list)) and all(
        isinstance(side, int) and not isinstance(side, bool) and side > 0 for side in image_size
    )
    if not whole or len(image_size) != 2:
        raise ValueError(
            "LiteRT needs the size of the input images: image_size must be (height, width), two whole numbers of "
            f"pixels. Received: {image_size!r}. For example image_size=(480, 640), or --image-size 480 640."
        )


def _convert(traced, quantization):
    import tensorflow as tf

    converter = tf.lite.TFLiteConverter.from_concrete_functions([traced.graph], traced)
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
    if quantization is not None:
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if quantization == "float16":
        converter.target_spec.supported_types = [tf.float16]
    return converter.convert()
