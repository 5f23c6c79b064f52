"""Matterport's own numbers (tests/golden/matterport_*): with its weights, rebuilt by name, this package has them too.

First its functions one by one, then all stages of three images, each from what the stage before it gave there; the
model is slow.
"""

import functools

import numpy as np
import pytest
from backend_tools import compiled, jitted, to_numpy
from keras.ops import convert_to_tensor as as_tensor
from matterport_parts import golden_state, make_tensor
from torchvision_golden import GOLDEN, unpack

import keras_maskrcnn as km
from keras_maskrcnn.geometry.pasting import paste_mask_windows, stack_windows
from keras_maskrcnn.geometry.resizing import canvas_size, network_size, pad_to_canvas, resize_image
from keras_maskrcnn.inference.frames import boxes_in_image
from keras_maskrcnn.inference.predictor import NetworkBatch, Predictor
from keras_maskrcnn.network.backbones import describe
from keras_maskrcnn.network.detections import select_best_classes
from keras_maskrcnn.network.roi_align import MultiLevelRoIAlign
from keras_maskrcnn.network.rpn import select_proposals_jointly

LAST = 255  # of the square's pixels: what boxes are divided by
XY = [1, 0, 3, 2]
WEIGHTS = (10.0, 10.0, 5.0, 5.0)
FREE = float(np.log(1e30))  # no limit of growth


@pytest.fixture(scope="module")
def functions():
    return np.load(GOLDEN / "matterport_ops.npz")


def relative(ours, golden):
    return np.abs(ours - golden).max() / np.abs(golden).max()


# Functions -------------------------------------------------------------------------------------------------------


