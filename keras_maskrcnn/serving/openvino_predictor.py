"""Predict with a folder of `export_openvino`, in OpenVINO; and what runs in OpenVINO at all.

Called by `keras-maskrcnn predict DIR`, by `onnx_predictor.py`, and by users who have an export but no `.keras` file.
"""

import json
import pathlib

from keras_maskrcnn.config import MaskRCNNConfig
from keras_maskrcnn.host.messages import argument
from keras_maskrcnn.inference.arguments import check_arguments, thresholds_of
from keras_maskrcnn.serving.converting import CONFIG, INPUT, need
from keras_maskrcnn.serving.export_predictor import ExportPredictor, drop_low_scores
from keras_maskrcnn.serving.openvino import MODEL

_PLACE = "framework"  # where OpenVINO puts the metadata of an .onnx file
_PRECISIONS = {"float32": "f32", "bfloat16": "bf16"}


class OpenVinoPredictor(ExportPredictor):
    """Finds the instances of images with an export for OpenVINO. Same interface as `Predictor`.

    In `stream`, images of one size share a batch if `batch_size` says so; without it each is alone.

    Args:
        path: folder of `export_openvino`.
        score_threshold: float; detections score more than this. At least the model's, which None means.
        nms_threshold: None: it is the model's.
        tile, overlap: as for `Predictor`.
        device: OpenVINO's name of where it computes: "CPU", "GPU", "AUTO".

    Raises:
        ValueError: the folder was not written by this package, or an argument is invalid.
        ImportError: openvino is not installed.
    """

    def __init__(self, path, score_threshold=None, nms_threshold=None, tile=None, overlap=0.2, device="CPU"):
        core, graph = _read_folder(path)
        config = _config_of(graph)
        super().__init__(config, score_threshold, nms_threshold, tile, overlap)
        check_thresholds(config, self.options)
        self._input_dtype = graph.inputs[0].element_type.to_dtype()
        precision = graph.get_rt_info([_PLACE, "computed_in"]).astype(str)
        self._run = drop_low_scores(compiled(core, graph, device, precision), score_threshold)

    def _detect(self, images):
        return self._run(images.astype(self._input_dtype, copy=False))


def read_openvino_config(path):
    """The MaskRCNNConfig of a folder of `export_openvino`. Raises ValueError if it is another folder."""
    return _config_of(_read_folder(path)[1])


def check_thresholds(config, options):
    """Refuse thresholds that the constants in a graph exclude. Options: dict, None for those not given."""
    if options["nms_threshold"] is not None:
        raise ValueError(
            "OpenVINO, and onnxruntime with a file for Triton, compute with the NMS threshold of the file, "
            f"{config.nms_threshold}. Received: nms_threshold={options['nms_threshold']}. Use an .onnx file in "
            "onnxruntime, or export a model with this threshold in its config."
        )
    check_arguments(float(thresholds_of(config).max()), options["score_threshold"])


def compiled(core, model, device, precision="float32"):
    """A function of images that runs OpenVINO.

    Args:
        core: openvino.Core. model: what it compiles: a graph, or the path of a file. device: str, OpenVINO's name.
        precision: "float32", or "bfloat16" where the device has it. OpenVINO's own choice is bfloat16 where it is fast.

    Raises:
        ValueError: there is no such device.
    """
    known = core.available_devices
    if device.split(":")[0].split(".")[0] not in {"AUTO", "MULTI", "HETERO", *(name.split(".")[0] for name in known)}:
        raise ValueError(
            f"{argument('device')} must be one of {[*known, 'AUTO']} on this machine. Received: {device!r}. "
            "OpenVINO finds a GPU or NPU only with its driver installed."
        )
    program = core.compile_model(model, device, {"INFERENCE_PRECISION_HINT": _PRECISIONS[precision]})
    names = [next(iter(output.get_names())) for output in program.outputs]
    return lambda images: dict(zip(names, program({INPUT: images}).values()))


def _read_folder(path):
    """OpenVINO's Core, and the graph in a folder."""
    openvino = need("openvino", "openvino")
    core, file = openvino.Core(), pathlib.Path(path) / MODEL
    try:
        graph = core.read_model(file)
        graph.get_rt_info([_PLACE, CONFIG])
    except RuntimeError as error:  # OpenVINO has no other
        raise ValueError(
            f"A folder that this package wrote for OpenVINO is needed, with its config in {MODEL}. Received: {path} "
            f"({' '.join(str(error).split())[:200]}). Export the model again: keras-maskrcnn export MODEL {path} "
            "--format openvino --overwrite."
        ) from error
    return core, graph


def _config_of(graph):
    return MaskRCNNConfig.from_dict(json.loads(graph.get_rt_info([_PLACE, CONFIG]).astype(str)))
