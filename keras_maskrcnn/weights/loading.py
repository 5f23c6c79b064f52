"""`load_weights`: load any supported weight file into a model, with a receipt."""

import dataclasses
import os
import pathlib

from keras_maskrcnn.host.files import write_atomically
from keras_maskrcnn.weights import detectron2, matterport, mmdetection, published, tensorpack, torchvision
from keras_maskrcnn.weights.archive import is_archive
from keras_maskrcnn.weights.keras_files import load_keras_file
from keras_maskrcnn.weights.limits import naming
from keras_maskrcnn.weights.matterport_files import is_h5, is_layer_file, read_layers
from keras_maskrcnn.weights.npz_files import read_npz
from keras_maskrcnn.weights.pkl import read_pkl
from keras_maskrcnn.weights.pth import read_pth, tensor_to_numpy
from keras_maskrcnn.weights.safetensors_files import library, read_safetensors
from keras_maskrcnn.weights.states import unwrapped

# The first that recognises a state dict by its names reads it. Torchvision's is last: what no other family recognises
# is checked against it.
FAMILIES = {
    "detectron2": detectron2.FAMILY,
    "matterport": matterport.FAMILY,
    "mmdetection": mmdetection.FAMILY,
    "mmdetection 1": mmdetection.FAMILY_1,
    "tensorpack": tensorpack.FAMILY,
    "torchvision": torchvision.FAMILY,
}


def load_weights(model, source, heads=True, skip_mismatch=False):
    """Load weights and report on every tensor. RGB weights also fit models of other channels, see `inflation.py`.

    The tensors' names tell whose weights they are: of this package, torchvision, Detectron2, MMDetection, tensorpack or
    matterport.

    Args:
        model: MaskRCNN, for exact numbers with the arithmetic of the weights' program: `MaskRCNNConfig.detectron2`,
            `.mmdetection`, `.tensorpack` and `.matterport`. The receipt says where the config differs.
        source: path of a `.weights.h5`, `.keras`, `.pth`, `.pt`, `.pkl`, `.npz`, `.h5` or `.safetensors` file, a name
            of published weights such as "detectron2/mask_rcnn_R_50_FPN_3x" (`catalogue.py` lists them), or a state dict
            (names to arrays or tensors). A torchvision classifier (resnet18 .. resnet152) goes into the backbone.
        heads: False keeps the model's last layers, which have one output per class: for fine-tuning on other
            classes.
        skip_mismatch: True loads all tensors that match; the receipt lists the others.

    Returns:
        Receipt, also stored as `model.weights_receipt`.

    Raises:
        ValueError: tensors are missing, have another shape, are unknown or not finite; or the file is damaged, has
            another format or holds more than tensors. The model is then unchanged.
        FileNotFoundError: the file does not exist.
        OSError: published weights could not be downloaded.
    """
    if isinstance(source, str | os.PathLike):
        receipt = _load_file(model, published.local_path(source), heads, skip_mismatch)
    else:
        state = {name: tensor_to_numpy(value) for name, value in unwrapped(source).items()}
        receipt = load_state(model, state, "state dict", heads, skip_mismatch)
    model.weights_receipt = receipt
    return receipt


def load_state(model, state, source="state dict", heads=True, skip_mismatch=False):
    """Load a state dict of any of the `FAMILIES`; arguments and result as for `load_weights`."""
    family = find_family(state)
    return family.load(model, family.prepare(state), source, heads, skip_mismatch)


def find_family(state):
    """The Family of a state dict: names to arrays, or a checkpoint that contains one."""
    names = [name.removeprefix("module.") for name in unwrapped(state) if isinstance(name, str)]
    return next(family for family in FAMILIES.values() if family.recognises(dict.fromkeys(names)))


def _load_file(model, path, heads, skip_mismatch):
    _check_file(path)
    if _is_keras(path):
        return load_keras_file(model, path, heads, skip_mismatch)
    receipt = load_state(model, read_state(path), str(path), heads, skip_mismatch)
    epsilon = published.norm_epsilon(path.name)
    if epsilon is not None and epsilon != model.config.norm_epsilon:
        note = f"these weights were published for norm_epsilon={epsilon}; this model has {model.config.norm_epsilon}"
        receipt = dataclasses.replace(receipt, notes=(*receipt.notes, note))
    return dataclasses.replace(receipt, sha256=published.sha256(path))


def _check_file(path):
    if not path.is_file():
        raise FileNotFoundError(f"There must be a file of weights at {path}. There is {_what(path)}.")


def read_state(path):
    """Read a state dict of any of the `FAMILIES` from a file. Its content decides how; nothing in it is executed.

    Args:
        path: path of a `.pth`, `.pt`, `.pkl`, `.npz`, `.h5` or `.safetensors` file.

    Returns:
        dict of the family's names to numpy arrays.

    Raises:
        ValueError: the file has another format, holds more than tensors, or is damaged.
        ImportError: a `.safetensors` file needs the package safetensors, which is not installed.
    """
    path = pathlib.Path(path)
    state = _reader(path)(path)
    with naming(path):
        return find_family(state).prepare(state)


_BY_SUFFIX = {".safetensors": read_safetensors, ".npz": read_npz}


def _reader(path):
    """The function that reads a file: by its first bytes where the suffix leaves it open."""
    if path.suffix in _BY_SUFFIX:
        return _BY_SUFFIX[path.suffix]
    if path.suffix not in (".pth", ".pt", ".pkl", ".pickle", ".h5", ".hdf5"):
        raise _unknown(path)
    if is_h5(path):
        return read_layers
    return read_pth if path.suffix in (".pth", ".pt") or is_archive(path) else read_pkl


def _is_keras(path):
    """Whether Keras 3 wrote a file: an archive with weights in it, or HDF5 without the layers of Keras 2."""
    if path.suffix == ".keras":
        return True
    return path.name.endswith(".weights.h5") and not is_layer_file(path)


def _unknown(path):
    return ValueError(
        "Weights are read from .weights.h5, .keras, .pth, .pt, .pkl, .npz, .h5 and .safetensors files. "
        f"Received: {path.name}. Rename the file if it is one of these under another name."
    )


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
