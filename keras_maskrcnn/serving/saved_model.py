"""Export: a folder of numbered SavedModels as TF Serving reads it, each whole or not there at all.

What the model answers to is in `signatures.py`; everything from a file's bytes to boxes in its pixels is in the graph,
of stock operators only (DESIGN: a custom one does not load in TF Serving). Called by users and by the command line.
"""

import logging
import os
import pathlib
import tempfile

import keras

from keras_maskrcnn import backend
from keras_maskrcnn.serving.assets import write_assets
from keras_maskrcnn.serving.folding import optimize_for_inference

_LOG = logging.getLogger(__name__)


def export_saved_model(model, directory, version=None, overwrite=False, optimize=True, dtype=None):
    """Write a model as version `directory/version` for TensorFlow Serving.

    Args:
        model: MaskRCNN, on the TensorFlow backend.
        directory: the model's folder (TF Serving's `base_path`), which holds one folder a version.
        version: int >= 1. None: one more than the highest there is, 1 first.
        overwrite: replace the version if it is there already. A server that has it loaded does not notice.
        optimize: store batch norm folded into the convolutions (`optimize_for_inference`), as the model itself computes
            it at each call; the model stays as it is.
        dtype: None for the model's; "bfloat16" computes convolutions and dense layers in it, boxes and NMS in float32,
            and folds as well.

    Returns:
        The version's folder as a pathlib.Path: `saved_model.pb` and `variables`, `assets` (what the model is, see
        `assets.py`) and `assets.extra` (requests that TF Serving warms up with). See `signatures.py` for what the
        SavedModel takes and returns. It has no `serve_bytes` for images that no file format holds; this is logged
        (INFO).

    Raises:
        ValueError: the backend is not TensorFlow; the version is no positive integer, or exists and `overwrite` is
            False.
    """
    if keras.backend.backend() != "tensorflow":
        raise ValueError(
            "A SavedModel is written on the TensorFlow backend (one from JAX does not run in TensorFlow). "
            f"Received: backend {keras.backend.backend()}. Save the model as .keras, then run "
            "KERAS_BACKEND=tensorflow keras-maskrcnn export MODEL.keras DIRECTORY."
        )
    directory = pathlib.Path(directory)
    target = _version_folder(directory, version, overwrite)
    served = optimize_for_inference(model, dtype) if optimize or dtype else model
    directory.mkdir(parents=True, exist_ok=True)
    # Beside the versions, so that it is the same file system; TF Serving looks at numbered folders only.
    with tempfile.TemporaryDirectory(prefix=".export-", dir=directory) as scratch:
        _write(model, served, os.path.join(scratch, "new"), optimize, dtype, directory.name)
        if overwrite and target.exists():
            os.rename(target, os.path.join(scratch, "old"))
        os.rename(os.path.join(scratch, "new"), target)
    return target


def versions(directory):
    """The versions in a model's folder, list of int, rising."""
    directory = pathlib.Path(directory)
    folders = [path for path in directory.iterdir() if path.is_dir()] if directory.is_dir() else []
    return sorted(int(folder.name) for folder in folders if folder.name.isascii() and folder.name.isdigit())


def find_version(path):
    """The SavedModel that a path means: the folder itself, or the highest version in it.

    Raises:
        ValueError: there is none.
    """
    path = pathlib.Path(path)
    there = versions(path)
    folder = path if (path / "saved_model.pb").is_file() or not there else path / str(there[-1])
    if not (folder / "saved_model.pb").is_file():
        raise ValueError(
            "A SavedModel is a folder with saved_model.pb, or one with numbered folders of that kind. "
            f"Received: {path}, without. Write one with keras-maskrcnn export MODEL {path}."
        )
    return folder


def _version_folder(directory, version, overwrite):
    if (directory / "saved_model.pb").exists():
        raise ValueError(
            "An export goes into a folder of numbered versions. "
            f"Received: {directory}, which is a SavedModel itself. Give the folder above it."
        )
    if version is None:
        version = max(versions(directory), default=0) + 1
    if isinstance(version, bool) or not isinstance(version, int) or version < 1:
        raise ValueError(f"A version is an integer from 1 on. Received: {version!r}. None takes the next free one.")
    target = directory / str(version)
    if target.exists() and not overwrite:
        raise ValueError(
            f"A version is never overwritten unasked. Received: {target}, which exists. "
            "Leave the version out for the next free one, or pass overwrite=True."
        )
    return target


def _write(model, served, folder, optimize, dtype, name):
    import tensorflow as tf  # the package runs on JAX without it

    from keras_maskrcnn.serving.signatures import signatures, without_files
    from keras_maskrcnn.serving.warmup import write_warmup

    # Not the model itself, which would bring its optimizer and metrics along.
    weights = tf.Module()
    weights.served = [weight.value for weight in served.weights]
    answers = signatures(served)
    if without_files(model.config):
        _LOG.info("%s", without_files(model.config))
    with backend.stock_operators():
        functions = {
            key: tf.function(function, autograph=False).get_concrete_function(**inputs)
            for key, (function, inputs) in answers.items()
        }
        tf.saved_model.save(weights, folder, functions)
    write_assets(folder, model, answers, optimized=bool(optimize or dtype), dtype=dtype)
    write_warmup(folder, answers, name, model.config)
