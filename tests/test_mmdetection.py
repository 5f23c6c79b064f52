"""MMDetection: its configs, what a checkpoint's meta says, and its files. Its tensors are in test_family_tensors.py."""

import dataclasses
import pickle
import sys
import types
import zipfile

import numpy as np
import pytest
from backend_tools import to_numpy
from family_parts import FAMILIES, SMALL, TORCH, faults
from tiny import in_place_of

import keras_maskrcnn as km
from keras_maskrcnn.geometry.boxes import decode_boxes
from keras_maskrcnn.network.roi_align import assign_levels
from keras_maskrcnn.weights.limits import WeightFileError
from keras_maskrcnn.weights.mmdetection import prepare, read_config, read_config_1
from keras_maskrcnn.weights.pth import read_pth

CONFIG = """
model = dict(type='MaskRCNN', backbone=dict(type='ResNet', depth=50, style='caffe'))
train_pipeline = [
    dict(type='Resize', img_scale=[(1333, 640), (1333, 800)], keep_ratio=True),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(
        type='MultiScaleFlipAug',
        img_scale=(1024, 512),
        transforms=[dict(type='Resize', keep_ratio=True)])
]
"""


def test_the_configs():
    config = km.MaskRCNNConfig.mmdetection("mask_rcnn_r50_fpn_1x_coco", num_classes=80)
    assert config.pixel_std == (58.395, 57.12, 57.375) and not config.stride_in_1x1
    assert (config.resize, config.size_rule, config.roi_sampling_ratio) == ("opencv", "round", 0)
    assert (config.level_rule, config.mask_pasting, config.category_ids[-1]) == ("mmdetection", "detectron2", 90)
    assert km.MaskRCNNConfig.from_dict(config.to_dict()) == config
    caffe = km.MaskRCNNConfig.mmdetection("configs/mask_rcnn/mask-rcnn_r101-caffe_fpn_ms-poly-3x_coco.py", 4)
    assert caffe.backbone == "resnet101" and caffe.stride_in_1x1 and caffe.pixel_std == (1.0, 1.0, 1.0)
    assert caffe.pixel_mean == (123.675, 116.28, 103.53) and caffe.class_names[3] == "class 3"
    with pytest.raises(ValueError, match="must be one of mask_rcnn_r50_fpn_1x_coco, .*Received: 'mask_rcnn_swin"):
        km.MaskRCNNConfig.mmdetection("mask_rcnn_swin-t-p4-w7_fpn_1x_coco")
    with pytest.raises(ValueError, match="min_box_growth is a factor in 0..1. Received: 2"):
        km.MaskRCNNConfig(1, min_box_growth=2.0)


def test_boxes_shrink_no_more_than_they_grow():
    """DeltaXYWHBBoxCoder clamps dw and dh to +-|log(16 / 1000)|."""
    config = km.MaskRCNNConfig.mmdetection(num_classes=1)
    anchors = np.array([[0, 0, 100, 200]], np.float32).repeat(3, axis=0)
    deltas = np.array([[0, 0, -9, -3], [0, 0, 9, 9], [0.1, -0.1, -5, 0.5]], np.float32)
    size = np.exp(np.clip(deltas[:, 2:], np.log(16 / 1000), -np.log(16 / 1000))) * [100, 200]
    centre = deltas[:, :2] * [100, 200] + [50, 100]
    expected = np.concatenate([centre - size / 2, centre + size / 2], axis=1)
    found = to_numpy(decode_boxes(deltas, anchors, max_log_scale=config.max_log_scale))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-3)
    assert found[0, 2] - found[0, 0] == pytest.approx(1.6, rel=1e-3)


def test_the_level_of_a_box():
    """floor(log2(s / 56 + 1e-6)) from the finest of four: SingleRoIExtractor."""
    sides = np.array([3, 111.9, 112, 223.9, 223.99995, 224, 447.99, 448, 2000], np.float32)
    boxes = np.stack([0 * sides, 0 * sides, sides, sides], axis=1)
    expected = np.clip(np.floor(np.log2(sides / np.float32(56) + np.float32(1e-6))), 0, 3)
    np.testing.assert_array_equal(to_numpy(assign_levels(boxes, rule="mmdetection")), expected)
    assert expected.tolist() == [0, 0, 1, 1, 2, 2, 2, 3, 3]


# A checkpoint's meta -------------------------------------------------------------------------------------------


