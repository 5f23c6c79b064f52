"""Tensorpack: its config, the rule of each stage in numpy, and its .npz files.

Where each tensor goes is in test_family_tensors.py.
"""

import io
import math
import pickle
import zipfile

import numpy as np
import pytest
from backend_tools import to_numpy
from family_parts import SMALL, faults, small_tensorpack, tensorpack_rows, with_state

import keras_maskrcnn as km
from keras_maskrcnn import cli
from keras_maskrcnn.geometry.boxes import decode_boxes
from keras_maskrcnn.inference.frames import boxes_in_image
from keras_maskrcnn.network.roi_align import assign_levels
from keras_maskrcnn.weights.convert import build_model
from keras_maskrcnn.weights.limits import WeightFileError
from keras_maskrcnn.weights.loading import read_state
from keras_maskrcnn.weights.models import load_model
from keras_maskrcnn.weights.tensorpack import read_config


def test_the_config():
    config = km.MaskRCNNConfig.tensorpack("COCO-MaskRCNN-R50FPN2x", num_classes=80)
    assert (config.backbone, config.stride_in_1x1, config.norm_epsilon) == ("resnet50", False, 1e-5)
    assert config.pixel_mean == (123.675, 116.28, 103.53) and config.pixel_std == (58.395, 57.12, 57.375)
    assert (config.resize, config.size_rule, config.min_size, config.max_size) == ("opencv", "round", 800, 1333)
    assert (config.roi_sampling_ratio, config.roi_aligned, config.anchor_rounding) == (2, True, False)
    assert (config.level_rule, config.mask_pasting) == ("tensorpack", "detectron2")
    assert config.max_log_scale == pytest.approx(math.log(1333 / 16)) and config.box_scaling == "mean"
    assert config.class_names[0] == "person" and config.category_ids[-1] == 90
    assert km.MaskRCNNConfig.from_dict(config.to_dict()) == config
    config = km.MaskRCNNConfig.tensorpack("COCO-MaskRCNN-R101FPN1x", 3, max_size=1344)
    assert config.backbone == "resnet101" and config.max_box_growth == 84 and config.class_names[0] == "class 0"
    with pytest.raises(ValueError, match="must be one of COCO-MaskRCNN-R50FPN2x, .*Received: 'COCO-MaskRCNN-R50FPN3x'"):
        km.MaskRCNNConfig.tensorpack("COCO-MaskRCNN-R50FPN3x")


def test_the_level_of_a_box():
    """floor(4 + log2(s / 224 + 1e-6)) in float32: model_fpn.py."""
    sides = np.array([3, 55.9, 111.9, 112, 223, 223.9, 223.9999, 224, 447.99, 448, 800], np.float32)
    boxes = np.stack([0 * sides, 0 * sides, sides, sides], axis=1)
    quotients = sides * np.float32(1 / 224) + np.float32(1e-6)
    expected = np.clip(np.floor(4 + np.log(quotients) * np.float32(1 / np.log(2))), 2, 5) - 2
    np.testing.assert_array_equal(to_numpy(assign_levels(boxes, rule="tensorpack")), expected)
    # Just below a border the added millionth lifts a box, which Detectron2's addition does not.
    border = np.array([[0, 0, 223.9999, 223.9999]], np.float32)
    assert [int(assign_levels(border, rule=rule)[0]) for rule in ("tensorpack", "detectron2")] == [2, 1]


def test_boxes_grow_at_most_by_a_sixteenth_of_the_long_side():
    """decode_bbox_target of model_box.py."""
    config = km.MaskRCNNConfig.tensorpack(num_classes=1)
    rng = np.random.default_rng(0)
    corner, side = rng.uniform(0, 50, (40, 2)), rng.uniform(5, 60, (40, 2))
    anchors = np.concatenate([corner, corner + side], axis=1).astype(np.float32)
    deltas = (rng.normal(size=(40, 4)) * [1, 1, 4, 4]).astype(np.float32)
    size, centre = anchors[:, 2:] - anchors[:, :2], (anchors[:, 2:] + anchors[:, :2]) / 2
    grown = np.exp(np.minimum(deltas[:, 2:], np.log(1333 / 16))) * size
    middle = deltas[:, :2] * size + centre
    expected = np.concatenate([middle - grown / 2, middle + grown / 2], axis=1)
    found = to_numpy(decode_boxes(deltas, anchors, max_log_scale=config.max_log_scale))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-2)
    assert (deltas[:, 2:] > np.log(1333 / 16)).any()


@pytest.fixture(scope="module")
def parts():
    return small_tensorpack()


