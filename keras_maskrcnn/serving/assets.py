"""What lies beside the graph in an export's `assets`: enough to know what the model is without running it.

    class_names.txt   one a line, by label
    config.json       every number of the model (`MaskRCNNConfig.from_dict` reads it)
    about.json        package and versions, how it was optimised, preprocessing in words, signatures, fingerprint

The fingerprint is of the weights before any optimisation, so that it also says which `.keras` file an export came from.
Written by `saved_model.py`, read by `saved_model_predictor.py` and by clients.
"""

import hashlib
import json
import pathlib

import keras
import numpy as np

from keras_maskrcnn._version import __version__
from keras_maskrcnn.config import MaskRCNNConfig


def fingerprint(model):
    """SHA-256 over names, shapes and values of a model's weights, str of 64 hexadecimal digits.

    The same on every backend and after saving and loading; the sampler's state is no weight.
    """
    digest = hashlib.sha256()
    named = {weight.path.split("/", 1)[-1]: weight for weight in model.weights}
    for name in sorted(named):
        if not name.endswith("generator_state"):
            values = np.ascontiguousarray(keras.ops.convert_to_numpy(named[name]), "<f4")
            digest.update(f"{name} {values.shape}\n".encode())
            digest.update(values.tobytes())
    return digest.hexdigest()


def write_assets(folder, model, signatures, optimized, dtype):
    """Write the files of the module docstring.

    Args:
        folder: of the SavedModel.
        model: MaskRCNN as it was given.
        signatures: dict from name to (function, dict from input name to TensorSpec).
        optimized: whether batch norm was folded. dtype: str or None, as the export was told.
    """
    assets = pathlib.Path(folder) / "assets"
    assets.mkdir(exist_ok=True)
    config = model.config
    about = {
        "package": "keras-maskrcnn",
        "version": _version(),
        "keras": keras.version(),
        "fingerprint": fingerprint(model),
        "batch_norm_folded": optimized,
        "dtype": dtype or model.dtype_policy.name,
        "preprocessing": _preprocessing(config),
        "signatures": {
            name: {key: f"{spec.dtype.name} {spec.shape}" for key, spec in inputs.items()}
            for name, (_, inputs) in signatures.items()
        },
    }
    names = "".join(f"{name}\n" for name in config.class_names)
    for name, text in (
        ("class_names.txt", names),
        ("config.json", json.dumps(config.to_dict(), indent=1)),
        ("about.json", json.dumps(about, indent=1)),
    ):
        (assets / name).write_text(text, encoding="utf-8")


def read_config(folder):
    """The MaskRCNNConfig of an export.

    Args:
        folder: of the SavedModel (a version).

    Raises:
        ValueError: the folder has none.
    """
    path = pathlib.Path(folder) / "assets" / "config.json"
    if not path.is_file():
        raise ValueError(
            f"A SavedModel of this package has assets/config.json. Received: {folder}, without it. "
            "Export the model again: keras-maskrcnn export MODEL DIRECTORY."
        )
    return MaskRCNNConfig.from_dict(json.loads(path.read_text(encoding="utf-8")))


def _preprocessing(config):
    if config.image_scale is not None:
        size = f"times {config.image_scale}"
    else:
        size = f"so that the short side has {config.min_size} pixels, or the long side {config.max_size}, if fewer"
    files = " Files: EXIF orientation applied, alpha dropped, to RGB." if config.num_channels == 3 else ""
    return (
        f"All in the graph. Images: {config.num_channels} channels, {config.image_dtype}.{files} Then bilinear "
        f"resizing (half-pixel centres, no antialiasing) {size}; (pixel - {list(config.pixel_mean)}) / "
        f"{list(config.pixel_std)}; zero padding at the right and bottom."
    )


def _version():
    return __version__