def tensors(version=3, depth=(3, 4, 6, 3)):
    """The names of a ResNet-50, with shapes enough for the config."""
    names = TORCH["mmdetection 1" if version == 1 else "mmdetection"]
    shapes = {
        names["lateral"].format(0): (16, 256, 1, 1), names["output"].format(0): (16, 16, 3, 3),
        names["rpn"]: (16, 16, 3, 3), names["fc"][0]: (24, 784), names["fc"][1]: (24, 24), names["classes"]: (4, 24),
        names["boxes"]: (12, 24), names["mask"].format(0): (8, 16, 3, 3), names["deconv"]: (8, 8, 2, 2),
        names["logits"]: (3, 8, 1, 1),
    }  # fmt: skip
    state = {f"{name}.weight": np.zeros(shape, np.float32) for name, shape in shapes.items()}
    for stage, blocks in enumerate(depth, start=1):
        for block in range(blocks):
            for number, shape in enumerate([(64, 64, 1, 1), (64, 64, 3, 3), (256, 64, 1, 1)], start=1):
                state[f"backbone.layer{stage}.{block}.conv{number}.weight"] = np.zeros(shape, np.float32)
    return state


def config_of(meta, source="mine.pth", name=None, **overrides):
    return read_config(prepare({"meta": meta, "state_dict": tensors()}), source, name, overrides)


@pytest.mark.parametrize("key", ["config", "cfg"])
def test_style_sizes_and_classes_follow_from_the_meta(key):
    classes = {"CLASSES": ("cell", "dust", "hair")} if key == "config" else {}
    more = {} if classes else {"dataset_meta": {"classes": ["cell", "dust", "hair"], "palette": [(1, 2, 3)]}}
    config, notes = config_of({key: CONFIG, "epoch": 12, **classes, **more})
    assert config.class_names == ("cell", "dust", "hair") and config.category_ids == (1, 2, 3)
    assert config.stride_in_1x1 and (config.min_size, config.max_size) == (512, 1024)
    assert (config.fpn_channels, config.box_features, config.mask_channels) == (16, 24, 8)
    assert "mask_rcnn_r50_caffe_fpn_1x_coco, by the file's meta" in notes[0]
    assert notes[1] == "class names and size of images from the file's meta"
    assert config_of({key: CONFIG}, min_size=800)[0].min_size == 800  # the user's word counts more


def test_without_meta_the_receipt_says_what_was_taken():
    config, (note,) = config_of({})
    assert not config.stride_in_1x1 and "is not in the file: taken from" in note and "architecture=..." in note
    config, (note,) = config_of({}, "mask_rcnn_r50_caffe_fpn_mstrain-poly_3x_coco_bbox_mAP-0.408-42aa3d00.pth")
    assert config.stride_in_1x1 and note.endswith("by the name of the file")
    config, (note, _) = config_of({"config": CONFIG}, "mine.pth", "mask_rcnn_r50_fpn_2x_coco")
    assert not config.stride_in_1x1 and note.endswith("config mask_rcnn_r50_fpn_2x_coco, as asked")


@pytest.mark.parametrize(
    "meta",
    [
        {"CLASSES": ("one",)}, {"CLASSES": 7}, {"CLASSES": [1, 2, 3]}, {"dataset_meta": [1]}, {"config": 3},
        {"config": "style = 'caffe'; style = 'pytorch'"}, {"config": "(" * 100_000},
    ],
)  # fmt: skip
def test_a_meta_of_other_things_changes_nothing(meta):
    config, _ = config_of(meta)
    assert config.class_names[0] == "class 0" and not config.stride_in_1x1 and config.min_size == 800


def test_other_models_are_refused_by_the_first_tensor():
    for name, kind in {
        "roi_head.bbox_head.0.fc_cls.weight": "a cascade",
        "roi_head.point_head.fcs.0.conv.weight": "PointRend",
        "roi_head.mask_iou_head.fc_mask_iou.weight": "mask scoring",
        "neck.lateral_convs.0.gn.weight": "norms in the pyramid",
        "backbone.layer2.0.conv2_offset.weight": "deformable convolutions",
        "backbone.patch_embed.projection.weight": "another backbone",
        "bbox_head.retina_cls.weight": "one stage",
    }.items():
        with pytest.raises(ValueError, match=f"with {kind}.*{name}"):
            read_config(prepare(tensors() | {name: np.zeros(3)}), "mine.pth")
    with pytest.raises(ValueError, match=r"\(3, 8, 36, 3\)|resnet152"):
        read_config(prepare(tensors(depth=(3, 8, 36, 3))), "mine.pth")


def test_version_1_is_told_apart():
    config, _ = read_config_1(prepare(tensors(version=1)), "mine.pth")
    assert (config.roi_aligned, config.roi_sampling_ratio, config.num_classes) == (False, 2, 3)


