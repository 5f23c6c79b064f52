"""Keypoints: names, how they move, targets, loss, decoding, evaluation; a tiny model that trains, draws and exports."""

import itertools
import json

import keras
import numpy as np
import pytest
from backend_tools import to_numpy
from PIL import Image
from tiny import tiny_config

import keras_maskrcnn as km
from keras_maskrcnn.branches import KeypointBranch, describe, resolve
from keras_maskrcnn.branches.keypoint_head import decode_keypoints, keypoint_loss, keypoint_targets
from keras_maskrcnn.branches.keypoint_names import PERSON, mirror_pairs
from keras_maskrcnn.data.figures import JOINTS, SKELETON, draw_figures, generate_figures
from keras_maskrcnn.data.loading.batches import BatchMaker
from keras_maskrcnn.inference.found import FoundInstances

FIGURE = KeypointBranch(JOINTS, SKELETON, channels=8, num_convs=1)
CONFIG = tiny_config(num_classes=1, class_names=["figure"], branches=(FIGURE,), norm="batch")
POINTS = [[12, 22, 2], [28, 38, 1], [25, 21, 2], [14, 30, 2], [0, 0, 0], [11, 39, 2]]
MIRRORED = [0, 1, 3, 2, 5, 4]  # left and right hand, left and right foot


# Names and options ------------------------------------------------------------------------------------------------


def test_pairs_follow_from_the_names():
    assert mirror_pairs(PERSON) == tuple(zip(PERSON[1::2], PERSON[2::2], strict=True))
    others = ("LeftEye", "RightEye", "l_ear", "r_ear", "tail L", "tail R", "nostril", "left_only", "LEFT", "RIGHT")
    pairs = (("LeftEye", "RightEye"), ("l_ear", "r_ear"), ("tail L", "tail R"), ("LEFT", "RIGHT"))
    assert mirror_pairs(others) == pairs
    assert KeypointBranch(["a", "b"], pairs=[["a", "b"]]).pairs == (("a", "b"),)


def test_a_branch_is_its_name_or_json():
    assert describe(resolve(("mask", "keypoints"))) == ["mask", "keypoints"]
    person, other = resolve(("keypoints",))[0], KeypointBranch(["a", "b"], [("a", "b")], sigmas=[0.1, 0.2], offset=0.5)
    assert len(person.names) == len(person.sigmas) == 17 and person.skeleton[0] == ("left_ankle", "left_knee")
    for branch in (person, other, FIGURE, KeypointBranch(score="probability")):
        config = tiny_config(branches=("mask", branch))
        again = km.MaskRCNNConfig.from_dict(json.loads(json.dumps(config.to_dict())))
        assert again == config and again.branches[1] == branch and hash(again.branches[1]) == hash(branch)
    assert other != person and other.sigmas == (0.1, 0.2)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"names": ["a", "a"]}, r"names must be different.*Received: \['a', 'a'\]"),
        ({"names": []}, "names must be different"),
        ({"names": ["a", "b"], "skeleton": [[1, 2]]}, r"skeleton must hold pairs of names, which are a, b.*\[1, 2\]"),
        ({"names": ["a", "b"], "pairs": [["a", "c"]]}, "pairs must hold pairs"),
        ({"names": ["a", "b", "c"], "pairs": [["a", "b"], ["b", "c"]]}, "pairs must name a keypoint once"),
        ({"sigmas": [0.1]}, r"sigmas must be 17 numbers above 0.*Received: \[0.1\]"),
        ({"score": "softmax"}, "score must be one of"),
        ({"channels": 0}, "channels must be a whole number of at least 1. Received: 0"),
        ({"loss_normalizer": 0}, "loss_normalizer must be None or a number above 0"),
        ({"offset": 3}, "offset must be a number of pixels"),
    ],
)
def test_wrong_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        KeypointBranch(**options)


def test_an_unknown_option_in_a_file_is_refused():
    with pytest.raises(ValueError, match=r"options of its class. Received: \['length'\].*Remove"):
        km.MaskRCNNConfig(num_classes=1, branches=[{"built_in": "keypoints", "length": 3}])


