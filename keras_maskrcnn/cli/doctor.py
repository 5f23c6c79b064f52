"""Check an installation: run a fixed model on a fixed image and compare its detections with torchvision's.

`examine` measures, `format_report` writes the text that `keras-maskrcnn doctor` prints. The weights of the fixed model
are computed from each tensor's torchvision name in integer arithmetic, so they are the same on every machine.
`fingerprint.json`, beside this file, holds torchvision's detections with these weights;
`benchmarks/torchvision_fingerprint.py` wrote it.
"""

import dataclasses
import importlib.metadata
import json
import pathlib
import platform
import zlib

import keras
import numpy as np

from keras_maskrcnn import backend
from keras_maskrcnn.geometry import native
from keras_maskrcnn.inference.predictor import Predictor
from keras_maskrcnn.weights import load_weights, published
from keras_maskrcnn.weights.torchvision import tensor_table
from keras_maskrcnn.weights.zoo import maskrcnn_resnet18_fpn

FINGERPRINT = pathlib.Path(__file__).with_name("fingerprint.json")
PACKAGES = ("keras", "tensorflow", "jax", "torch", "numpy", "pycocotools", "scikit-image", "pillow")
# Largest errors of float32 arithmetic, with a wide margin, and of TF32 or bfloat16 convolutions.
EXACT = {"lost": 0, "box": 0.05, "score": 1e-3, "mask": 1e-3}
ROUGH = {"lost": 0.1, "box": 2.0, "score": 0.05, "mask": 0.05}


@dataclasses.dataclass(frozen=True)
class Report:
    """The results of `examine`.

    Args:
        versions: dict from package to version; None: not installed.
        backend: Keras' backend. devices: its devices. operators: the implementation of RoIAlign.
        host_loops: what decodes and resizes images and masks.
        errors: distance from torchvision's detections. "lost": share of them without a match here. "box" (image pixels)
            and "score": largest difference of the matched ones. "mask": relative difference of their areas.
        compared: number of torchvision's detections.
        damaged: files of the weights cache whose content is not what was written.
        intact: converted weights in the cache whose content is what was written.
    """

    versions: dict
    backend: str
    devices: tuple
    operators: str
    host_loops: str
    errors: dict
    compared: int
    damaged: tuple
    intact: tuple

    @property
    def verdict(self):
        """The conclusion in one line."""
        if self.damaged:
            damaged = ", ".join(self.damaged)
            return f"predictions can NOT be trusted: delete the damaged weights {damaged}; they are downloaded again"
        if self._beyond(ROUGH):
            return "predictions can NOT be trusted: this installation does not compute what torchvision computes"
        if self._beyond(EXACT):
            return "predictions can be trusted, but convolutions have reduced precision (probably TF32 or bfloat16)"
        return "predictions can be trusted: they equal torchvision's"

    def _beyond(self, limits):
        return any(self.errors[name] > limit for name, limit in limits.items())

    @property
    def trusted(self):
        """Whether predictions can be trusted."""
        return not self.damaged and not self._beyond(ROUGH)


def examine():
    """Collect versions and devices, check the weights cache, and run the fixed model.

    Returns:
        Report.
    """
    errors, compared = compare_fingerprint()
    intact, damaged = examine_cache()
    return Report(
        versions={"keras-maskrcnn": published.package_version(), **{name: _version(name) for name in PACKAGES}},
        backend=keras.backend.backend(),
        devices=tuple(backend.devices()),
        operators=backend.operators(),
        host_loops=native.description(),
        errors=errors,
        compared=compared,
        damaged=damaged,
        intact=intact,
    )


def format_report(report):
    """The report as lines of text; the last one is the verdict."""
    versions = ", ".join(f"{name} {version or 'not installed'}" for name, version in report.versions.items())
    lines = [
        f"system: Python {platform.python_version()} on {platform.platform()}",
        f"packages: {versions}",
        f"backend: {report.backend}; devices: {', '.join(report.devices)}",
        f"RoIAlign: {report.operators}; images and masks: {report.host_loops}",
        f"compared with torchvision's {report.compared} detections: "
        "{lost:.0%} lost; boxes within {box:.1e} pixels, scores {score:.1e}, areas {mask:.1e}".format(**report.errors),
        f"converted weights in {published.cache_folder()}: {', '.join(report.intact) or 'none'}",
        report.verdict,
    ]
    return "\n".join(lines)


