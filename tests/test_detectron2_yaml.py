"""Detectron2's config.yaml beside a user's weights: what it sets, what it refuses."""

import copy
import pickle
import types

import numpy as np
import pytest
import yaml

from keras_maskrcnn.weights.convert import convert_file
from keras_maskrcnn.weights.detectron2 import read_config
from keras_maskrcnn.weights.detectron2_yaml import FIXED, fields_of, read_config_yaml
from keras_maskrcnn.weights.limits import WeightFileError

DUMP = {  # what Detectron2 writes of a Mask R-CNN with other numbers, as far as it is read
    "VERSION": 2,
    "INPUT": {"FORMAT": "BGR", "MIN_SIZE_TEST": 512, "MAX_SIZE_TEST": 1024, "MIN_SIZE_TRAIN": [512, 640]},
    "MODEL": {
        "META_ARCHITECTURE": "GeneralizedRCNN",
        "MASK_ON": True, "KEYPOINT_ON": False, "LOAD_PROPOSALS": False,
        "PIXEL_MEAN": [103.53, 116.28, 123.675], "PIXEL_STD": [57.375, 57.12, 58.395],
        "BACKBONE": {"NAME": "build_resnet_fpn_backbone", "FREEZE_AT": 1},
        "RESNETS": {
            "DEPTH": 50, "NORM": "FrozenBN", "STRIDE_IN_1X1": False, "RES5_DILATION": 1,
            "DEFORM_ON_PER_STAGE": [False] * 4,
        },
        "FPN": {"FUSE_TYPE": "sum", "IN_FEATURES": ["res2", "res3", "res4", "res5"], "NORM": ""},
        "PROPOSAL_GENERATOR": {"NAME": "RPN", "MIN_SIZE": 0},
        "ANCHOR_GENERATOR": {
            "NAME": "DefaultAnchorGenerator", "OFFSET": 0.0, "SIZES": [[16], [32], [64], [128], [256]],
            "ASPECT_RATIOS": [[0.5, 1.0, 2.0]],
        },
        "RPN": {
            "HEAD_NAME": "StandardRPNHead", "IN_FEATURES": ["p2", "p3", "p4", "p5", "p6"], "NMS_THRESH": 0.6,
            "PRE_NMS_TOPK_TEST": 900, "POST_NMS_TOPK_TEST": 800, "IOU_THRESHOLDS": [0.2, 0.8],
            "BBOX_REG_WEIGHTS": [1.0, 1.0, 1.0, 1.0], "SMOOTH_L1_BETA": "1e-05",
        },
        "ROI_HEADS": {
            "NAME": "StandardROIHeads", "IN_FEATURES": ["p2", "p3", "p4", "p5"], "NUM_CLASSES": 3,
            "SCORE_THRESH_TEST": 0.2, "NMS_THRESH_TEST": 0.4,
        },
        "ROI_BOX_HEAD": {
            "NAME": "FastRCNNConvFCHead", "CLS_AGNOSTIC_BBOX_REG": False, "BBOX_REG_WEIGHTS": [10.0, 10.0, 5.0, 5.0],
            "POOLER_TYPE": "ROIAlign", "POOLER_SAMPLING_RATIO": 2, "POOLER_RESOLUTION": 7,
        },
        "ROI_MASK_HEAD": {
            "NAME": "MaskRCNNConvUpsampleHead", "CLS_AGNOSTIC_MASK": False, "POOLER_TYPE": "ROIAlign",
            "POOLER_SAMPLING_RATIO": 2, "POOLER_RESOLUTION": 14,
        },
    },
    "TEST": {"DETECTIONS_PER_IMAGE": 50},
}  # fmt: skip


@pytest.fixture(scope="module")
def state():
    """The tensors that show what a model is: a ResNet-50 with narrow heads for three classes."""
    roi = "roi_heads"
    shapes = {
        "backbone.bottom_up.stem.conv1": (64, 3, 7, 7), "backbone.fpn_lateral2": (16, 256, 1, 1),
        "backbone.fpn_output2": (16, 16, 3, 3), "proposal_generator.rpn_head.conv": (16, 16, 3, 3),
        f"{roi}.box_head.fc1": (24, 784), f"{roi}.box_head.fc2": (24, 24), f"{roi}.box_predictor.cls_score": (4, 24),
        f"{roi}.box_predictor.bbox_pred": (12, 24), f"{roi}.mask_head.mask_fcn1": (8, 16, 3, 3),
        f"{roi}.mask_head.deconv": (8, 8, 2, 2), f"{roi}.mask_head.predictor": (3, 8, 1, 1),
    }  # fmt: skip
    return {f"{name}.weight": np.zeros(shape, np.float32) for name, shape in shapes.items()} | blocks(3, 4, 6, 3)