# Data -------------------------------------------------------------------------------------------------------------


def one_object(points=POINTS, branch=FIGURE, attributes=None, **options):
    """The batch of one 64x96 image with an object near its left side."""
    image, mask = np.zeros((64, 96, 3), np.uint8), np.zeros((64, 96), bool)
    mask[20:40, 10:30] = True
    attributes = {"keypoints": np.array(points).ravel().tolist()} if attributes is None else attributes
    dataset = km.data.ArrayDataset([image], [[mask]], class_names=["figure"], attributes=[[attributes]])
    config = tiny_config(num_classes=1, class_names=["figure"], branches=(branch,))
    return BatchMaker(dataset, config, 1, canvas=(128, 128), **options)[0]


class Always:
    """A transform without chance: another view of the sample."""

    def __init__(self, *changes):
        self.changes = changes

    def __call__(self, sample, rng):
        for change in self.changes:
            sample = sample.with_view(change(sample.view))
        return sample


def flip(view):
    return view.flipped_horizontally()


def seen(*changes, **options):
    """(K, [x, y, visibility]) after changes of the view."""
    return one_object(transforms=[Always(*changes)], **options)["gt_keypoints"][0, 0]


def test_a_mirror_exchanges_left_and_right():
    plain = np.array(POINTS, np.float32)
    np.testing.assert_array_equal(seen(), plain)
    expected = plain[MIRRORED] * [-1, 1, 1] + [96, 0, 0]
    expected[expected[:, 2] == 0] = 0
    np.testing.assert_allclose(seen(flip), expected)
    np.testing.assert_allclose(seen(flip, flip), plain)
    upside_down = seen(lambda view: view.flipped_vertically())
    np.testing.assert_allclose(upside_down[2], [14, 64 - 30, 2])  # the left hand is what was the right one
    turned = seen(lambda view: view.turned())  # counter-clockwise: no mirror
    np.testing.assert_allclose(turned[2], [21, 96 - 25, 2])
    np.testing.assert_allclose(
        seen(flip, lambda view: view.flipped_vertically()), seen(*[lambda view: view.turned()] * 2)
    )


def test_scale_and_crop():
    scaled = seen(lambda view: view.resized(128, 96))  # twice as high
    np.testing.assert_allclose(scaled, np.array(POINTS) * [1, 2, 1])
    cropped = seen(lambda view: view.cropped(13, 20, 40, 40))
    expected = np.array(POINTS) - [13, 20, 0]
    expected[[0, 4, 5]] = 0  # left of the crop, or never labelled
    np.testing.assert_allclose(cropped, expected)
    rng = np.random.default_rng(0)
    for _ in range(20):  # any crop: labelled are those inside, at their place
        x, y = rng.integers(0, 11), rng.integers(0, 21)
        found = seen(lambda view, x=x, y=y: view.cropped(int(x), int(y), 30, 17 + int(x)))
        wanted = np.array(POINTS, float) - [x, y, 0]
        inside = (wanted[:, :2] >= 0).all(1) & (wanted[:, 0] <= 17 + x) & (wanted[:, 1] <= 30) & (wanted[:, 2] > 0)
        np.testing.assert_allclose(found, np.where(inside[:, None], wanted, 0))


def test_numbers_of_pixels_become_their_middles():
    branch = KeypointBranch(JOINTS, channels=8, num_convs=1, offset=0.5)
    np.testing.assert_allclose(seen(branch=branch)[0], [12.5, 22.5, 2])
    np.testing.assert_allclose(seen(flip, branch=branch)[0], [83.5, 22.5, 2])


def test_annotations_without_or_with_wrong_keypoints():
    assert not one_object(attributes={"other": 1})["gt_keypoints"].any()
    for points in (POINTS[:5], np.array(POINTS) * [1, 1, 2], [["a", 1, 2]] * 6, np.full((6, 3), np.nan)):
        with pytest.raises(ValueError, match="are 18 numbers.*head, hip, left_hand.*Received .* in annotation 0"):
            one_object(points)