def test_sizes(functions):
    for height, width, least, most, top, left, bottom, right, _ in functions["resize_table"].astype(int):
        config = km.MaskRCNNConfig.matterport(min_dim=int(least), max_dim=int(most))
        assert network_size(int(height), int(width), config) == (bottom - top, right - left)
        assert ((most - (bottom - top)) // 2, (most - (right - left)) // 2) == (top, left)


def test_resizes(functions):
    image = functions["resize_in"]
    for key in ("resize_61x88", "resize_19x27", "resize_37x80"):
        golden = functions[key]
        ours = resize_image(image, golden.shape[:2], "skimage")
        whole = np.abs(golden - np.round(golden)) > 1e-4  # of whole numbers float32 does not say which side they are on
        np.testing.assert_array_equal(ours[whole], np.floor(golden)[whole])
        assert np.abs(ours - golden).max() < 1.0001 and whole.mean() > 0.5


def test_boxes_in_the_image(functions):
    boxes = functions["denorm_in"][:, XY]
    inclusive = boxes * LAST  # on a square without border
    ours = boxes_in_image(inclusive + [0, 0, 1, 1], (LAST + 1, LAST + 1), (97, 131), "square")
    golden = functions["denorm_97x131"][:, XY]
    halves = np.abs(boxes * [130, 96, 130, 96] % 1 - 0.5) < 1e-4  # float32 decides, in pixels as in shares
    inside = ~halves.any(axis=1) & (golden >= 0).all(axis=1) & (golden <= [131, 97, 131, 97]).all(axis=1)
    assert inside.sum() > 20
    np.testing.assert_array_equal(ours[inside], golden[inside])


def test_masks_in_the_image(functions):
    masks, boxes = functions["unmold_masks"], functions["unmold_boxes"][:, XY]
    golden = unpack(functions["unmold_packed"], 110).astype(bool)
    ours = stack_windows(paste_mask_windows(masks, boxes, (90, 110), pasting="matterport"), (90, 110))
    assert (ours != golden).sum() <= 2 and golden.any(axis=(1, 2)).all()  # where float32 rounds to one half
    plain = stack_windows(paste_mask_windows(masks, boxes, (90, 110), pasting="detectron2"), (90, 110))
    assert (plain != golden).sum() > 20  # the values are kept in the mask's range


@pytest.mark.parametrize("bins", [7, 14])
def test_crops(functions, bins):
    maps = [
        make_tensor(0, f"ops/P{level}", (1, 1024 >> level, 1024 >> level, 4), "normal", 1)[:, :, :]
        for level in range(2, 6)
    ]
    boxes = functions["roi_boxes"][:, XY] * 1023
    align = MultiLevelRoIAlign(bins, sampling="crop", level_rule="matterport")
    ours = to_numpy(jitted(align)(maps, boxes[None].astype(np.float32)))[0]
    places = functions[f"roi_{bins}_idx"]
    kept = ~functions["roi_lost_border"].astype(bool)[places // (bins * bins * 4)]
    assert kept.mean() > 0.7
    golden = functions[f"roi_{bins}_val"]
    np.testing.assert_allclose(ours.ravel()[places][kept], golden[kept], atol=2e-4)
    for wrong in ({"sampling": "align"}, {"level_rule": "torchvision"}):
        align = MultiLevelRoIAlign(bins, **({"sampling": "crop", "level_rule": "matterport"} | wrong))
        other = to_numpy(jitted(align)(maps, boxes[None].astype(np.float32)))[0]
        assert np.abs(other.ravel()[places][kept] - golden[kept]).max() > 0.1


@pytest.mark.parametrize(("threshold", "most"), [(0.7, 100), (0.5, 25), (0, 100)])
def test_detections_of_a_table(functions, threshold, most):
    golden = functions[f"refine_{threshold}_{most}"]
    (top, left, bottom, right), best = functions["refine_window"], functions["refine_probs"].max(axis=1, keepdims=True)
    # Some rows of the table do not add up to one: what is not the best class is scaled, and counts for nothing.
    others = np.where(functions["refine_probs"] == best, 0, functions["refine_probs"])
    probabilities = np.where(others == 0, best, others * (1 - best) / others.sum(axis=1, keepdims=True))
    found = select_best_classes(
        class_logits=as_tensor(np.log(np.roll(probabilities, -1, axis=1))[None]),
        deltas=as_tensor(functions["refine_deltas"][:, 1:, XY][None]),
        proposals=as_tensor(functions["refine_rois"][None][..., XY]),
        proposals_valid=as_tensor(np.ones((1, len(probabilities)), bool)),
        image_sizes=np.array([[bottom - top, right - left]], np.float32),
        origins=np.array([[top, left]], np.float32),
        score_threshold=threshold,
        nms_threshold=0.3,
        class_agnostic_nms=False,
        max_detections=most,
        candidates=10,
        box_weights=WEIGHTS,
        min_box_size=0.0,
        max_log_scale=FREE,
    )
    found = {key: to_numpy(value)[0] for key, value in found.items()}
    theirs = golden[golden[:, 4] > 0]
    ours = np.concatenate([found["boxes"][:, XY], found["labels"][:, None] + 1, found["scores"][:, None]], axis=1)
    ours = ours[found["valid"]]
    assert len(ours) == len(theirs) > 5
    by_row = lambda rows: rows[np.lexsort(np.round(rows, 4).T)]  # noqa: E731  (equal scores stand in any order)
    np.testing.assert_allclose(by_row(ours), by_row(theirs), atol=2e-5)


@pytest.mark.parametrize(("before", "after"), [(6000, 1000), (200, 40)])
def test_proposals_of_a_table(functions, before, after):
    golden, probabilities = functions[f"proposal_{before}_{after}"], functions["proposal_probs"][:, 1].astype("float64")
    logits = np.log(probabilities / (1 - probabilities))
    anchors, deltas = functions["proposal_anchors"][:, XY], functions["proposal_deltas"][:, XY]
    parts = [slice(0, 300), slice(300, 500), slice(500, 600)]  # of levels, which count for nothing
    found = select_proposals_jointly(
        logits=[as_tensor(logits[part][None].astype(np.float32)) for part in parts],
        deltas=[as_tensor(deltas[part][None]) for part in parts],
        anchors=[as_tensor(anchors[part]) for part in parts],
        anchors_valid=[None] * 3,
        image_sizes=np.ones((1, 2), np.float32),
        pre_nms=before,
        post_nms=after,
        nms_threshold=0.7,
        min_size=0.0,
        box_weights=WEIGHTS,
        max_log_scale=FREE,
        filled=True,
    )
    ours = to_numpy(found["boxes"])[0][:, XY]
    assert to_numpy(found["valid"]).all() and len(ours) == min(after, 600)
    kept = np.abs(golden).sum(axis=1) > 0
    np.testing.assert_allclose(ours, golden[: len(ours)], atol=1e-6)
    assert kept.sum() == (np.abs(ours).sum(axis=1) > 0).sum() > 30


def test_joint_proposals_leave_out_anchors_beyond_the_image_and_small_boxes():
    corners = np.float32([[0, 0, 9, 9], [20, 0, 29, 9], [40, 0, 42, 9], [60, 0, 69, 9], [61, 0, 70, 9]])
    found = select_proposals_jointly(
        logits=[as_tensor(np.float32([[3, 2, 4]])), as_tensor(np.float32([[0, -1]]))],
        deltas=[as_tensor(np.zeros((1, 3, 4), np.float32)), as_tensor(np.zeros((1, 2, 4), np.float32))],
        anchors=[as_tensor(corners[:3]), as_tensor(corners[3:])],
        anchors_valid=[as_tensor(np.array([[False, True, True]])), as_tensor(np.array([[True, True]]))],
        image_sizes=np.full((1, 2), 100, np.int32),
        pre_nms=5,
        post_nms=4,
        nms_threshold=0.5,
        min_size=5.0,
        box_weights=WEIGHTS,
        max_log_scale=FREE,
    )
    kept, boxes, scores = (to_numpy(found[name])[0] for name in ("valid", "boxes", "scores"))
    np.testing.assert_allclose(boxes[kept], corners[[1, 3]], atol=1e-5)  # the last one overlaps the one before
    np.testing.assert_allclose(scores[kept], 1 / (1 + np.exp([-2.0, 0.0])), rtol=1e-6)
    assert not boxes[~kept].any() and not scores[~kept].any()


# The model -------------------------------------------------------------------------------------------------------


@functools.lru_cache(maxsize=1)
def twin():
    """The model with the golden weights, and the golden numbers."""
    config = km.MaskRCNNConfig.matterport("resnet50", 80, min_dim=192, max_dim=256, test_post_nms=300)
    model = km.MaskRCNN(config)
    receipt = km.load_weights(model, golden_state())
    assert receipt.complete and not receipt.left_over and not receipt.notes
    return model, np.load(GOLDEN / "matterport_resnet50.npz")


@functools.lru_cache(maxsize=3)
def stages(i):
    """What the model finds in image i, and what its heads give for the golden proposals."""
    model, golden = twin()
    image, config = golden[f"image{i}"], model.config
    size = network_size(*image.shape[:2], config)
    canvas = pad_to_canvas(resize_image(image, size, config.resize), canvas_size(*size))[None]
    theirs = (golden[f"proposals{i}"][None][..., XY] * LAST).astype(np.float32)

    def run(images, image_sizes, boxes):
        placed, normalized = model.frame.place(images, image_sizes)
        placed = describe(model.backbone).normalize(placed, normalized, config.pixel_mean, config.pixel_std)
        features = model.extract_features(images, image_sizes)
        proposals = model.propose(features)
        found = model.describe(features, model.detect(features, proposals))
        pooled = model.box_align(features["roi_maps"], boxes)
        heads = {"pooled": pooled, **model.box_head(pooled)}
        rpn = {name: proposals[name] for name in ("logits", "deltas", "anchors", "boxes")}
        return placed, features["pyramid"], rpn, heads, found

    outputs = compiled(run, model.variables)(canvas, np.array([size], np.int32), theirs)
    placed, pyramid, rpn, heads, found = outputs
    named = [{name: to_numpy(value) for name, value in part.items()} for part in (rpn, heads, found)]
    return size, to_numpy(placed), to_numpy(pyramid), *named


def near(golden, key, i, array, kept=slice(None), tolerance=1e-4):
    """Whether an array has the golden numbers, relative to the largest."""
    ours = np.asarray(array).ravel()[golden[f"{key}_idx"]]
    return relative(ours[kept], golden[f"{key}_val{i}"][kept]) < tolerance


@pytest.mark.slow
@pytest.mark.parametrize("i", [0, pytest.param(1, marks=pytest.mark.slow_on_jax), 2])
def test_input_features_and_rpn(i):
    _, golden = twin()
    size, placed, pyramid, rpn, _, _ = stages(i)
    top, left, bottom, right = golden[f"window{i}"]
    assert size == (bottom - top, right - left)
    np.testing.assert_allclose(placed.ravel()[golden["molded_idx"]], golden[f"molded_val{i}"], atol=1e-4)
    for level in range(2, 7):
        assert near(golden, f"P{level}", i, pyramid[level - 2])
    logits, deltas, anchors = (np.concatenate([level.reshape(-1, n) for level in rpn[name]]) for name, n in
                               (("logits", 1), ("deltas", 4), ("anchors", 4)))  # fmt: skip
    assert near(golden, "rpn_bbox", i, deltas[:, XY])
    objects = 1 / (1 + np.exp(-logits.astype("float64")))
    assert near(golden, "rpn_class", i, np.concatenate([1 - objects, objects], axis=1))
    assert len(anchors) == golden["num_anchors"]
    normalized = anchors[golden["anchors_rows"]][:, XY] / LAST
    np.testing.assert_allclose(normalized, golden["anchors_normalised"], atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("i", [0, pytest.param(1, marks=pytest.mark.slow_on_jax), 2])
def test_proposals(i):
    _, golden = twin()
    ours, theirs = stages(i)[3]["boxes"][0][:, XY], golden[f"proposals{i}"] * LAST
    distance = np.abs(ours[:, None] - theirs[None]).max(axis=-1)
    stable = golden[f"proposals{i}_stable"].astype(bool)
    assert (distance.min(axis=0) < 0.05)[stable].all() and (distance.min(axis=1) < 0.05).mean() >= 0.9


@pytest.mark.slow
@pytest.mark.parametrize("i", [0, pytest.param(1, marks=pytest.mark.slow_on_jax), 2])
def test_heads_on_their_proposals(i):
    _, golden = twin()
    heads, lost = stages(i)[4], golden[f"proposals{i}_lost_border"].astype(bool)
    logits = np.roll(heads["class_logits"][0], 1, axis=-1)
    keys = (("roi_align_classifier", heads["pooled"][0]), ("mrcnn_class_logits", logits))
    for key, array in keys:
        kept = ~lost[golden[f"{key}_idx"] // array[0].size]
        assert kept.mean() > 0.7 and near(golden, key, i, array, kept)
    places = golden["mrcnn_bbox_idx"]
    row, label, side = places // 324, places % 324 // 4, places % 4
    kept = ~lost[row] & (label > 0)
    ours = heads["deltas"][0][row, label - 1, np.array(XY)[side]]
    assert relative(ours[kept], golden[f"mrcnn_bbox_val{i}"][kept]) < 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("i", [0, pytest.param(1, marks=pytest.mark.slow_on_jax), 2])
def test_detections_and_masks(i):
    model, golden = twin()
    image = golden[f"image{i}"]
    batch = NetworkBatch(Predictor(model), [image.shape[:2]])
    batch.outputs = stages(i)[5] | {"image_sizes": np.array([stages(i)[0]], np.int32)}
    found = batch.found(0, image)
    boxes, labels, scores = (golden[f"det{i}_{key}"] for key in ("rois", "class_ids", "scores"))
    alike = (found.labels[None] + 1 == labels[:, None]) & (np.abs(found.scores[None] - scores[:, None]) < 1e-3)
    alike &= (found.boxes[:, XY][None] == boxes[:, None]).all(axis=-1)
    hit, stable = alike.any(axis=1), golden[f"det{i}_stable"].astype(bool)
    assert hit[stable].all() and hit.mean() >= 0.9 and stable.sum() >= 20
    theirs = unpack(golden[f"det{i}_masks_packed"], image.shape[1]).astype(bool)[hit]
    ours = found.masks[alike.argmax(axis=1)[hit]]
    overlaps = (ours & theirs).sum(axis=(1, 2)) / (ours | theirs).sum(axis=(1, 2))
    assert overlaps[stable[hit]].min() >= 0.98 and np.median(overlaps) == 1.0
