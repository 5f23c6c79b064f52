"""Matterport's numbers (tests/golden/matterport_*), the file that they belong to, and its layers by hand."""

import json
import zlib

import numpy as np
from torchvision_golden import GOLDEN

SPEC = "matterport_resnet50_state.json"


def make_tensor(seed, path, shape, rule, scale):
    """One tensor by the rules of shared/golden/README.md: kernels are (rows, columns, in, out)."""
    rng = np.random.default_rng([seed, zlib.crc32(path.encode())])
    if rule == "uniform_half_to_three_halves":
        return ((0.5 + rng.random(shape)) * scale).astype(np.float32)
    numbers = rng.standard_normal(shape)
    if rule == "normal":
        return (numbers * scale).astype(np.float32)
    numbers = numbers * np.sqrt(2 / np.prod(shape[:-1])) * scale
    if rule == "he_normal_centred":
        numbers -= numbers.mean(axis=tuple(range(len(shape) - 1)))
    return numbers.astype(np.float32)


def golden_state():
    """The weights of the golden numbers under their paths in the file."""
    spec = json.loads((GOLDEN / SPEC).read_text())
    return {path: make_tensor(spec["seed"], path, *rest) for path, *rest in spec["tensors"]}


def write_h5(path, state, prefix="", names_as=np.bytes_):
    """A file as Keras 2 wrote it: groups of layers, attributes with the names."""
    import h5py

    layers = {}
    for name, array in state.items():
        layer, weight = name.split("/", 1)
        layers.setdefault(layer, {})[weight] = array
    with h5py.File(path, "w") as file:
        root = file.require_group(prefix) if prefix else file
        root.attrs["layer_names"] = [names_as(layer) for layer in ("input_image", *layers)]
        root.attrs["backend"] = names_as("tensorflow")
        root.create_group("input_image")
        for layer, weights in layers.items():
            group = root.create_group(layer)
            group.attrs["weight_names"] = [names_as(weight) for weight in weights]
            for weight, array in weights.items():
                group.create_dataset(weight, data=array)
    return path