def test_a_wrong_batch_is_refused():
    batch = one_object()
    config = tiny_config(num_classes=1, class_names=["figure"], branches=(FIGURE,))
    km.check_batch(batch, config)
    for wrong in (3, np.nan):
        points = batch["gt_keypoints"].copy()
        points[0, 0, 1, 2] = wrong
        with pytest.raises(
            ValueError, match="finite, with a visibility of 0, 1 or 2. Received .* instance 0 of image 0"
        ):
            km.check_batch(batch | {"gt_keypoints": points}, config)


def coco_file(folder, category, keypoints):
    Image.fromarray(np.zeros((64, 96, 3), np.uint8)).save(folder / "a.png")
    annotation = {"id": 1, "image_id": 1, "category_id": 1, "iscrowd": 0, "area": 400, "bbox": [10, 20, 20, 20]}
    annotation |= {"segmentation": [[10, 20, 30, 20, 30, 40, 10, 40]], "keypoints": keypoints, "num_keypoints": 2}
    content = {"images": [{"id": 1, "file_name": "a.png", "height": 64, "width": 96}], "annotations": [annotation]}
    (folder / "a.json").write_text(json.dumps(content | {"categories": category}))
    return folder / "a.json"


def test_a_coco_file_names_its_keypoints(tmp_path):
    category = {"id": 1, "name": "dog", "keypoints": ["nose", "left_ear", "right_ear"], "skeleton": [[1, 2], [1, 3]]}
    path = coco_file(tmp_path, [category, {"id": 2, "name": "cat"}], [12, 22, 2, 0, 0, 0, 20, 30, 1])
    dataset = km.CocoDataset(path)
    branch = KeypointBranch.for_dataset(dataset)
    assert branch.names == ("nose", "left_ear", "right_ear") and branch.pairs == (("left_ear", "right_ear"),)
    assert branch.skeleton == (("nose", "left_ear"), ("nose", "right_ear")) and branch.sigmas == (0.067,) * 3
    config = tiny_config(num_classes=2, class_names=["dog", "cat"], branches=(branch,))
    batch = BatchMaker(dataset, config, 1)[0]
    np.testing.assert_array_equal(batch["gt_keypoints"][0, 0], [[12, 22, 2], [0, 0, 0], [20, 30, 1]])
    again = km.CocoDataset(write(dataset, tmp_path / "b.json"), tmp_path)
    assert again.keypoints == dataset.keypoints and again.to_coco() == dataset.to_coco()
    assert dataset.to_coco()["annotations"][0]["num_keypoints"] == 2


def write(dataset, path):
    dataset.to_coco(path)
    return path


@pytest.mark.parametrize(
    "categories, note",
    [
        ([{"id": 1, "name": "dog", "keypoints": ["a", "a"]}], "keypoints of the category 'dog' were left out"),
        (
            [{"id": 1, "name": "dog", "keypoints": ["a", 2]}],
            "'dog' were left out: `keypoints` must be a list of different",
        ),
        (
            [{"id": 1, "name": "dog", "keypoints": "nose"}],
            "'dog' were left out: `keypoints` must be a list of different",
        ),
        ([{"id": 1, "name": "dog", "keypoints": ["a"], "skeleton": [[1, 2]]}], "pairs of their numbers"),
        (
            [{"id": 1, "name": "dog", "keypoints": ["a"]}, {"id": 2, "name": "cat", "keypoints": ["b"]}],
            "2 different lists of keypoints",
        ),
    ],
)
def test_names_that_cannot_be_taken_are_told(tmp_path, categories, note):
    with pytest.warns(UserWarning, match=note):
        dataset = km.CocoDataset(coco_file(tmp_path, categories, [1, 1, 2]))
    assert dataset.keypoints is None
    with pytest.raises(ValueError, match="needs a dataset that names its keypoints. Received .*a.json"):
        KeypointBranch.for_dataset(dataset)