@pytest.mark.slow_on_jax
def test_anchors_are_not_rounded(parts):
    """get_all_anchors of model_rpn.py: w = sqrt(s * s / r), h = r * w, centred on multiples of the stride."""
    model, _, _ = parts
    for cells, size in zip(model.cells, (32, 64, 128, 256, 512), strict=True):
        widths = np.sqrt(size * size / np.array([0.5, 1, 2]))
        heights = np.array([0.5, 1, 2]) * widths
        np.testing.assert_allclose(cells, np.stack([-widths, -heights, widths, heights], axis=1) / 2, rtol=1e-6)


def test_boxes_return_to_the_image_by_one_scale():
    """predict_image of eval.py: sqrt of the product of both quotients, then clipped."""
    boxes = np.array([[10, 20, 600, 700], [0, 0, 1067, 800]], np.float32)
    found = boxes_in_image(boxes, (800, 1067), (480, 640), scaling="mean")
    scale = np.sqrt(800 / 480 * 1067 / 640)
    expected = np.clip(boxes / scale, 0, [640, 480, 640, 480])
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert abs(found - boxes_in_image(boxes, (800, 1067), (480, 640))).max() > 0.05


def test_roi_align_equals_cropping_twice_the_size_on_a_mirrored_border():
    """roi_align of model_box.py in numpy: half-pixel samples on a map padded by one, then the mean of 2x2."""
    rng = np.random.default_rng(0)
    features = rng.normal(size=(1, 12, 15, 2)).astype(np.float32)
    boxes = np.array([[0, 0, 15, 12], [3.2, 1.7, 9.9, 11.1], [10, 0, 15, 3], [4, 4, 4.5, 4.5]], np.float32)
    padded = np.pad(features[0], [(1, 1), (1, 1), (0, 0)], mode="symmetric").astype(np.float64)
    expected = np.zeros((len(boxes), 7, 7, 2))
    for row, (x1, y1, x2, y2) in enumerate(boxes + 1.0):
        ys = y1 + (np.arange(14) + 0.5) * (y2 - y1) / 14 - 0.5
        xs = x1 + (np.arange(14) + 0.5) * (x2 - x1) / 14 - 0.5
        low_y, low_x = np.floor(ys).astype(int), np.floor(xs).astype(int)
        fy, fx = (ys - low_y)[:, None, None], (xs - low_x)[None, :, None]
        corner = lambda dy, dx: padded[(low_y + dy)[:, None], (low_x + dx)[None]]  # noqa: B023, E731
        upper = corner(0, 0) * (1 - fx) + corner(0, 1) * fx
        lower = corner(1, 0) * (1 - fx) + corner(1, 1) * fx
        expected[row] = (upper * (1 - fy) + lower * fy).reshape(7, 2, 7, 2, 2).mean((1, 3))
    found = km.ops.roi_align(features, boxes, np.zeros(len(boxes), np.int32), 7, 1.0, sampling_ratio=2, aligned=True)
    np.testing.assert_allclose(to_numpy(found), expected, atol=1e-5)


# Files ---------------------------------------------------------------------------------------------------------


@pytest.mark.slow_on_jax
def test_a_file_round_trips(tmp_path, parts):
    model, rows, state = parts
    training = {
        "global_step": np.int64(7),
        "learning_rate": np.float32(0.1),
        "conv0/W/Momentum": np.zeros(3, np.float32),
        "EMA/QueueInput/queue_size": np.zeros((), np.float32),
    }
    path = tmp_path / "COCO-MaskRCNN-R50FPN2x.npz"
    np.savez_compressed(path, **{f"{name}:0": array for name, array in (state | training).items()})
    receipt = km.load_weights(model, path)
    assert faults(rows, state) == [] and receipt.complete and not receipt.notes
    assert {name for name, _ in receipt.left_over} == set(training) and len(receipt.sha256) == 64
    assert receipt.family == "tensorpack" and receipt.licence.startswith("Apache-2.0")


def deep(state, counts=(3, 4, 6, 3)):
    """The names of a whole backbone in a state dict of a small one, without their numbers."""
    names = [f"group{g}/block{b}/conv1/W" for g, count in enumerate(counts) for b in range(count)]
    return {**dict.fromkeys(names, np.zeros((1, 1, 64, 64), np.float32)), **state}


