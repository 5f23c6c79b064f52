"""Warm-up requests for TF Serving: `assets.extra/tf_serving_warmup_requests`.

The first call of a graph optimises it, which takes seconds. TF Serving sends these requests to a new version before
clients do. The file is a TFRecord of `tensorflow.serving.PredictionLog`. TensorFlow provides only the innermost message
(TensorProto); the outer ones are encoded here field by field, so that exports do not depend on
tensorflow-serving-api. The tests read them with that package. Called by `saved_model.py`.
"""

import io
import pathlib

import numpy as np
import tensorflow as tf
from PIL import Image

WARMUP_FILE = "assets.extra/tf_serving_warmup_requests"  # required file name
_SIZE = (480, 640)  # height, width

# Field numbers in tensorflow_serving/apis: prediction_log.proto, predict.proto, model.proto; and of map entries.
_PREDICTION_LOG_PREDICT_LOG = 6
_PREDICT_LOG_REQUEST = 1
_REQUEST_MODEL_SPEC, _REQUEST_INPUTS = 1, 2
_MODEL_SPEC_NAME, _MODEL_SPEC_SIGNATURE = 1, 3
_MAP_KEY, _MAP_VALUE = 1, 2


def write_warmup(folder, signatures, model_name, config):
    """Write one request for each signature.

    Args:
        folder: folder of the SavedModel.
        signatures: dict from name to (function, dict from input name to TensorSpec).
        model_name: str, likely name of the model on the server; ignored during warm-up.
        config: MaskRCNNConfig.
    """
    pixels = (config.num_channels, config.image_dtype)
    path = pathlib.Path(folder) / WARMUP_FILE
    path.parent.mkdir(exist_ok=True)
    with tf.io.TFRecordWriter(str(path)) as writer:
        for name, (_, inputs) in signatures.items():
            tensors = {key: _example(key, spec, *pixels) for key, spec in inputs.items()}
            writer.write(prediction_log(model_name, name, tensors))


def prediction_log(model_name, signature, tensors):
    """A serialised PredictionLog with one PredictRequest.

    Args:
        model_name, signature: str.
        tensors: dict from input name to numpy array.

    Returns:
        bytes.
    """
    spec = _field(_MODEL_SPEC_NAME, model_name.encode()) + _field(_MODEL_SPEC_SIGNATURE, signature.encode())
    request = _field(_REQUEST_MODEL_SPEC, spec)
    for name, values in tensors.items():
        tensor = tf.make_tensor_proto(values).SerializeToString()
        request += _field(_REQUEST_INPUTS, _field(_MAP_KEY, name.encode()) + _field(_MAP_VALUE, tensor))
    return _field(_PREDICTION_LOG_PREDICT_LOG, _field(_PREDICT_LOG_REQUEST, request))


def _field(number, payload):
    """A length-delimited field (wire type 2) of a protocol buffer."""
    return _varint(number << 3 | 2) + _varint(len(payload)) + payload


def _varint(value):
    text = bytearray()
    while value > 127:
        text.append(value & 127 | 128)
        value >>= 7
    return bytes([*text, value])


def _example(name, spec, channels, image_dtype):
    """A value for an input of one image. A threshold of 0 keeps boxes, so that the mask head runs too."""
    if name == "images":
        return _picture(spec.shape[-1])[None].astype(spec.dtype.as_numpy_dtype)
    if name == "image_bytes":
        file = io.BytesIO()
        picture = _picture(channels)
        picture = picture.astype(np.uint16) * 257 if image_dtype == "uint16" else picture
        # Models for images other than RGB read only PNG, or gray files.
        Image.fromarray(picture[..., 0] if channels == 1 else picture).save(file, "JPEG" if channels == 3 else "PNG")
        return np.array([file.getvalue()], object)
    value = {"score_threshold": 0.0, "nms_threshold": -1.0, "max_detections": -1}[name]
    return np.array([value], spec.dtype.as_numpy_dtype)


def _picture(channels):
    """Squares of noise, uint8 (height, width, channels)."""
    rng = np.random.default_rng(0)
    squares = rng.integers(0, 256, (_SIZE[0] // 40, _SIZE[1] // 40, channels), np.uint8)
    return squares.repeat(40, axis=0).repeat(40, axis=1)
