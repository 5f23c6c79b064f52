"""`load_weights`: load any supported weight file into a model, with a receipt."""

import collections.abc
import dataclasses
import pathlib

from keras_maskrcnn.host.files import write_atomically
from keras_maskrcnn.weights import published
from keras_maskrcnn.weights.keras_files import load_keras_file
from keras_maskrcnn.weights.limits import naming
from keras_maskrcnn.weights.pth import read_pth, tensor_to_numpy
from keras_maskrcnn.weights.safetensors_files import library, read_safetensors
from keras_maskrcnn.weights.torchvision import current_names, load_state, unwrapped

# Name -> (function that recognises a state dict, function that converts it to torchvision's names and layouts). The
# first that recognises it converts it. Torchvision's is last: what no other family recognises is checked against it.
FAMILIES = {
    "torchvision": (lambda state: True, current_names),
}


def load_weights(model, source, heads=True, skip_mismatch=False):
    """Load weights and report on every tensor. RGB weights also fit models of other channels, see `inflation.py`.

    Args:
        model: MaskRCNN.
        source: path of a `.weights.h5`, `.keras`, torchvision `.pth` / `.pt` or `.safetensors` file, or a torchvision
            state dict (names to arrays or tensors). A torchvision classifier (resnet18 .. resnet152) goes into the
            backbone.
        heads: False keeps the model's last layers, which have one output per class: for fine-tuning on other
            classes.
        skip_mismatch: True loads all tensors that match; the receipt lists the others.

    Returns:
        Receipt, also stored as `model.weights_receipt`.

    Raises:
        ValueError: tensors are missing, have another shape, are unknown or not finite; or the file is damaged, has
            another format or holds more than tensors. The model is then unchanged.
        FileNotFoundError: the file does not exist.
    """
    if isinstance(source, collections.abc.Mapping):
        state = with_torchvision_names({name: tensor_to_numpy(value) for name, value in source.items()})
        receipt = load_state(model, state, "state dict", heads, skip_mismatch)
    else:
        receipt = _load_file(model, pathlib.Path(source), heads, skip_mismatch)
    model.weights_receipt = receipt
    return receipt


def _load_file(model, path, heads, skip_mismatch):
    if not path.is_file():
        raise FileNotFoundError(f"There must be a file of weights at {path}. There is {_what(path)}.")
    if path.name.endswith((".weights.h5", ".keras")):
        return load_keras_file(model, path, heads, skip_mismatch)
    receipt = load_state(model, read_state(path), str(path), heads, skip_mismatch)
    epsilon = published.norm_epsilon(path.name)
    if epsilon is not None and epsilon != model.config.norm_epsilon:
        note = f"these weights were published for norm_epsilon={epsilon}; this model has {model.config.norm_epsilon}"
        receipt = dataclasses.replace(receipt, notes=(*receipt.notes, note))
    return receipt


def read_state(path):
    """Read a state dict of any of the `FAMILIES` from a file.

    Args:
        path: path of a `.pth`, `.pt` or `.safetensors` file.

    Returns:
        dict of torchvision's names to numpy arrays.

    Raises:
        ValueError: the file has another format, holds more than tensors, or is damaged.
        ImportError: a `.safetensors` file needs the package safetensors, which is not installed.
    """
    path = pathlib.Path(path)
    if path.suffix in (".pth", ".pt"):
        state = read_pth(path)
    elif path.suffix == ".safetensors":
        state = read_safetensors(path)
    else:
        raise _unknown(path)
    with naming(path):
        return with_torchvision_names(state)


def _unknown(path):
    return ValueError(
        "Weights are read from .weights.h5, .keras, .pth, .pt and .safetensors files. "
        f"Received: {path.name}. Rename the file if it is one of these under another name."
    )


def with_torchvision_names(state):
    """Convert a state dict of any of the `FAMILIES` to torchvision's names and layouts.

    Args:
        state: dict of names to arrays, or a checkpoint that contains one.

    Returns:
        dict of torchvision's names to arrays. Names of no family stay as they are.
    """
    state = unwrapped(state)
    convert = next(convert for recognises, convert in FAMILIES.values() if recognises(state))
    return convert(state)


def write_state(state, path):
    """Write a torchvision state dict to a `.safetensors` file, atomically.

    Args:
        state: dict of names to numpy arrays, from `torchvision_state_dict`.
        path: ends in `.safetensors`; torch reads it with `safetensors.torch.load_file`.
    """
    save_file = library().save_file
    write_atomically(path, lambda partial: save_file(state, partial))


def _what(path):
    return "a folder; name the file in it" if path.is_dir() else "nothing"