def blocks(*counts, width=64):
    """The convolutions of so many blocks in each stage; a group of the second one reads `width` channels."""
    stages = [f"backbone.bottom_up.res{stage}.{n}" for stage, count in enumerate(counts, 2) for n in range(count)]
    return {f"{block}.conv{c}.weight": np.zeros((1, width, 1, 1)) for block in stages for c in (1, 2, 3)}


def beside(folder, content):
    """A file of weights, and the config.yaml beside it."""
    (folder / "model_final.pth").write_bytes(b"")
    (folder / "config.yaml").write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    return folder / "model_final.pth"


def changed(key, value):
    content = copy.deepcopy(DUMP)
    *parts, last = key.split(".")
    place = content
    for part in parts:
        place = place.setdefault(part, {})
    place[last] = value
    return content


def test_it_sets_what_the_tensors_do_not_show(state, tmp_path):
    config, (note,) = read_config(state, beside(tmp_path, DUMP))
    assert note == f"arithmetic, anchors, sizes and thresholds from {tmp_path / 'config.yaml'}"
    assert (config.num_classes, config.backbone, config.norm, config.stride_in_1x1) == (
        3,
        "resnet50",
        "frozen_batch",
        0,
    )
    assert config.pixel_mean == (123.675, 116.28, 103.53) and config.pixel_std == (58.395, 57.12, 57.375)
    assert (config.min_size, config.max_size, config.trainable_layers) == (512, 1024, 4)
    assert config.anchor_sizes == (16, 32, 64, 128, 256) and config.rpn_nms_threshold == 0.6
    assert (config.test_pre_nms, config.test_post_nms, config.max_detections) == (900, 800, 50)
    assert (config.rpn_negative_iou, config.rpn_positive_iou, config.rpn_smooth_l1_beta) == (0.2, 0.8, 1e-5)
    assert (config.score_threshold, config.nms_threshold) == (0.2, 0.4)
    assert (config.roi_aligned, config.roi_sampling_ratio) == (False, 2)
    assert config.resize == "pillow" and config.anchor_rounding is False  # what no config of Detectron2 changes
    assert read_config(state, tmp_path / "model_final.pth", None, {"min_size": 640})[0].min_size == 640
    for norm, ours in (("SyncBN", "batch"), ("GN", "group")):
        assert read_config(state, beside(tmp_path, changed("MODEL.RESNETS.NORM", norm)))[0].norm == ours


def test_the_users_word_and_the_zoos_digits_count_more(state, tmp_path):
    source = beside(tmp_path, DUMP)
    config, (note,) = read_config(state, source, "mask_rcnn_R_50_FPN_3x")
    assert config.min_size == 800 and "as asked" in note
    zoo = source.rename(tmp_path / "model_final_f10217.pkl")
    config, notes = read_config(state, zoo)
    assert config.min_size == 800 and "by the digits" in notes[0]
    assert "usual one" in read_config(state, tmp_path / "there_is_no_such.pth")[1][0]


