"""A predictor for whatever a trained model is kept in, and what its file says without building it.

Called by `rows.py`, `on_ray.py`, the command line, users, and `Predictor` for paths.
"""

import hashlib
import json
import pathlib
import types
import zipfile

from keras_maskrcnn.inference.arguments import USUAL_SCORE, check_arguments
from keras_maskrcnn.inference.opening import opens_paths
from keras_maskrcnn.runs.folder import find_model


def usual_score(tuned):
    """The score threshold where nobody gives one: None, the thresholds of classes, of a tuned model; else 0.5."""
    return None if tuned else USUAL_SCORE


@opens_paths
def open_predictor(path, score_threshold=None, tile=None, overlap=0.2, usual=False, **options):
    """Open a model for prediction: what every engine does in the process that computes.

    Args:
        path: `.keras` file, run folder, .onnx file, .tflite file, folder of an export for OpenVINO, or SavedModel (the
            folder of one version, or of all versions).
        score_threshold, tile, overlap: as for `Predictor`.
        usual: whether a `score_threshold` of None stands for `usual_score`.
        **options: of the predictor of an export, such as nms_threshold; runtime and device as for `OnnxPredictor`.

    Returns:
        An ImagePredictor: Predictor, SavedModelPredictor, OnnxPredictor, OpenVinoPredictor or LitertPredictor.

    Raises:
        ValueError: there is no such model, or an argument is invalid.
        TypeError: an option that there is not for such a file.
    """
    if usual and score_threshold is None:
        score_threshold = usual_score(read_fields(path).tuned)
    if is_onnx(path):
        from keras_maskrcnn.serving.onnx_predictor import OnnxPredictor

        return OnnxPredictor(path, score_threshold, tile=tile, overlap=overlap, **options)
    if is_openvino(path):
        from keras_maskrcnn.serving.openvino_predictor import OpenVinoPredictor

        return OpenVinoPredictor(path, score_threshold, tile=tile, overlap=overlap, **options)
    if is_litert(path):
        from keras_maskrcnn.serving.litert_predictor import LitertPredictor

        return LitertPredictor(path, score_threshold, tile=tile, overlap=overlap, **options)
    if is_saved_model(path):
        from keras_maskrcnn.serving.saved_model_predictor import SavedModelPredictor

        return SavedModelPredictor(path, score_threshold, tile=tile, overlap=overlap, **options)
    from keras_maskrcnn.inference.predictor import Predictor
    from keras_maskrcnn.weights.models import load_model

    return Predictor(load_model(find_model(path)), score_threshold, tile, overlap, **options)


def check_options(path, score_threshold=None, tile=None, overlap=0.2):
    """Raise what `open_predictor` would raise about these arguments, before processes are started for it."""
    any_score = is_onnx(path) or is_litert(path) or (is_saved_model(path) and not is_openvino(path))
    lowest = 0 if any_score else read_fields(path).lowest_score
    check_arguments(lowest, score_threshold, tile, overlap)


def read_fields(path):
    """What the file of a model says about its images: an object with num_channels, image_dtype, lowest_score, tuned."""
    if is_onnx(path):
        from keras_maskrcnn.serving.onnx_predictor import read_config

        return read_config(path)
    if is_openvino(path):
        from keras_maskrcnn.serving.openvino_predictor import read_openvino_config

        return read_openvino_config(path)
    if is_litert(path):
        from keras_maskrcnn.serving.litert import read_litert_config

        return read_litert_config(path)
    if is_saved_model(path):
        from keras_maskrcnn.serving.assets import read_config
        from keras_maskrcnn.serving.saved_model import find_version

        return read_config(find_version(path))
    with zipfile.ZipFile(find_model(path)) as archive:
        fields = json.loads(archive.read("config.json"))["config"]["config"]
    calibrated = fields.get("calibration") is not None
    return types.SimpleNamespace(
        num_channels=len(fields["pixel_mean"]),
        image_dtype=fields["image_dtype"],
        lowest_score=0.0 if calibrated else fields["score_threshold"],
        tuned=calibrated or fields.get("class_thresholds") is not None,
    )


def is_onnx(path):
    """Whether a path is that of an .onnx file."""
    return pathlib.Path(path).suffix == ".onnx"


def is_openvino(path):
    """Whether a path is the folder of an export for OpenVINO."""
    return (pathlib.Path(path) / "model.xml").is_file()


def is_litert(path):
    """Whether a path is that of a LiteRT file."""
    return pathlib.Path(path).suffix == ".tflite"


def is_saved_model(path):
    """Whether a path is the folder of a SavedModel, or of its versions."""
    path = pathlib.Path(path)
    return (path / "saved_model.pb").is_file() or any(path.glob("[0-9]*/saved_model.pb"))


def digest_of(path):
    """SHA-256 of a model: of its file, or of all files of its folder with their names."""
    path = pathlib.Path(path)
    if is_openvino(path) or is_saved_model(path):
        files = sorted(file for file in path.rglob("*") if file.is_file())
    else:
        files = [path if is_onnx(path) or is_litert(path) else find_model(path)]
    digest = hashlib.sha256()
    for file in files:
        name = file.relative_to(path).as_posix() if len(files) > 1 else ""
        digest.update(f"{name}\0".encode("utf-8", "surrogatepass"))
        with open(file, "rb") as opened:
            while block := opened.read(2**20):
                digest.update(block)
    return digest.hexdigest()