def test_figures_have_their_joints_on_them(tmp_path):
    dataset = km.CocoDataset(generate_figures(tmp_path, 12, 64, seed=3))
    assert dataset.keypoints == {"names": list(JOINTS), "skeleton": [list(edge) for edge in SKELETON]}
    count = 0
    for record in dataset.records:
        for instance in record.instances:
            points = np.reshape(instance.attributes["keypoints"], (6, 3))
            window = instance.mask.window(64, 64)
            x, y = points[:, :2].astype(int).T - [[window.x], [window.y]]
            own = points[:, 2] == 2
            assert (points[:, :2] > 0).all() and (points[:, :2] < 64).all() and own.sum() >= 3
            assert window.pixels[y[own], x[own]].all()
            axis, hands = points[1, :2] - points[0, :2], points[2, :2] - points[3, :2]
            assert axis[1] * hands[0] - axis[0] * hands[1] > 0  # the left hand is at the right of the axis
            count += 1
    assert count >= 12
    with pytest.raises(ValueError, match="64 pixels per side are needed. Received num_images=1.*image_size=32"):
        generate_figures(tmp_path, 1, 32)


def test_figures_can_be_told_apart():
    """By their colours, and by NMS: what is no figure's fault is no figure's miss."""
    pairs = 0
    for seed in range(20):
        picture, masks, _ = draw_figures(96, 2, np.random.default_rng(seed))
        colors = [picture[mask].mean(axis=0) for mask in (*masks, ~np.any(masks, axis=0))]
        for i, j in itertools.combinations(range(len(colors)), 2):
            assert np.abs(colors[i] - colors[j]).max() > 70, seed  # 80, but for noise and clipping
        if len(masks) == 2:
            boxes = [[*np.argwhere(mask).min(0), *(np.argwhere(mask).max(0) + 1)] for mask in masks]
            sides = np.minimum(*np.array(boxes)[:, 2:]) - np.maximum(*np.array(boxes)[:, :2])
            areas = [(y2 - y) * (x2 - x) for y, x, y2, x2 in boxes]
            common = np.prod(np.maximum(sides, 0))
            assert common / (sum(areas) - common) <= 0.45, seed  # 0.4, before the later one hides a part of the earlier
            pairs += 1
    assert pairs >= 5


def test_a_figure_without_room_is_left_out():
    for seed in range(3):
        _, masks, joints = draw_figures(64, 30, np.random.default_rng(seed))
        assert 1 <= len(masks) == len(joints) < 10 and min(mask.sum() for mask in masks) > 0
        assert np.sum(masks, axis=0).max() == 1  # the visible parts


# The network's functions ------------------------------------------------------------------------------------------


def test_targets_are_cells_of_the_roi():
    rois = np.array([[[10, 20, 66, 76], [10, 20, 122, 76], [0, 0, 0, 0]]], np.float32)
    points = np.array([[[10, 20, 2], [66, 76, 1], [65.9, 20.99, 2], [9.9, 30, 2], [30, 76.1, 2], [30, 30, 0]]] * 3)
    cells, inside = keypoint_targets(points[None].astype(np.float32), rois, 56)
    np.testing.assert_array_equal(to_numpy(inside)[0, :2], [[True] * 3 + [False] * 3] * 2)
    # On the right and lower edge: the last cells. The second RoI is twice as wide.
    np.testing.assert_array_equal(to_numpy(cells)[0, 0, :3], [0, 55 * 56 + 55, 55])
    np.testing.assert_array_equal(to_numpy(cells)[0, 1, :3], [0, 55 * 56 + 28, 27])


def test_the_loss_is_that_of_a_softmax_over_positions():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(2, 3, 4, 8, 8)).astype(np.float32)
    cells = rng.integers(0, 64, (2, 3, 4)).astype(np.int32)
    counted = rng.random((2, 3, 4)) < 0.5
    flat = logits.reshape(2, 3, 4, 64).astype(np.float64)
    each = np.log(np.exp(flat).sum(-1)) - np.take_along_axis(flat, cells[..., None], -1)[..., 0]
    np.testing.assert_allclose(to_numpy(keypoint_loss(logits, cells, counted)), each[counted].mean(), rtol=1e-5)
    divided = to_numpy(keypoint_loss(logits, cells, counted, normalizer=40.0))
    np.testing.assert_allclose(divided, each[counted].sum() / 80, rtol=1e-5)
    assert to_numpy(keypoint_loss(logits, cells, np.zeros_like(counted))) == 0


