"""The files in an export's `assets`, which describe the model without running it.

    class_names.txt   one name per line, by label
    config.json       the model's config (`MaskRCNNConfig.from_dict` reads it)
    about.json        package and versions, optimisations, preprocessing in words, signatures, fingerprint

The fingerprint is computed from the weights before any optimisation, so it also identifies the `.keras` file of an
export. Written by `saved_model.py`; read by `saved_model_predictor.py` and by clients.
"""

import hashlib
import json
import pathlib

import keras
import numpy as np

from keras_maskrcnn._version import __version__
from keras_maskrcnn.config import MaskRCNNConfig


def fingerprint(model):
    """SHA-256 of the names, shapes and values of a model's weights, str of 64 hexadecimal digits.

    The same on every backend and after saving and loading. The sampler's state is not included.
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
    """Write the files listed in the module docstring.

    Args:
        folder: folder of the SavedModel.
        model: MaskRCNN before optimisation.
        signatures: dict from name to (function, dict from input name to TensorSpec).
        optimized: whether batch norm was folded. dtype: str or None, the argument of the export.
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
        folder: folder of the SavedModel (a version).

    Raises:
        ValueError: the folder has no config.
    """
    path = pathlib.Path(folder) / "assets" / "config.json"
    if not path.is_file():
        raise ValueError(
            f"A SavedModel of this package must contain assets/config.json. Received: {folder}, without it. "
            "Export the model again: keras-maskrcnn export MODEL DIRECTORY."
        )
    return MaskRCNNConfig.from_dict(json.loads(path.read_text(encoding="utf-8")))


def _preprocessing(config):
    if config.image_scale is not None:
        size = f"times {config.image_scale}"
    else:
        size = f"so that the short side has {config.min_size} pixels, but the long side at most {config.max_size}"
    files = " Files: EXIF orientation applied, alpha dropped, converted to RGB." if config.num_channels == 3 else ""
    return (
        f"All steps in the graph. Images: {config.num_channels} channels, {config.image_dtype}.{files} Then bilinear "
        f"resizing (half-pixel centres, no antialiasing) {size}; (pixel - {list(config.pixel_mean)}) / "
        f"{list(config.pixel_std)}; zero padding at the right and bottom."
    )


def _version():
    return __version__
