"""Export to LiteRT (TensorFlow Lite): one file for phones, boards and the interpreter, built-in operators only.

LiteRT plans its memory ahead, so the image size is fixed and the batch is 1; RoIAlign is made of gathers and NMS is
NonMaxSuppressionV4. Called by users and by the command line.
"""

from keras_maskrcnn.host.files import write_atomically
from keras_maskrcnn.serving.converting import check_arguments, trace

QUANTIZATIONS = (None, "float16", "dynamic_range")


def export_litert(model, path, image_size, input_dtype=None, quantization=None, overwrite=False):
    """Write a model as one .tflite file for images of one size, answered in their pixels.

    Signature `serving_default`. Input `images` (1, H, W, C), not normalised. Outputs, D = `max_detections` rows,
    M = `mask_size`:
        boxes    float32 (1, D, [x1, y1, x2, y2]), pixels of the image that came in
        scores   float32 (1, D), falling          labels  int32 (1, D), 0..K-1
        masks    float32 (1, D, M, M), probabilities in the frame of each box
        valid    bool (1, D), False rows hold zeros          num_detections  int32 (1,)
    No operator of TensorFlow itself (Flex) is in the file. All D rows are computed whatever the image holds: a smaller
    `max_detections` is faster.

    Args:
        model: MaskRCNN, on the TensorFlow backend. Stays as it is; the file holds it with batch norm folded.
        path: file to make, ending in .tflite.
        image_size: (height, width) of the images that will come in, image pixels; they are resized inside.
        input_dtype: "uint8" or "float32"; None: "uint8" where the model's images are, else "float32" of their values.
        quantization: None: float32. "float16": weights stored in half the size, computed in float32. "dynamic_range":
            weights of convolutions and dense layers int8, their inputs quantised on the fly; detections differ.
        overwrite: replace a file that is there already.

    Returns:
        The file as a pathlib.Path.

    Raises:
        ValueError: the backend is not TensorFlow, a wrong argument, or the file exists and `overwrite` is False.
    """
    _check_size(image_size)
    if quantization not in QUANTIZATIONS:
        raise ValueError(f"quantization is one of {QUANTIZATIONS}. Received: {quantization!r}.")
    path, input_dtype = check_arguments(path, ".tflite", input_dtype, overwrite, model.config)
    traced = trace(model, input_dtype, tuple(image_size))
    content = _convert(traced, quantization)
    write_atomically(path, lambda partial: partial.write_bytes(content))
    return path


def _check_size(image_size):
    whole = isinstance(image_size, (tuple, list)) and all(
        isinstance(side, int) and not isinstance(side, bool) and side > 0 for side in image_size
    )
    if not whole or len(image_size) != 2:
        raise ValueError(
            "LiteRT needs to know the size of the images that will come in: image_size is (height, width), two whole "
            f"numbers of pixels. Received: {image_size!r}. For example image_size=(480, 640), --image-size 480 640."
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