def keys_kernel(distance, a=-0.75):
    """Keys' cubic convolution as he wrote it."""
    x = np.abs(distance)
    near, far = (a + 2) * x**3 - (a + 3) * x**2 + 1, a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a
    return np.where(x <= 1, near, np.where(x < 2, far, 0.0))


def resized(maps, height, width):
    """Bicubic resize of (..., M, M) as torch's, in float64."""
    for axis, size in ((-2, height), (-1, width)):
        cells = maps.shape[axis]
        places = (np.arange(size) + 0.5) * cells / size - 0.5
        neighbours = np.floor(places)[:, None] + np.arange(-1, 3)
        weights = keys_kernel(places[:, None] - neighbours)
        rows = np.clip(neighbours, 0, cells - 1).astype(int)
        moved = np.moveaxis(maps, axis, 0)
        maps = np.moveaxis(np.einsum("st,st...->s...", weights, moved[rows]), 0, axis)
    return maps


@pytest.mark.parametrize("kind", ["smooth", "noise"])
def test_decoding_equals_resizing_each_map(kind):
    """Boxes of all sizes: below a pixel, of fewer pixels than cells, of up to four a cell, and larger."""
    rng = np.random.default_rng(5)
    sizes = [(0.4, 3), (1, 56), (17.5, 40.2), (100, 228), (228.1, 60), (300.3, 411), (229, 640), (500.9, 30)]
    sizes += [(243, 0.2), (0.3, 640), (600, 2), (5, 300.1)]
    corners = rng.uniform(0, 20, (len(sizes), 2))
    boxes = np.concatenate([corners, corners + sizes], axis=1).astype(np.float32)[None]
    maps = rng.normal(size=(1, len(sizes), 3, 56, 56)) * 3
    if kind == "smooth":
        maps = resized(rng.normal(size=(1, len(sizes), 3, 14, 14)) * 3, 56, 56)
    maps = maps.astype(np.float32)
    found = {key: to_numpy(value) for key, value in decode_keypoints(maps, boxes, 672, "logit").items()}
    shares = to_numpy(decode_keypoints(maps, boxes, 672, "probability")["keypoint_scores"])
    assert found["keypoints"].shape == (1, len(sizes), 3, 3) and (found["keypoints"][..., 2] == 1).all()
    for r, box in enumerate(boxes[0].astype(np.float64)):
        sides = np.maximum(box[2:] - box[:2], 1)
        width, height = np.ceil(np.float32(sides)).astype(int)
        large = resized(maps[0, r].astype(np.float64), height, width)
        for k in range(3):
            row, column = np.unravel_index(large[k].argmax(), large[k].shape)
            place = box[:2] + (np.array([column, row]) + 0.5) * sides / (width, height)
            np.testing.assert_allclose(found["keypoints"][0, r, k, :2], place, atol=1e-3)
            np.testing.assert_allclose(found["keypoint_scores"][0, r, k], large[k].max(), atol=1e-4)
            share = np.exp(large[k].max()) / np.exp(maps[0, r, k].astype(np.float64)).sum()
            np.testing.assert_allclose(shares[0, r, k], share, rtol=1e-4)


# Results ----------------------------------------------------------------------------------------------------------


def found_of(keypoints, boxes, branch=FIGURE, size=(64, 96)):
    values = {"keypoints": np.array(keypoints, np.float32), "keypoint_scores": np.zeros(np.shape(keypoints)[:2])}
    config = tiny_config(num_classes=1, class_names=["figure"], branches=(branch,))
    count = len(boxes)
    return FoundInstances(
        np.array(boxes, np.float32), np.linspace(0.9, 0.5, count), np.zeros(count, int), values, size, config
    )


def test_results_and_drawing():
    points = np.array(POINTS) * [1, 1, 0] + [0, 0, 1]
    found = found_of([points], [[10, 20, 30, 40]])
    result = found.to_coco(7)[0]
    assert result["keypoints"] == points.ravel().tolist() and result["bbox"] == [10, 20, 20, 20]
    shifted = found_of([points], [[10, 20, 30, 40]], KeypointBranch(JOINTS, offset=0.5)).to_coco(7)[0]
    assert shifted["keypoints"][:3] == [11.5, 21.5, 1.0]
    picture = km.draw_instances(np.zeros((64, 96, 3), np.uint8), found, captions=False, boxes=False, enlarge=2)
    middle = points[0, :2] + points[1, :2]  # of head and hip, in the enlarged picture
    assert picture[middle[1], middle[0]].any() and (picture[44, 24] == 255).all()
    assert not picture[:, 130:].any()