def test_the_usual_config_of_tensors_without_a_config(state, tmp_path):
    """By the backbone, the box heads and the norms of the pyramid; where the zoo has no ResNet-101, its ResNet-50."""
    deep, wide = state | blocks(3, 4, 23, 3), state | blocks(3, 4, 23, 3, width=8)
    norm, rpn = "backbone.fpn_lateral2.norm", "proposal_generator.rpn_head.conv"
    group = {f"{norm}.weight": np.ones(16)}
    batch = group | {f"{norm}.running_mean": np.ones(16)}
    two = {f"{rpn}.conv{k}.weight": np.zeros((16, 16, 3, 3)) for k in range(2)}
    for tensors, backbone, usual, norms, stride_in_1x1 in (
        (state, "resnet50", "mask_rcnn_R_50_FPN_3x", ("frozen_batch", None), True),
        (wide, "resnext101_32x8d", "mask_rcnn_X_101_32x8d_FPN_3x", ("frozen_batch", None), False),
        (state | group, "resnet50", "mask_rcnn_R_50_FPN_3x_gn", ("group", "group"), False),
        (deep | group, "resnet101", "mask_rcnn_R_50_FPN_3x_gn", ("group", "group"), False),
        (deep | batch, "resnet101", "mask_rcnn_R_50_FPN_3x_syncbn", ("batch", "batch"), True),
        (without(deep, rpn) | batch | two, "resnet101", "mask_rcnn_R_101_FPN_100ep_LSJ", ("batch", "batch"), True),
    ):
        config, (note,) = read_config(tensors, "mine.pth")
        assert f"from Detectron2's config {usual}, the usual one" in note
        assert (config.backbone, config.norm, config.head_norm) == (backbone, *norms)
        assert config.stride_in_1x1 == stride_in_1x1
    assert read_config(deep | group, beside(tmp_path, changed("MODEL.RESNETS.DEPTH", 101)))[0].min_size == 512
    for tensors, found in (
        (wide | group, "resnext101_32x8d, which would be mask_rcnn_X_101_32x8d_FPN_3x_gn"),
        (without(state, "backbone.bottom_up.res") | blocks(3, 8, 36, 3), "resnet152"),
    ):
        with pytest.raises(ValueError, match=f"zoo has models with .*Received one with {found}. Name .* architecture="):
            read_config(tensors, "mine.pth")


def without(state, start):
    return {name: array for name, array in state.items() if not name.startswith(start)}


def test_each_branch_has_keys_of_its_own(tmp_path):
    def fields(content, branch, cascade_ious=()):
        found = {"backbone": "resnet50", "num_classes": 3, "branches": [types.SimpleNamespace(name=branch)]}
        return fields_of(content, "config.yaml", found | {"cascade_ious": cascade_ious})

    content = changed("MODEL.ROI_MASK_HEAD", {"NAME": "PointRendMaskHead", "POOLER_TYPE": "", "IN_FEATURES": ["p2"]})
    content["MODEL"]["POINT_HEAD"] = {"NAME": "StandardPointHead", "IN_FEATURES": ["p2"], "SUBDIVISION_STEPS": 5}
    assert fields(content, "pointrend")["min_size"] == 512
    content["MODEL"]["POINT_HEAD"]["SUBDIVISION_STEPS"] = 3
    for branch, told in (
        ("pointrend", "POINT_HEAD.SUBDIVISION_STEPS must be 5. Received: 3"),
        ("mask", "NAME must be"),
    ):
        with pytest.raises(ValueError, match=told):
            fields(content, branch)
    with pytest.raises(ValueError, match="MODEL.MASK_ON must be False. Received: True"):
        fields(DUMP, "keypoints")
    content = changed("MODEL.ROI_HEADS.NAME", "CascadeROIHeads")
    content["MODEL"]["ROI_BOX_HEAD"]["CLS_AGNOSTIC_BBOX_REG"] = True
    content["MODEL"]["ROI_BOX_CASCADE_HEAD"] = {"IOUS": [0.4, 0.5, 0.7]}
    assert fields(content, "mask", (0.5, 0.6, 0.7))["cascade_ious"] == (0.4, 0.5, 0.7)
    assert "cascade_ious" not in fields(changed("MODEL.ROI_BOX_CASCADE_HEAD", {"IOUS": [0.4, 0.5, 0.7]}), "mask")
    content["MODEL"]["ROI_BOX_CASCADE_HEAD"]["BBOX_REG_WEIGHTS"] = [[10.0, 10.0, 5.0, 5.0]] * 3
    with pytest.raises(ValueError, match="ROI_BOX_CASCADE_HEAD.BBOX_REG_WEIGHTS must be"):
        fields(content, "mask", (0.5, 0.6, 0.7))
    with pytest.raises(ValueError, match="MODEL.ROI_HEADS.NAME must be 'StandardROIHeads'"):
        fields(content, "mask")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("MODEL.META_ARCHITECTURE", "PanopticFPN"),
        ("MODEL.BACKBONE.NAME", "build_retinanet_resnet_fpn_backbone"),
        ("MODEL.ROI_HEADS.NAME", "Res5ROIHeads"),
        ("MODEL.ROI_HEADS.NUM_CLASSES", 80),
        ("MODEL.RESNETS.DEPTH", 101),
        ("MODEL.RESNETS.DEFORM_ON_PER_STAGE", [False, True, True, True]),
        ("MODEL.ANCHOR_GENERATOR.NAME", "RotatedAnchorGenerator"),
        ("MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG", True),
        ("MODEL.ROI_MASK_HEAD.NAME", "PointRendMaskHead"),
        ("MODEL.ROI_MASK_HEAD.POOLER_SAMPLING_RATIO", 0),
        ("MODEL.KEYPOINT_ON", True),
        ("INPUT.FORMAT", "RGB"),
    ],
)
def test_other_models_are_refused_by_the_key(state, tmp_path, key, value):
    with pytest.raises(
        ValueError, match=f"config.yaml describes a model that is not read.*: {key} must be .*Received: "
    ):
        read_config(state, beside(tmp_path, changed(key, value)))