@pytest.mark.slow_on_jax
def test_the_config_follows_from_the_tensors(parts):
    _, _, state = parts
    config, notes = read_config(deep(state), "mine.npz", None, {"min_size": 640})
    assert (config.backbone, config.num_classes, config.fpn_channels) == ("resnet50", 3, SMALL["fpn_channels"])
    assert (config.box_features, config.mask_channels, config.mask_convs) == (24, 8, 4) and config.min_size == 640
    assert config.resize == "opencv" and "not in the file" in notes[0]
    assert read_config(deep(state, (3, 4, 23, 3)), "a.npz")[0].backbone == "resnet101"
    with pytest.raises(ValueError, match='resnet50.*Received architecture="COCO-MaskRCNN-R101FPN1x"'):
        read_config(deep(state), "mine.npz", "COCO-MaskRCNN-R101FPN1x")
    with pytest.raises(ValueError, match="with no pyramid.*fastrcnn/class/W"):
        read_config(deep(state) | {"fastrcnn/class/W": np.zeros(3)}, "mine.npz")
    with pytest.raises(ValueError, match="with 3 blocks in group2"):
        read_config(deep(state, (3, 4, 3, 3)), "mine.npz")
    with pytest.raises(ValueError, match=r"belong together. Received fastrcnn/fc7/W \(24, 9000\)"):
        read_config(deep(state) | {"fastrcnn/fc7/W": np.zeros((24, 9000), np.float32)}, "mine.npz")
    with pytest.raises(ValueError, match="belong together. Received rpn/conv0/W is missing"):
        read_config({name: array for name, array in deep(state).items() if name != "rpn/conv0/W"}, "mine.npz")


def test_hostile_and_damaged_files_are_refused(tmp_path, monkeypatch):
    path, touched = tmp_path / "a.npz", tmp_path / "touched"

    class Hostile:
        def __reduce__(self):
            return open, (str(touched), "w")

    np.savez(path, w=np.array([Hostile()], object))
    with pytest.raises(WeightFileError, match="a.npz was not read.*object.*no array of numbers"):
        read_state(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("w.npy", pickle.dumps(Hostile()))
    with pytest.raises(WeightFileError, match="a.npz was not read"):
        read_state(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("w.pkl", pickle.dumps(Hostile()))
    with pytest.raises(WeightFileError, match="'w.pkl', which is no array"):
        read_state(path)
    assert not touched.exists()
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("w.npy", b"\x93NUMPY\x04\x00" + bytes(100))
    with pytest.raises(WeightFileError, match=r"Found: w.npy in version \(4, 0\) of numpy's format. "):
        read_state(path)
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": (10**6, 10**6)})
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("w.npy", header.getvalue() + b"\0" * 64)
    with pytest.raises(WeightFileError, match=r"64 bytes for w.npy of shape \(1000000, 1000000\)"):
        read_state(path)
    np.savez_compressed(path, w=np.arange(1000, dtype=np.float32))
    good = path.read_bytes()
    for place in (0, 20, len(good) // 2, len(good) - 30):
        path.write_bytes(good[:place])
        with pytest.raises(WeightFileError, match="a.npz was not read"):
            read_state(path)
    path.write_bytes(good[:200] + bytes([good[200] ^ 255]) + good[201:])
    with pytest.raises(WeightFileError, match="a.npz was not read"):
        read_state(path)
    monkeypatch.setattr("keras_maskrcnn.weights.npz_files.MOST_ENTRIES", 9)
    np.savez(path, **dict.fromkeys("abcdefghij", np.zeros(1)))
    with pytest.raises(WeightFileError, match="a.npz was not read.*Found: an archive of 10 members; at most 9"):
        read_state(path)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["COCO-MaskRCNN-R50FPN2x", "COCO-MaskRCNN-R50FPN4xGNCasAug"])
def test_a_converted_model_has_tensorpacks_arithmetic(name, tmp_path):
    """The model of a file with a whole ResNet-50, made from its tensors alone, and the command."""
    channels = 64 if "GN" in name else 16
    small = {"fpn_channels": channels, "mask_channels": channels, "box_features": 24}
    model = km.MaskRCNN(km.MaskRCNNConfig.tensorpack(name, 2, **small))
    _, _, state = with_state(model, tensorpack_rows(model))
    path, target = tmp_path / "mine.npz", tmp_path / "mine.keras"
    np.savez(path, **state)
    built, receipt = build_model(read_state(path), path)
    assert faults(tensorpack_rows(built), state) == [] and receipt.complete and not receipt.left_over
    assert built.config == model.config and built.config.level_rule == "tensorpack"
    assert built.origin["family"] == "tensorpack" and built.origin["licence"].startswith("Apache")
    assert cli.main(["convert", str(path), str(target)]) == cli.SUCCESS
    again = load_model(target)
    assert again.config == model.config and faults(tensorpack_rows(again), state) == []
    warm, _ = build_model(read_state(path), path, warm_start=True)
    assert faults(tensorpack_rows(warm), state) == [] and warm.config.resize == "bilinear"
    assert warm.config.head_norm_place == model.config.head_norm_place