def test_values_move_with_scale_and_offset():
    values = {"keypoints": np.array([[[2.0, 3.0, 1.0]]]), "keypoint_scores": np.array([[4.0]])}
    moved = FIGURE.move(values, np.array([[2.0, 10.0]]), np.array([[0.5, 7.0]]))
    np.testing.assert_allclose(moved["keypoints"], [[[4.5, 37, 1]]])
    assert moved["keypoint_scores"] is values["keypoint_scores"]


class FoundAgain:
    """A model that finds what it is given; `Predictor` takes it."""

    def __init__(self, config, boxes, keypoints):
        self.config, self.boxes, self.keypoints = config, boxes, keypoints

    def predict_on_batch(self, batch):
        boxes, points = self.boxes.pop(0), self.keypoints.pop(0)
        return {
            "boxes": boxes[None],
            "scores": np.linspace(0.99, 0.5, len(boxes), dtype=np.float32)[None],
            "labels": np.zeros((1, len(boxes)), np.int32),
            "valid": np.ones((1, len(boxes)), bool),
            "keypoints": points[None],
            "keypoint_scores": np.ones((1, *points.shape[:2]), np.float32),
        }


def stock_keypoints(truth, results, sigmas):
    """pycocotools' figures with these tolerances."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    index = COCO()
    index.dataset = truth
    index.createIndex()
    evaluation = COCOeval(index, index.loadRes(results), "keypoints")
    evaluation.params.kpt_oks_sigmas = np.array(sigmas)
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    return evaluation.stats


def test_the_evaluation_is_pycocotools(tmp_path):
    dataset = km.CocoDataset(generate_figures(tmp_path, 12, 96, seed=1))
    rng, boxes, points = np.random.default_rng(0), [], []
    for record in dataset.records:
        known = np.array([np.reshape(one.attributes["keypoints"], (6, 3)) for one in record.instances])
        known = np.repeat(known, 12, axis=0)  # more than the twenty that count, where there are two
        moved = known + np.concatenate(
            [rng.normal(size=(*known.shape[:2], 2)) * rng.uniform(0.2, 3), known[..., :1] * 0], 2
        )
        points.append((moved * [1, 1, 0] + [0, 0, 1]).astype(np.float32))
        boxes.append(np.repeat(np.array([one.box for one in record.instances]), 12, axis=0).astype(np.float32))
    sigmas = (0.05, 0.1, 0.15, 0.15, 0.2, 0.2)
    branch = KeypointBranch(JOINTS, SKELETON, sigmas=sigmas)
    config = tiny_config(num_classes=1, class_names=["figure"], branches=(branch,), max_detections=24)
    results = [
        result
        for record, b, p in zip(dataset.records, boxes, points, strict=True)
        for result in FoundInstances(
            b,
            np.linspace(0.99, 0.5, len(b), dtype=np.float32),
            np.zeros(len(b), int),
            {"keypoints": p},
            (96, 96),
            config,
        ).to_coco(record.image_id)
    ]
    model = FoundAgain(config, boxes, points)
    model.input_dtype = "float32"
    metrics = km.evaluate_coco(model, dataset)
    stock = stock_keypoints(dataset.to_coco(), results, sigmas)
    ours = [metrics[f"keypoints_{name}"] for name in ("AP", "AP50", "AP75", "APm", "APl", "AR20")]
    np.testing.assert_allclose(ours, [*stock[:5], stock[5]], atol=1e-9)
    assert 0.05 < metrics["keypoints_AP"] < 0.95 and metrics["bbox_AP"] > 0
    assert "keypoints" in km.format_metrics(metrics)


def test_the_head_learns_and_detects():
    """Alone, on random maps."""
    head = FIGURE.make_head(CONFIG, None)
    head.build(None)
    rng = np.random.default_rng(0)
    maps = [rng.normal(size=(2, 24 // 2**k, 24 // 2**k, 32)).astype(np.float32) for k in range(4)]
    boxes = np.array([[[5, 5, 60, 80], [10, 20, 30.5, 41], [0, 0, 0, 0]]] * 2, np.float32)
    found = {key: to_numpy(value) for key, value in head.detect(maps, {"boxes": boxes}).items()}
    points, boxes_of = found["keypoints"][:, :2, :, :2], boxes[:, :2, None]
    assert found["keypoints"].shape == (2, 3, 6, 3) and found["keypoint_scores"].shape == (2, 3, 6)
    assert ((points > boxes_of[..., :2]) & (points < boxes_of[..., 2:])).all() and points.std(axis=2).min() > 1
    rois = {"rois": boxes, "matched": np.zeros((2, 3), np.int32), "labels": np.zeros((2, 3), np.int32)}
    rois["positive"] = np.array([[True, True, False], [True, False, False]])
    rois = {key: keras.ops.convert_to_tensor(value) for key, value in rois.items()}
    truth = {"gt_keypoints": np.tile(np.array(POINTS, np.float32), (2, 1, 1, 1))}
    learned = head.learn(maps, rois, truth, True)
    counted = to_numpy(learned["counted"])
    assert counted.shape[2] == 6 and counted[0, 0].tolist() == [True, True, True, True, False, True]
    assert counted[0, 1].tolist() == [True, True, True, True, False, True] and not counted[1, 1:].any()
    loss = to_numpy(head.loss_values(learned)["keypoint_loss"])
    np.testing.assert_allclose(loss, np.log(56 * 56), atol=2)  # knows nothing yet


def test_the_deconvolution_is_that_of_its_layer():
    head = FIGURE.make_head(CONFIG, None)
    head.build(None)
    rng = np.random.default_rng(0)
    head.deconv.bias.assign(rng.normal(size=6))
    features = rng.normal(size=(3, 14, 14, 8)).astype(np.float32)
    expected = to_numpy(head.deconv(features)).transpose(0, 3, 1, 2)
    assert expected.shape == (3, 6, 28, 28) and expected.std() > 0.1
    np.testing.assert_allclose(to_numpy(head._enlarge(features)), expected, atol=1e-5)


# A model ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A model with masks and keypoints that saw eight steps, its history, and its data."""
    dataset = km.CocoDataset(generate_figures(tmp_path_factory.mktemp("figures"), 8, 96, seed=1))
    keras.utils.set_random_seed(0)
    config = tiny_config(num_classes=1, class_names=["figure"], branches=("mask", FIGURE), norm="batch")
    model = km.MaskRCNN(config)
    model.compile(keras.optimizers.AdamW(2e-3, global_clipnorm=5.0))
    loader = km.DataLoader(dataset, config, 4, canvas=(96, 96), augmentation=[km.data.RandomFlip()])
    return model, model.fit(loader, epochs=4, shuffle=False, verbose=0).history, dataset


