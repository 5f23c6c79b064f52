"""Shared by the converters: the graph to convert, and checks of the arguments.

The graph is one function from images to detections, traced with operators that other runtimes support
(`backend/portable.py`), with folded batch norm. Called by `onnx.py`, `openvino.py` and `litert.py`.
"""

import importlib
import json
import pathlib

import keras

from keras_maskrcnn import backend
from keras_maskrcnn._version import __version__
from keras_maskrcnn.geometry.resizing import network_size
from keras_maskrcnn.host.messages import argument
from keras_maskrcnn.serving.assets import fingerprint
from keras_maskrcnn.serving.folding import optimize_for_inference

INPUT, CONFIG = "images", "config"  # of the images, and of the metadata that holds the config
DTYPES = {"uint8": ("uint8", "float32"), "uint16": ("float32",), "float32": ("float32",)}  # by image_dtype


def trace(model, input_dtype, image_size=None, dtype="float32"):
    """Trace the graph for a converter.

    Args:
        model: MaskRCNN, not changed; a folded copy is traced.
        input_dtype: "uint8" or "float32" (the values of the model's images, not normalised).
        image_size: (height, width) in image pixels for a graph with this size, batch 1 and only static shapes, which
            also computes padding rows. None for images of any size.
        dtype: of convolutions and dense layers, as in `optimize_for_inference`.

    Returns:
        tf.Module with the weights and `graph`, the concrete function from `images` (B, H, W, C) and, for images of any
        size, the scalars of `OPTIONS` to a dict of boxes, scores, labels, valid, num_detections and the branches'
        arrays, as in `serving_default` (`signatures.py`).
    """
    import tensorflow as tf  # imported here, because the package runs on JAX without TensorFlow

    from keras_maskrcnn.serving.signatures import OPTIONS

    folded = optimize_for_inference(model, dtype)
    shape = (None, None, None) if image_size is None else (1, *image_size)
    images = tf.TensorSpec((*shape, model.config.num_channels), input_dtype, name=INPUT)
    traced = tf.Module()
    traced.weights = [weight.value for weight in folded.weights]
    with backend.portable_operators(fixed_sizes=image_size is not None):
        function = tf.function(lambda images, **options: _detect(folded, images, image_size, options), autograph=False)
        options = {name: tf.TensorSpec((), dtype, name=name) for name, dtype in OPTIONS.items() if image_size is None}
        traced.graph = function.get_concrete_function(images, **options)
    return traced


def _detect(model, images, image_size, options):
    """Resize, detect, convert boxes to image pixels. All shapes are static if `image_size` is given.

    Options: dict of scalars, those of `OPTIONS` that the graph takes.
    """
    import tensorflow as tf

    from keras_maskrcnn.serving import sizes_in_graph
    from keras_maskrcnn.serving.signatures import in_image_frame, valid_options

    batch = tf.shape(images)[0]
    if image_size is None:
        source = tf.shape(images)[1:3]
        network = sizes_in_graph.network_size(source, model.config)
    else:
        source, network = tf.constant(image_size), tf.constant(network_size(*image_size, model.config))
    # Cast first: in ONNX, resizing uint8 rounds to uint8.
    resized = tf.image.resize(tf.cast(images, tf.float32), network, "bilinear", antialias=False)
    sizes = tf.broadcast_to(network[None], (batch, 2))
    options = valid_options(model.config, batch, options) if options else None
    found = dict(model({"images": resized, "image_sizes": sizes}, training=False, options=options))
    found |= in_image_frame(found, model.config, network[None], source[None])
    found["num_detections"] = tf.reduce_sum(tf.cast(found["valid"], tf.int32), axis=1)
    return {name: tf.identity(array) for name, array in found.items()}


def describe(model):
    """Metadata of a model for the exported file: dict of str."""
    return {
        "package": f"keras-maskrcnn {__version__}",
        CONFIG: json.dumps(model.config.to_dict()),
        "class_names": json.dumps(list(model.config.class_names)),
        "category_ids": json.dumps([int(number) for number in model.config.category_ids]),
        "mask_pasting": model.config.mask_pasting,
        **{name: str(getattr(model.config, name)) for name in ("score_threshold", "nms_threshold", "max_detections")},
        "preprocessing": "in the graph: images of any size, RGB or the model's channels, not normalised",
        "fingerprint": fingerprint(model),
    }


