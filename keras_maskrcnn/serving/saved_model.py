"""Export to a folder of numbered SavedModels for TF Serving. Each version is written atomically, by one process.

`signatures.py` defines inputs and outputs. The graph does everything from the bytes of a file to boxes in its pixels.
It uses only stock operators, because TF Serving does not load custom ones. Called by users and by the command line.
"""

import logging
import pathlib

import keras

from keras_maskrcnn import backend
from keras_maskrcnn.host.files import write_folder
from keras_maskrcnn.host.locks import locked_folder
from keras_maskrcnn.host.messages import argument
from keras_maskrcnn.serving.assets import write_assets
from keras_maskrcnn.serving.converting import check_rules
from keras_maskrcnn.serving.folding import optimize_for_inference

_LOG = logging.getLogger(__name__)


def export_saved_model(model, directory, version=None, overwrite=False, optimize=True, dtype=None):
    """Write a model as version `directory/version` for TensorFlow Serving.

    Args:
        model: MaskRCNN, on the TensorFlow backend.
        directory: the model's folder (TF Serving's `base_path`), with one folder per version.
        version: int >= 1. None: the highest existing version plus one, starting at 1.
        overwrite: replace the version if it exists, in one step. A server that has already loaded it keeps the old one.
        optimize: store batch norm folded into the convolutions (`optimize_for_inference`), as the model does at each
            call. The model itself does not change.
        dtype: None for the model's dtype; "bfloat16" computes convolutions and dense layers in bfloat16, boxes and NMS
            in float32, and folds batch norm as well.

    Returns:
        The version's folder as a pathlib.Path: `saved_model.pb` and `variables`, `assets` (a description, see
        `assets.py`) and `assets.extra` (warm-up requests for TF Serving). For inputs and outputs see `signatures.py`.
        `serve_bytes` is missing if no image file format can hold the model's images; this is logged (INFO).

    Raises:
        ValueError: the backend is not TensorFlow; the model has rules of another program; the version is not a positive
            integer; or it exists and `overwrite` is False.
        OSError: another process exports into this folder, or it cannot be written to.
    """
    if keras.backend.backend() != "tensorflow":
        raise ValueError(
            "A SavedModel must be written on the TensorFlow backend (one from JAX does not run in TensorFlow). "
            f"Received: backend {keras.backend.backend()}. Save the model as .keras, then run "
            "KERAS_BACKEND=tensorflow keras-maskrcnn export MODEL.keras DIRECTORY."
        )
    check_rules(model.config)
    directory = pathlib.Path(directory)
    _version_folder(directory, version, overwrite)  # wrong arguments make no folder
    with locked_folder(directory):  # TF Serving reads only numbered folders: neither locks nor temporary ones
        target = _version_folder(directory, version, overwrite)
        served = optimize_for_inference(model, dtype) if optimize or dtype else model
        write_folder(target, lambda folder: _write(model, served, str(folder), optimize, dtype, directory.name))
    return target


def versions(directory):
    """The versions in a model's folder, list of int, ascending."""
    directory = pathlib.Path(directory)
    folders = [path for path in directory.iterdir() if path.is_dir()] if directory.is_dir() else []
    return sorted(int(folder.name) for folder in folders if folder.name.isascii() and folder.name.isdigit())


def find_version(path):
    """The SavedModel at a path: the folder itself, or the highest version in it.

    Raises:
        ValueError: there is none.
    """
    path = pathlib.Path(path)
    there = versions(path)
    folder = path if (path / "saved_model.pb").is_file() or not there else path / str(there[-1])
    if not (folder / "saved_model.pb").is_file():
        raise ValueError(
            "A SavedModel must be a folder with saved_model.pb, or a folder of numbered SavedModels. "
            f"Received: {path}, which is neither. Write one with keras-maskrcnn export MODEL {path}."
        )
    return folder


def _version_folder(directory, version, overwrite):
    if (directory / "saved_model.pb").exists():
        raise ValueError(
            "The export directory must be a folder of numbered versions. "
            f"Received: {directory}, which is a SavedModel itself. Pass the folder above it."
        )
    if version is None:
        version = max(versions(directory), default=0) + 1
    if isinstance(version, bool) or not isinstance(version, int) or version < 1:
        raise ValueError(f"A version must be an integer >= 1. Received: {version!r}. None takes the next free version.")
    target = directory / str(version)
    if target.exists() and not overwrite:
        raise ValueError(
            f"The version must not exist. Received: {target}, which exists. "
            f"Leave the version out to take the next free one, or replace it: {argument('overwrite', True)}."
        )
    return target


def _write(model, served, folder, optimize, dtype, name):
    import tensorflow as tf  # imported here, because the package runs on JAX without TensorFlow

    from keras_maskrcnn.serving.signatures import signatures, without_files
    from keras_maskrcnn.serving.warmup import write_warmup

    # Not the model itself, which would include its optimizer and metrics.
    weights = tf.Module()
    weights.served = [weight.value for weight in served.weights]
    contract = signatures(served)
    if without_files(model.config):
        _LOG.info("%s", without_files(model.config))
    with backend.stock_operators():
        functions = {
            key: tf.function(function, autograph=False).get_concrete_function(**inputs)
            for key, (function, inputs) in contract.items()
        }
        tf.saved_model.save(weights, folder, functions)
    write_assets(folder, model, contract, optimized=bool(optimize or dtype), dtype=dtype)
    write_warmup(folder, contract, name, model.config)