@pytest.mark.slow
@pytest.mark.slow_on_jax
def test_it_trains_and_predicts_beside_masks(trained, tmp_path):
    model, history, dataset = trained
    assert 0 < history["keypoint_loss"][-1] < history["keypoint_loss"][0] < 12
    image = dataset.load_image(0)
    found = km.Predictor(model)(image)
    assert len(found) > 0 and found.keypoints.shape == (len(found), 6, 3) and found.masks.shape[1:] == (96, 96)
    low, high = found.boxes[:, None, :2] - 0.01, found.boxes[:, None, 2:] + 1.01
    assert ((found.keypoints[..., :2] >= low) & (found.keypoints[..., :2] <= high)).all()
    assert (found.keypoints[..., 2] == 1).all() and found.keypoint_scores.shape == (len(found), 6)
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras", compile=False)
    assert again.config == model.config
    weights = zip(model.weights, again.weights, strict=True)
    assert all(np.array_equal(to_numpy(ours), to_numpy(theirs)) for ours, theirs in weights)


@pytest.mark.slow
@pytest.mark.tensorflow
def test_the_saved_model_finds_the_same(trained, tmp_path):
    from keras_maskrcnn.serving.saved_model_predictor import SavedModelPredictor

    model, _, dataset = trained
    image = dataset.load_image(1)
    km.export_saved_model(model, tmp_path / "exported")
    theirs, ours = SavedModelPredictor(tmp_path / "exported")(image), km.Predictor(model)(image)
    assert len(theirs) == len(ours) > 0
    np.testing.assert_allclose(theirs.keypoints, ours.keypoints, atol=1e-2)
    np.testing.assert_allclose(theirs.keypoint_scores, ours.keypoint_scores, atol=1e-3)


