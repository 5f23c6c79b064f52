"""Predict with an ONNX file of `export_onnx`, in onnxruntime or OpenVINO.

Called by `keras-maskrcnn predict MODEL.onnx`, and by users who have an export but no `.keras` file. Imports TensorFlow
only through Keras.
"""

import json
import pathlib

import numpy as np

from keras_maskrcnn.config import MaskRCNNConfig
from keras_maskrcnn.serving.converting import CONFIG, need
from keras_maskrcnn.serving.export_predictor import ExportPredictor


class OnnxPredictor(ExportPredictor):
    """Finds the instances of images with an ONNX file. Same interface as `Predictor`.

    In `stream`, images of one size share a batch if `batch_size` says so; without it each is alone.

    Args:
        path: .onnx file that this package wrote.
        score_threshold: float in 0..1; detections score more than this. None means the model's threshold.
        nms_threshold: float in 0..1, or None for the model's threshold.
        tile, overlap: as for `Predictor`.
        runtime: "onnxruntime" or "openvino", which computes with the model's thresholds only.
        device: where it computes. In onnxruntime a provider without "ExecutionProvider": "CPU", "CUDA", "TensorRT"; in
            OpenVINO a device: "CPU", "GPU", "AUTO".

    Raises:
        ValueError: the file was not written by this package, or an argument is invalid.
        ImportError: the runtime is not installed.
    """

    def __init__(
        self,
        path,
        score_threshold=None,
        nms_threshold=None,
        tile=None,
        overlap=0.2,
        runtime="onnxruntime",
        device="CPU",
    ):
        if runtime not in RUNTIMES:
            raise ValueError(f"runtime must be one of {tuple(RUNTIMES)}. Received: {runtime!r}.")
        config, self._input_dtype = _read_file(pathlib.Path(path))
        super().__init__(config, score_threshold, nms_threshold, tile, overlap)
        self._run = RUNTIMES[runtime](str(path), self.options, device)

    def _detect(self, images):
        return self._run(images.astype(self._input_dtype, copy=False))


def read_config(path):
    """The MaskRCNNConfig of an .onnx file of this package. Raises ValueError if it is another file."""
    return _read_file(pathlib.Path(path))[0]


def _read_file(path):
    """The MaskRCNNConfig and the dtype of the images of an .onnx file."""
    onnx = need("onnx", "onnx")
    try:
        proto = onnx.load(str(path), load_external_data=False)
        fields = {entry.key: entry.value for entry in proto.metadata_props}[CONFIG]
    except FileNotFoundError:
        raise ValueError(f"The .onnx file must exist. Received: {path}. Check its path.") from None
    except Exception as error:  # protobuf's own for other bytes, KeyError for other packages' files
        raise ValueError(
            f"An .onnx file that this package wrote is needed, with its config in the metadata. Received: {path} "
            f"({error}). Export the model again: keras-maskrcnn export MODEL {path} --format onnx --overwrite."
        ) from error
    dtype = onnx.helper.tensor_dtype_to_np_dtype(proto.graph.input[0].type.tensor_type.elem_type)
    return MaskRCNNConfig.from_dict(json.loads(fields)), dtype


def _onnxruntime(path, options, device):
    """A function of images that runs onnxruntime."""
    onnxruntime = need("onnxruntime", "onnx")
    providers = {name.lower(): name for name in onnxruntime.get_available_providers()}
    provider = providers.get(f"{device}ExecutionProvider".lower())
    if provider is None:
        known = [name.removesuffix("ExecutionProvider") for name in providers.values()]
        raise ValueError(f"device must be one of {known} in this onnxruntime. Received: {device!r}.")
    quiet = onnxruntime.SessionOptions()
    quiet.log_severity_level = 3  # it warns of inputs that have defaults
    session = onnxruntime.InferenceSession(path, quiet, providers=[provider])
    names = [output.name for output in session.get_outputs()]
    given = {name: np.array(value, np.float32) for name, value in options.items() if value is not None}
    return lambda images: dict(zip(names, session.run(names, {"images": images, **given})))


def _openvino(path, options, device):
    """A function of images that runs OpenVINO."""
    if any(value is not None for value in options.values()):
        given = {name: value for name, value in options.items() if value is not None}
        raise ValueError(
            f"OpenVINO computes with the thresholds of the file. Received: {given}. "
            'Use runtime="onnxruntime", or export a model with these thresholds in its config.'
        )
    compiled = need("openvino", "openvino").Core().compile_model(path, device)
    names = [next(iter(output.get_names())) for output in compiled.outputs]
    return lambda images: dict(zip(names, compiled({"images": images}).values()))


RUNTIMES = {"onnxruntime": _onnxruntime, "openvino": _openvino}