# Files ---------------------------------------------------------------------------------------------------------


class _Log:
    """Pickles as mmengine's HistoryBuffer."""

    __module__, __qualname__ = "mmengine.logging.history_buffer", "HistoryBuffer"

    def __init__(self):
        self.values = np.arange(5.0)

    def mean(self):
        """Named in the pickle by getattr of its class."""

    mean.__module__, mean.__qualname__ = __module__, "HistoryBuffer.mean"

    def __getstate__(self):
        return {**self.__dict__, "methods": {"mean": _Log.mean}, "last": np.float64(3)}


@pytest.fixture
def log(monkeypatch):
    parts = ("mmengine", "mmengine.logging", _Log.__module__)
    modules = {part: types.ModuleType(part) for part in parts}
    modules[_Log.__module__].HistoryBuffer = _Log
    for part, module in modules.items():
        monkeypatch.setitem(sys.modules, part, module)
    return _Log()


def write(path, content):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(content, 2))
    return path


def test_the_log_of_a_training_is_left_out_and_nothing_else(tmp_path, log):
    path, meta = tmp_path / "epoch_12.pth", {"dataset_meta": {"classes": ("a", "b")}}
    content = {"meta": meta, "state_dict": {}, "message_hub": {"log_scalars": {"loss": log}, "n": np.float32(2)}}
    assert read_pth(write(path, content)) == {"meta": meta, "state_dict": {}}
    for content, found in (
        ({"state_dict": {"a": log}}, "traininglog that belongs to no tensor"),
        ({"a": np.zeros(2)}, "numpyarray that belongs to no tensor"),
        ({"message_hub": {"a": Upper()}}, "a call of getattr of 'text'"),
    ):
        with pytest.raises(WeightFileError, match=found):
            read_pth(write(path, content))


class Upper:
    def __reduce__(self):
        return getattr, ("text", "upper")


@pytest.mark.slow_on_jax
def test_a_checkpoint_loads_into_a_model():
    model, rows, state = FAMILIES["mmdetection caffe"]()
    receipt = km.load_weights(
        model, {"meta": {"CLASSES": ("a",)}, "state_dict": {f"module.{k}": v for k, v in state.items()}}
    )
    assert receipt.complete and receipt.family == "MMDetection" and len(receipt.used) == len(rows)
    assert faults(rows, state) == []
    assert not receipt.notes and model.config.fpn_channels == SMALL["fpn_channels"]
    with pytest.raises(ValueError, match=r"unknown to the model:\n  neck.fpn_convs.0.gn.weight \(16,\)"):
        km.load_weights(model, state | {"neck.fpn_convs.0.gn.weight": np.ones(16)})
    for fields, words in (
        ({"cascade_ious": (0.5, 0.6, 0.7)}, r"cascade_ious=\(0.5, 0.6, 0.7\)"),
        ({"head_norm": "group", "norm": "group"}, "head_norm='group', norm='group'"),
        ({"rpn_convs": 2, "box_convs": 4, "box_fcs": 1}, "rpn_convs=2, box_convs=4"),
        ({"branches": ("mask", "keypoints"), "num_classes": 1, "class_names": (), "category_ids": None}, "branches="),
    ):
        with in_place_of(model, dataclasses.replace(model.config, **fields)):
            with pytest.raises(ValueError, match=f"MMDetection's weights fit.*Received {words}.*Take MaskRCNNConfig"):
                km.load_weights(model, state)


@pytest.mark.slow_on_jax
def test_weights_of_version_1_for_images_of_four_channels():
    """Background comes first. The kernel reads BGR: its channels are turned, and red follows blue again."""
    four = {"pixel_mean": (100.0,) * 4, "pixel_std": (1.0,) * 4, "stride_in_1x1": True}
    model, ((kernel, (stem,), _), *rows), state = FAMILIES["mmdetection 1"](**four)
    state[stem] = bgr = state[stem][:, :3]
    receipt = km.load_weights(model, state)
    assert receipt.complete and receipt.family == "MMDetection 1" and faults(rows, state) == []
    expected = np.moveaxis(bgr[:, [2, 1, 0, 2]] * np.float32(3 / 4), [0, 1], [3, 2])
    np.testing.assert_allclose(to_numpy(kernel), expected, rtol=1e-6)
    inflated, numbers = receipt.notes
    assert inflated.startswith(f"{stem} inflated from 3 to 4 channels") and numbers.startswith(
        "MMDetection 1 measures boxes to their last pixel and moves anchors by half a pixel"
    )