class Unusual(KeypointBranch):
    """A branch whose head has operators that no converter has."""

    name = "unusual"
    refused_graphs = ("onnx", "litert")


@pytest.mark.tensorflow
@pytest.mark.parametrize("suffix", [".onnx", ".tflite"])
def test_files_without_operators_for_a_branch_are_refused(tmp_path, suffix):
    from keras_maskrcnn.serving.converting import check_arguments

    config = tiny_config(branches=("mask", Unusual()))
    with pytest.raises(ValueError, match="operators for all branches. .*branch `unusual`. Export a SavedModel"):
        check_arguments(tmp_path / f"model{suffix}", suffix, None, False, config)
    check_arguments(tmp_path / f"model{suffix}", suffix, None, False, CONFIG)


# The command line -------------------------------------------------------------------------------------------------


def model_of_train(monkeypatch, annotations, *given):
    """The config that `train` makes for a dataset."""
    from keras_maskrcnn.cli import build_parser, settling, train

    monkeypatch.setattr("keras_maskrcnn.model.MaskRCNN", lambda config, seed: config)
    given = ["train", "--images", "x", "--val-images", "y", "--epochs", "1", *given]
    return train._model_to_train(settling.settle(build_parser().parse_args(given)), km.CocoDataset(annotations))


def test_train_takes_the_branches(tmp_path, monkeypatch):
    annotations = generate_figures(tmp_path, 2, 64)
    names = {given: [] for given in ((), ("keypoints",), ("mask", "keypoints"))}
    for given in names:
        config = model_of_train(monkeypatch, annotations, *(("--branches", *given) if given else ()))
        names[given] = [branch.name for branch in config.branches]
    assert list(names.values()) == [["mask"], ["keypoints"], ["mask", "keypoints"]]
    assert config.branches[1] == KeypointBranch(JOINTS, SKELETON)
    with pytest.raises(ValueError, match="is of a model with --branches mask. Received --branches keypoints"):
        model_of_train(monkeypatch, annotations, "--branches", "keypoints", "--weights", "coco")


def test_results_of_any_program_are_evaluated(tmp_path, capsys):
    from keras_maskrcnn import cli

    annotations = generate_figures(tmp_path, 3, 64)
    truth = json.loads(annotations.read_text())["annotations"]
    kept = ("image_id", "category_id", "bbox", "keypoints")
    results = [{key: one[key] for key in kept} | {"score": 0.9} for one in truth]
    (tmp_path / "results.json").write_text(json.dumps(results))
    figures = tmp_path / "figures.json"
    command = ["evaluate", "--results", str(tmp_path / "results.json"), "--images", str(tmp_path / "images")]
    assert cli.main([*command, "--annotations", str(annotations), "--json", str(figures)]) == cli.SUCCESS
    metrics = json.loads(figures.read_text())
    assert metrics["keypoints_AP"] == metrics["bbox_AP"] == 1.0 and "segm_AP" not in metrics
    assert metrics["keypoints_AR20"] == 1.0 and "keypoints" in capsys.readouterr().out
    # COCO counts 20 detections of keypoints and 100 others, unless a number is given for all.
    assert cli.main([*command, "--annotations", str(annotations), "--json", str(figures), "--max-detections", "7"]) == 0
    metrics = json.loads(figures.read_text())
    assert metrics["bbox_AR7"] == metrics["keypoints_AR7"] == 1.0 and "keypoints_AR20" not in metrics