def compare_fingerprint():
    """Run the fixed model and compare its detections with torchvision's stored ones.

    Returns:
        errors as in `Report`, and the number of stored detections. A match has the same class, and no side of its box
        is further off than half of the short side.
    """
    golden = json.loads(FINGERPRINT.read_text(encoding="utf-8"))
    found = Predictor(known_model())(known_image())
    box_error = score_error = lost = differing = 0
    for box, score, label, area in zip(*(golden[key] for key in ("boxes", "scores", "labels", "mask_pixels"))):
        distances = np.abs(found.boxes - np.asarray(box, np.float32)).max(axis=1)
        distances = np.where(found.labels == label, distances, np.inf)
        nearest = distances.argmin() if len(found) else None
        if nearest is None or distances[nearest] > min(box[2] - box[0], box[3] - box[1]) / 2:
            lost += 1
            continue
        box_error = max(box_error, float(distances[nearest]))
        score_error = max(score_error, float(abs(found.scores[nearest] - score)))
        differing += abs(int(found.masks[nearest].sum()) - area)
    count = len(golden["boxes"])
    mask_error = differing / sum(golden["mask_pixels"])
    return {"lost": lost / count, "box": box_error, "score": score_error, "mask": mask_error}, count


def examine_cache():
    """The names of the intact and of the damaged converted weights in the cache."""
    intact, damaged = [], []
    for converted in sorted(published.cache_folder().glob("*.weights.h5")):
        (intact if published.is_intact(converted) else damaged).append(converted.name)
    return tuple(intact), tuple(damaged)


def known_model():
    """The fixed model: ResNet-18, three classes, weights from `known_tensor`."""
    # 160 x 224 network pixels are no multiple of P6's stride, where errors of the anchors would show.
    model = maskrcnn_resnet18_fpn(3, min_size=160, max_size=320, score_threshold=0.55)
    load_weights(model, {entry.name: known_tensor(entry.name, entry.shape) for entry in tensor_table(model)})
    return model


def known_image():
    """The fixed image: uint8 (100, 140, 3), rings and steps in integer arithmetic."""
    y, x, channel = np.ogrid[:100, :140, :3]
    rings = ((x - 50) ** 2 + 2 * (y - 40) ** 2) // 40
    return ((rings + 60 * ((x // 35 + y // 25) % 3) + 45 * channel) % 256).astype(np.uint8)


def known_tensor(name, shape):
    """Compute a tensor from its torchvision name: He-scaled kernels, norms around one, small biases.

    Args:
        name: its key in the state dict. shape: its shape there.

    Returns:
        float32 array of uniform random values, seeded by a hash of the name.
    """
    uniform = _uniform(zlib.crc32(name.encode()), int(np.prod(shape))).reshape(shape)
    if len(shape) > 1:  # uniform in -1..1 has a variance of one third
        return (uniform * np.sqrt(6 / np.prod(shape[1:])) * _scale(name)).astype(np.float32)
    norm = ".bn" in name or "downsample.1." in name
    if name.endswith("running_var") or (norm and name.endswith("weight")):
        return ((1 + uniform / 2) * _scale(name)).astype(np.float32)
    return (uniform / 10).astype(np.float32)


def _scale(name):
    """A factor that keeps residual branches and predictors in a range where softmax and boxes do not saturate."""
    scales = {
        ".bn2.weight": 0.4,
        "backbone.fpn": 0.5,
        "rpn.head.cls_logits": 0.1,
        "rpn.head.bbox_pred": 0.1,
        "cls_score": 0.1,
        "box_predictor.bbox_pred": 0.3,
    }
    return next((scale for part, scale in scales.items() if part in name), 1.0)


def _uniform(seed, count):
    """Numbers in -1..1 by splitmix64 (Steele et al. 2014); independent of every library's generator."""
    with np.errstate(over="ignore"):
        z = (np.arange(count, dtype=np.uint64) + np.uint64(seed) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z = z ^ (z >> np.uint64(31))
    return (z >> np.uint64(40)).astype(np.float64) / 2**23 - 1.0


def _version(package):
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