def check_arguments(path, suffix, input_dtype, overwrite, config):
    """Check the arguments before the conversion, which takes minutes.

    Args:
        path, input_dtype, overwrite: arguments of `export_onnx` and `export_litert`.
        suffix: required suffix of the path, such as ".onnx".
        config: MaskRCNNConfig; its `image_dtype` determines the possible input dtypes.

    Returns:
        (the path as a pathlib.Path, the dtype of the input).

    Raises:
        ValueError: the backend is not TensorFlow, the suffix or dtype is wrong, or the file exists.
    """
    path = pathlib.Path(path)
    dtype = check_graph_arguments(path, {".tflite": "litert"}.get(suffix, suffix[1:]), input_dtype, config)
    if path.suffix != suffix:
        raise ValueError(f"The file name must end in {suffix}. Received: {path}. Use {path.with_suffix(suffix)}.")
    check_new(path, overwrite)
    return path, dtype


def check_graph_arguments(path, name, input_dtype, config):
    """Check the backend, the config and the dtype of the input. Returns the dtype.

    Args:
        path: file or folder to write. name: of the format, on the command line. input_dtype, config: as above.
    """
    if keras.backend.backend() != "tensorflow":
        raise ValueError(
            "Models must be converted on the TensorFlow backend, because the converters read its graph. "
            f"Received: backend {keras.backend.backend()}. Save the model as .keras, then run "
            f"KERAS_BACKEND=tensorflow keras-maskrcnn export MODEL.keras {path} --format {name}."
        )
    refused = [
        each.name for each in config.branches if ("litert" if name == "litert" else "onnx") in each.refused_graphs
    ]
    if refused:
        raise ValueError(
            f"A model can be exported as {name} if its converter has operators for all branches. Received a model with "
            f"the branch `{refused[0]}`. Export a SavedModel, or leave the branch out of the config."
        )
    check_rules(config)
    dtypes = DTYPES[config.image_dtype]
    if input_dtype is not None and input_dtype not in dtypes:
        raise ValueError(
            f"input_dtype must be one of {dtypes} for a {config.image_dtype} model. Received: {input_dtype!r}. "
            "Floats must have the range of the model's images: 0..255 for uint8."
        )
    return input_dtype or dtypes[0]


# Field of the config -> the rules that the graphs have; the first is this package's own.
_RULES = {
    "resize": ("bilinear",),
    "box_scaling": ("sides",),
    "canvas": ("tight",),
    "size_rule": ("floor",),
    "mask_pasting": ("subpixel", "detectron2", "torchvision"),
}


def check_rules(config):
    """Raise ValueError where an export would not do what Predictor does: it has its own resize and its own boxes."""
    others = [name for name in _RULES if getattr(config, name) not in _RULES[name]]
    if others:
        received, ours = (
            ", ".join(f"{name}={value!r}" for name, value in values.items())
            for values in ({name: getattr(config, name) for name in others}, {name: _RULES[name][0] for name in others})
        )
        raise ValueError(
            "Exported models resize by the rules 'bilinear' and 'floor', place the image at the top left and paste "
            f"masks by one of {_RULES['mask_pasting']}. Received a model with {received}. If numbers may differ, load "
            f"the weights into a model of dataclasses.replace(config, {ours}), and export that."
        )


def check_dtype(dtype, known, calibration):
    """Refuse a dtype that a format does not have, or that does not go with int8.

    Args:
        dtype: the argument of the export. known: tuple of the possible ones. calibration: None, or images: int8.
    """
    if dtype not in known:
        raise ValueError(f"dtype must be one of {known}. Received: {dtype!r}.")
    if calibration is not None and dtype == "float16":
        raise ValueError(
            "The weights of convolutions become int8 or float16, not both. "
            f"Received: {argument('calibration')} and {argument('dtype', 'float16')}. Leave one of them out."
        )


def check_new(path, overwrite):
    """Refuse to replace a file that exists, unless `overwrite`."""
    if path.exists() and not overwrite:
        raise ValueError(
            f"The output file must not exist. Received: {path}, which exists. "
            f"Choose another name, or replace it: {argument('overwrite', True)}."
        )


def check_new_folder(directory, file, overwrite):
    """Refuse a folder that exists; with `overwrite` one without the `file` of an export: nothing else is replaced."""
    check_new(directory, overwrite)
    if directory.is_file() or (directory.is_dir() and any(directory.iterdir()) and not (directory / file).is_file()):
        raise ValueError(
            f"{argument('overwrite', True)} replaces a folder of such an export, which contains {file}. "
            f"Received: {directory}, without it. Choose another folder."
        )


def need(module, extra):
    """Import a converter module.

    Raises:
        ImportError: it is not installed; the message says how to install it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(
            f"This conversion needs the package {module}, which is not installed ({error}). "
            f"Install it with pip install 'keras-maskrcnn[{extra}]'."
        ) from error
