"""`.keras` files of an earlier commit, rebuilt from a manifest: what they hold, and what a model computes with them.

A file of the smallest model has 20 MB, so the repository keeps its manifest (golden/keras_0d7ef1d.json): the texts of
the archive, and the names, shapes and types of its arrays. The values of an array are a function of its name, in
integer arithmetic, the same everywhere. `golden/make_keras_manifest.py` wrote it; test_compatibility.py reads it.
"""

import json
import pathlib
import zipfile
import zlib

import h5py
import numpy as np
from keras import ops

MANIFEST = pathlib.Path(__file__).parent / "golden" / "keras_0d7ef1d.json"
CANVAS = (160, 224)  # no multiple of 64: P6 does not divide it, which shows in the anchors


def read_cases():
    """Dict of a case's name to its config, texts, groups, arrays and results."""
    return json.loads(MANIFEST.read_text(encoding="utf-8"))


def describe_archive(path):
    """What `write_archive` needs of a `.keras` file: texts of its members, groups (with attributes) and arrays."""
    groups, arrays = {}, []

    def visit(name, node):
        attributes = {key: _json_ready(value) for key, value in node.attrs.items()}
        if isinstance(node, h5py.Dataset):
            if attributes:
                raise ValueError(f"An array without attributes was expected. Received {name} with {attributes}.")
            arrays.append([name, list(node.shape), str(node.dtype)])
        else:
            groups[name] = attributes

    with zipfile.ZipFile(path) as archive:
        texts = {name: json.loads(archive.read(name)) for name in archive.namelist() if name.endswith(".json")}
        with archive.open("model.weights.h5") as member, h5py.File(member, "r") as file:
            file.visititems(visit)
    return {"texts": texts, "groups": groups, "arrays": arrays}


def write_archive(case, path):
    """The `.keras` file of a case, its arrays with known values."""
    weights = path.with_name(path.stem + ".weights.h5")
    write_weights(case, weights)
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in case["texts"].items():
            archive.writestr(name, json.dumps(content))
        archive.write(weights, "model.weights.h5")
    return path


def write_weights(case, path):
    """The `.weights.h5` file of a case, its arrays with known values."""
    with h5py.File(path, "w") as file:
        for name, attributes in case["groups"].items():
            file.require_group(name).attrs.update(attributes)
        for name, shape, dtype in case["arrays"]:
            file[name] = known_values(name, shape, dtype, case["salt"])
    return path


def known_values(name, shape, dtype, salt):
    """An array by its path in the file: He-scaled kernels, norms around one, small biases and optimizer moments.

    Args:
        name: its path. shape, dtype: as stored. salt: int, another one gives other values.
    """
    uniform = _uniform(zlib.crc32(name.encode(), salt), int(np.prod(shape))).reshape(shape)
    if np.dtype(dtype).kind in "iu":
        return np.floor((uniform + 1) * 500).astype(dtype)
    if name.startswith("optimizer/"):
        return (uniform / 1000).astype(dtype)
    if len(shape) > 1:  # uniform in -1..1 has a variance of one third
        return (uniform * np.sqrt(6 / np.prod(shape[:-1])) * _scale(name)).astype(dtype)
    if name.endswith(("norm/vars/0", "norm/vars/3")):  # scale and variance
        return (0.75 + uniform / 4).astype(dtype)
    return (uniform / 10).astype(dtype)


def known_batch(num_channels, dtype, num_classes, mask_size=14):
    """Two images of rings and steps with three objects each, in integer arithmetic; batch.py has the keys."""
    y, x, channel = np.ogrid[: CANVAS[0], : CANVAS[1], :num_channels]
    sizes = np.array([CANVAS, (128, 190)], np.int32)
    images = np.zeros((2, *CANVAS, num_channels), dtype)
    for i, (height, width) in enumerate(sizes):
        rings = ((x - 50 - 30 * i) ** 2 + 2 * (y - 40) ** 2) // 40
        pattern = (rings + 60 * ((x // 35 + y // 25) % 3) + 45 * channel) % 256
        images[i, :height, :width] = (pattern * (1 if dtype == "uint8" else 100))[:height, :width]
    boxes = [
        [[10, 12, 50, 60], [70, 30, 150, 101], [100, 90, 128, 120]],
        [[5, 5, 40, 30], [60, 50, 120, 110], [130, 20, 180, 90]],
    ]
    cells = np.arange(mask_size)
    disc = ((cells - 6) ** 2 + (cells[:, None] - 7) ** 2 < 30).astype(np.uint8)
    return {
        "images": images,
        "image_sizes": sizes,
        "gt_boxes": np.array(boxes, np.float32),
        "gt_labels": np.arange(6, dtype=np.int32).reshape(2, 3) % num_classes,
        "gt_masks": np.broadcast_to(disc, (2, 3, mask_size, mask_size)).copy(),
        "gt_valid": np.ones((2, 3), bool),
        "gt_crowd": np.zeros((2, 3), bool),
    }


def batch_of(config):
    """The known batch for a model's config."""
    return known_batch(config.num_channels, config.image_dtype, config.num_classes, config.gt_mask_size)


def found_by(model, batch):
    """Detections on the batch as JSON-ready lists; of a mask its sum."""
    found = model({key: batch[key] for key in ("images", "image_sizes")})
    found = {name: ops.convert_to_numpy(array) for name, array in found.items()}
    found["mask_sums"] = found.pop("masks").astype(np.float64).sum((-2, -1))
    return {name: array.tolist() for name, array in found.items()}


def losses_of(model, batch):
    """The five losses on the batch and their sum, with norms as they train."""
    total = model.compute_loss(x=batch, y_pred=model(batch, training=True))
    values = {metric.name: float(metric.result()) for metric in model.metrics if metric.name.endswith("_loss")}
    return values | {"loss": float(total)}


def _scale(name):
    """Keeps residual sums and predictors in a range where softmax and boxes are not saturated."""
    scales = {
        "rpn_head/deltas": 0.1,
        "rpn_head/objectness": 0.3,
        "box_head/classes": 0.15,
        "box_head/deltas": 0.1,
        "mask_head/logits": 0.5,
        "backbone/": 0.7,
    }
    return next((scale for part, scale in scales.items() if part in name), 1.0)


def _uniform(seed, count):
    """Numbers in -1..1 by splitmix64 (Steele et al. 2014) of their positions; no library's generator has a say."""
    with np.errstate(over="ignore"):
        z = (np.arange(count, dtype=np.uint64) + np.uint64(seed) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z = z ^ (z >> np.uint64(31))
    return (z >> np.uint64(40)).astype(np.float64) / 2**23 - 1.0


def _json_ready(value):
    return value.item() if isinstance(value, np.generic) else value
