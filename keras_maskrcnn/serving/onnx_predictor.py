"""Predict with an ONNX file of `export_onnx`, in onnxruntime or OpenVINO.

Called by `keras-maskrcnn predict MODEL.onnx`, and by users who have an export but no `.keras` file. Imports TensorFlow
only through Keras.
"""

import json
import pathlib

import numpy as np

from keras_maskrcnn.config import MaskRCNNConfig
from keras_maskrcnn.host.messages import argument
from keras_maskrcnn.serving.converting import CONFIG, need
from keras_maskrcnn.serving.export_predictor import ExportPredictor, drop_low_scores
from keras_maskrcnn.serving.openvino_predictor import check_thresholds, compiled

RUNTIMES = ("onnxruntime", "openvino")
_EXTRA = {  # what has the providers that onnxruntime's own package lacks
    "cuda": "pip install onnxruntime-gpu, instead of onnxruntime",
    "tensorrt": "pip install onnxruntime-gpu, instead of onnxruntime, and TensorRT",
    "openvino": 'runtime="openvino" (--engine openvino) needs no provider',
    "dml": "pip install onnxruntime-directml, instead of onnxruntime",
}


class OnnxPredictor(ExportPredictor):
    """Finds the instances of images with an ONNX file. Same interface as `Predictor`.

    In `stream`, images of one size share a batch if `batch_size` says so; without it each is alone.

    Args:
        path: .onnx file that this package wrote.
        score_threshold: float in 0..1; detections score more than this. None means the model's threshold.
        nms_threshold: float in 0..1, or None for the model's threshold.
        tile, overlap: as for `Predictor`.
        runtime: "onnxruntime" or "openvino", in which `score_threshold` cannot be below the model's, and
            `nms_threshold` is the model's.
        device: where it computes. In onnxruntime a provider without "ExecutionProvider": "CPU", "CUDA", "TensorRT"
            (which leaves to "CUDA" and "CPU" what it cannot do); in OpenVINO a device: "CPU", "GPU", "AUTO".

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
            raise ValueError(f"runtime must be one of {RUNTIMES}. Received: {runtime!r}.")
        config, self._input_dtype = _read_file(pathlib.Path(path))
        super().__init__(config, score_threshold, nms_threshold, tile, overlap)
        if runtime == "openvino":
            check_thresholds(config, self.options)
            self._run = drop_low_scores(
                compiled(need("openvino", "openvino").Core(), str(path), device), score_threshold
            )
        else:
            self._run = _onnxruntime(path, config, self.options, device)

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


def _onnxruntime(path, config, options, device):
    """A function of images that runs onnxruntime. Of a file for Triton the thresholds are constants."""
    onnxruntime = need("onnxruntime", "onnx")
    quiet = onnxruntime.SessionOptions()
    quiet.log_severity_level = 3  # it warns of inputs that have defaults
    session = onnxruntime.InferenceSession(str(path), quiet, providers=_providers(onnxruntime, device))
    names = [output.name for output in session.get_outputs()]
    if session.get_overridable_initializers():
        given = {name: np.array(value, np.float32) for name, value in options.items() if value is not None}
        return lambda images: dict(zip(names, session.run(names, {"images": images, **given})))
    check_thresholds(config, options)
    run = lambda images: dict(zip(names, session.run(names, {"images": images})))  # noqa: E731
    return drop_low_scores(run, options["score_threshold"])


def _providers(onnxruntime, device):
    """The providers for a device, in the order in which they may take operators."""
    there = {name.removesuffix("ExecutionProvider").lower(): name for name in onnxruntime.get_available_providers()}
    if str(device).lower() not in there:
        known = [name.removesuffix("ExecutionProvider") for name in there.values()]
        remedy = _EXTRA.get(str(device).lower(), "Take one of them")
        raise ValueError(
            f"{argument('device')} must be one of {known}: the providers of the installed onnxruntime "
            f"{onnxruntime.__version__}. Received: {device!r}. {remedy}."
        )
    wanted = [str(device).lower(), *(["cuda"] if str(device).lower() == "tensorrt" else []), "cpu"]
    return [there[name] for name in dict.fromkeys(wanted) if name in there]