@pytest.mark.parametrize(
    ("key", "value", "found"),
    [
        ("MODEL.RESNETS.NORM", "LN", "MODEL.RESNETS.NORM has a value that is not read. Received: 'LN'"),
        ("MODEL.ANCHOR_GENERATOR.SIZES", [[32, 64]], "five lists of one size, for p2 to p6"),
        ("MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS", [[1.0], [2.0]], "the same ratios for all levels"),
        ("INPUT.MIN_SIZE_TEST", 0, "a size above 0"),
        ("MODEL.PIXEL_MEAN", "grey", "MODEL.PIXEL_MEAN has a value"),
        ("MODEL.RPN.IOU_THRESHOLDS", [0.5], "MODEL.RPN.IOU_THRESHOLDS"),
        ("_BASE_", "Base.yaml", "with _BASE_"),
    ],
)
def test_values_that_are_not_read(state, tmp_path, key, value, found):
    with pytest.raises(ValueError, match=found):
        read_config(state, beside(tmp_path, changed(key, value)))


def test_every_fixed_key_is_in_the_dump_or_new():
    def at(key):
        value = DUMP
        for part in key.split("."):
            value = value.get(part) if isinstance(value, dict) else None
        return value

    assert [key for key in FIXED if at(key) is None] == ["MODEL.ROI_BOX_HEAD.USE_SIGMOID_CE"]


def test_files_of_other_programs_and_hostile_ones(state, tmp_path):
    _, notes = read_config(state, beside(tmp_path, "task: segment\nmodel: yolo11n-seg.pt\n"))
    assert "usual one" in notes[0] and notes[1].endswith("is no config of Detectron2: it is not used")
    for text in (
        "a: [1, 2\n",
        "x: !!python/object/apply:os.system ['touch hostile']\n",
        "\x00",
        "[" * 5000,
        f"a: {'[' * 17}{']' * 17}",
    ):
        with pytest.raises(WeightFileError, match="config.yaml was not read"):
            read_config(state, beside(tmp_path, text))
    with pytest.raises(WeightFileError, match="Found: more than 16 dictionaries or lists inside each other. Copy it"):
        read_config(state, tmp_path / "model_final.pth")
    (tmp_path / "model_final.pkl").write_bytes(pickle.dumps({"model": state}))
    with pytest.raises(WeightFileError) as raised:  # named once, and not as the fault of the file of weights
        convert_file(tmp_path / "model_final.pkl", tmp_path / "a.keras")
    assert str(raised.value).startswith(f"{tmp_path / 'config.yaml'} was not read. Expected a config.yaml")
    (tmp_path / "config.yaml").write_bytes(b"# " + b"x" * (1 << 20))
    with pytest.raises(WeightFileError, match="more than 1,048,576 bytes"):
        read_config_yaml(tmp_path / "config.yaml")
    laughs = "a0: &a0 [x, x]\n" + "".join(f"a{k}: &a{k} [*a{k - 1}, *a{k - 1}]\n" for k in range(1, 60))
    text = f"{laughs}{yaml.safe_dump(changed('MODEL.PIXEL_MEAN', 'HERE'))}".replace("HERE", "*a59")
    with pytest.raises(ValueError, match="Received: \\[..., ...\\]"):
        read_config(state, beside(tmp_path, text))
