"""Keypoints of torchvision's and Detectron2's own code: with their weights, rebuilt by name, this package has them."""

import functools
import json

import numpy as np
import pytest
from backend_tools import compiled, to_numpy
from torchvision_golden import GOLDEN, both_images, make_tensor

import keras_maskrcnn as km
from keras_maskrcnn.geometry.resizing import canvas_size, network_size, pad_to_canvas, resize_image
from keras_maskrcnn.inference.predictor import NetworkBatch, Predictor

pytestmark = [pytest.mark.slow, pytest.mark.compiled]
TORCHVISION, DETECTRON2 = "keypointrcnn_resnet50_fpn", "d2_keypoint_rcnn_R_50_FPN"
SIZES = {"min_size": 256, "max_size": 320, "score_threshold": 0.02}


@functools.lru_cache(maxsize=1)
def twin(name):
    """A model with the weights of a golden file, and the file's numbers."""
    spec = json.loads((GOLDEN / f"{name}_state.json").read_text())
    if name == DETECTRON2:
        model = km.MaskRCNN(km.MaskRCNNConfig.detectron2("keypoint_rcnn_R_50_FPN_3x", **SIZES))
    else:
        model = km.keypointrcnn_resnet50_fpn(**SIZES)
    receipt = km.load_weights(model, {key: make_tensor(spec["seed"], key, *rest) for key, *rest in spec["tensors"]})
    assert receipt.complete and not receipt.notes and not receipt.left_over
    return model, np.load(GOLDEN / f"{name}.npz")


@functools.lru_cache(maxsize=2)
def program(name):
    """The model's stages, compiled: proposals and detections."""
    model, _ = twin(name)

    def run(images, image_sizes):
        features = model.extract_features(images, image_sizes)
        proposals = model.propose(features)
        kept = {key: proposals[key] for key in ("boxes", "valid")}
        return kept, model.describe(features, model.detect(features, proposals))

    return compiled(run, model.variables)


@functools.lru_cache(maxsize=2)
def outputs(name):
    """[(proposals, FoundInstances)] of both images: of torchvision's in one batch, of Detectron2's each alone."""
    model, golden = twin(name)
    images = [golden["image0"], golden["image1"]]
    if name == TORCHVISION:
        batch = both_images(golden, model.config)
        batches = [(batch["images"], batch["image_sizes"])]
    else:
        sizes = [network_size(*image.shape[:2], model.config) for image in images]
        canvases = [
            pad_to_canvas(resize_image(image, size, model.config.resize), canvas_size(*size))
            for image, size in zip(images, sizes, strict=True)
        ]
        batches = [(canvas[None], np.array([size], np.int32)) for canvas, size in zip(canvases, sizes, strict=True)]
    rows = []
    for canvas, sizes in batches:
        kept, found = ({key: to_numpy(value) for key, value in each.items()} for each in program(name)(canvas, sizes))
        for row in range(len(sizes)):
            image = images[len(rows)]
            batch = NetworkBatch(Predictor(model), [image.shape[:2]])
            batch.outputs = {key: value[row : row + 1] for key, value in found.items()}
            batch.outputs["image_sizes"] = sizes[row : row + 1]
            rows.append((kept["boxes"][row][kept["valid"][row]], batch.found(0, image)))
    return rows


CASES = [
    pytest.param(name, i, marks=[pytest.mark.slow_on_jax] if i == 0 else [])
    for name in (TORCHVISION, DETECTRON2)
    for i in range(2)
]


@pytest.mark.parametrize("name, i", CASES)
def test_proposals(name, i):
    golden, ours = twin(name)[1], outputs(name)[i][0]
    theirs = golden[f"proposals{i}" if name == TORCHVISION else f"alone{i}_proposals"]
    assert len(ours) == len(theirs)
    distance = np.abs(ours[:, None] - theirs[None]).max(axis=-1)
    near = distance.min(axis=1) < 0.05
    assert near.mean() >= 0.995 and len(set(distance.argmin(axis=1)[near])) == near.sum()


@pytest.mark.parametrize("name, i", CASES)
def test_detections_and_keypoints(name, i):
    golden, found = twin(name)[1], outputs(name)[i][1]
    boxes, scores = golden[f"det{i}_boxes"], golden[f"det{i}_scores"]
    alike = np.abs(found.scores[None] - scores[:, None]) < 1e-4
    distance = np.where(alike, np.abs(found.boxes[None] - boxes[:, None]).max(axis=-1), np.inf)
    rows = distance.argmin(axis=1)
    assert len(found) == len(boxes) == 100 and sorted(rows) == list(range(100))
    assert distance.min(axis=1).max() < 0.05
    points = golden[f"det{i}_keypoints"]
    np.testing.assert_allclose(found.keypoints[rows, :, :2], points[..., :2], atol=0.05)
    theirs = golden[f"det{i}_keypoints_scores"] if name == TORCHVISION else points[..., 2]
    np.testing.assert_allclose(found.keypoint_scores[rows], theirs, atol=1e-3, rtol=1e-3)
