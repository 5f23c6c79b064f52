"""PointRend's weights: where each tensor of Detectron2's goes, and what is refused."""

import json

import numpy as np
import pytest
from detectron2_parts import faults, random_state, small_model
from test_detectron2 import (
    test_a_tensor_of_any_kind_in_another_order_is_noticed,
    test_every_tensor_goes_to_its_place,
    test_missing_misshapen_and_unknown_tensors_are_refused_by_name,
    test_tensors_that_change_places_are_noticed,
)
from torchvision_golden import GOLDEN

import keras_maskrcnn as km
from keras_maskrcnn.branches import PointRendMask
from keras_maskrcnn.weights.detectron2 import read_config
from keras_maskrcnn.weights.zoo import config_for_state

__all__ = [
    "test_a_tensor_of_any_kind_in_another_order_is_noticed",
    "test_every_tensor_goes_to_its_place",
    "test_missing_misshapen_and_unknown_tensors_are_refused_by_name",
    "test_tensors_that_change_places_are_noticed",
]

BRANCH = PointRendMask(coarse_size=3, pool_size=8, coarse_features=24, coarse_fcs=3, channels=12, num_fcs=2)
HEAD = "roi_heads.mask_head."


@pytest.fixture(scope="module")
def narrow():
    """A narrow model of Detectron2's, and a state dict for it."""
    model = small_model("pointrend_rcnn_R_50_FPN_3x", branches=(BRANCH,))
    return model, random_state(model)


@pytest.fixture(params=[pytest.param("pointrend", marks=pytest.mark.slow)])
def pair(narrow):
    """What the imported tests take. With masks they are quick; here they are slow ones."""
    return narrow


def test_the_architecture_follows_from_the_tensors(narrow):
    model, state = narrow
    receipt = km.load_weights(model, state)
    assert faults(model, state) == [] and receipt.complete and not receipt.left_over
    config, notes = read_config(state, "model_final_88c6f8.pkl", "pointrend_rcnn_R_50_FPN_1x_coco")
    assert config.branches == (BRANCH,) and "pointrend_rcnn_R_50_FPN_1x, as asked" in notes[0]
    assert config.num_classes == 3 and config.roi_sampling_ratio == 0
    config, _ = config_for_state(state, architecture="pointrend_rcnn_R_50_FPN_3x", warm_start=True)
    assert config.branches == (BRANCH,) and config.anchor_rounding is True


def test_the_usual_config_of_such_names():
    spec = json.loads((GOLDEN / "d2_pointrend_rcnn_R_50_FPN_state.json").read_text())
    state = {name: np.broadcast_to(np.float32(1), shape) for name, shape, *_ in spec["tensors"]}
    config, notes = read_config(state, "mine.pth")
    assert config == km.MaskRCNNConfig.detectron2("pointrend_rcnn_R_50_FPN_3x")
    assert "pointrend_rcnn_R_50_FPN_3x, the usual one" in notes[0]


def test_names_of_older_files(narrow):
    model, state = narrow
    for coarse, point in (("mask_coarse_head", "mask_point_head"), ("mask_head.coarse_head", "mask_head.point_head")):
        old = {
            name.replace("mask_head.coarse_head.fc", f"{coarse}.coarse_mask_fc")
            .replace("mask_head.coarse_head", coarse)
            .replace("mask_head.point_head", point): array
            for name, array in state.items()
        }
        assert len(old) == len(state) and set(old) != set(state)
        assert km.load_weights(model, old).complete and faults(model, state) == []


def test_other_classes_keep_what_does_not_depend_on_them(narrow):
    _, state = narrow
    other = small_model("pointrend_rcnn_R_50_FPN_3x", 2, branches=(BRANCH,))
    receipt = km.load_weights(other, state, heads=False)
    asked = {name for name, _ in receipt.missing if HEAD in name}
    layers = {name.removeprefix(HEAD).rsplit(".", 1)[0] for name in asked}
    assert layers == {"coarse_head.prediction", "point_head.fc1", "point_head.fc2", "point_head.predictor"}
    np.testing.assert_array_equal(np.asarray(other.pointrend_head.fcs[2].bias), state[f"{HEAD}coarse_head.fc3.bias"])


@pytest.mark.parametrize(
    "name, shape",
    [
        ("coarse_head.fc1.weight", (10**6, 1)),
        ("coarse_head.prediction.weight", (0, 10**6)),
        ("point_head.fc1.weight", (10**6, 1, 1)),
        ("point_head.predictor.weight", (0, 15, 1)),
        ("coarse_head.reduce_channel_dim_conv.weight", (16, 16, 1, 1)),
    ],
)
def test_sizes_that_do_not_belong_together_are_refused(narrow, name, shape):
    with pytest.raises(ValueError, match="PointRend head must be those of a coarse and a point head"):
        read_config(narrow[1] | {HEAD + name: np.zeros(shape, np.float32)}, "mine.pth")


def test_zoo_configs():
    folder = "projects/PointRend/configs/InstanceSegmentation/"
    for name in ("R_50_FPN_1x", "R_50_FPN_3x", "R_101_FPN_3x", "X_101_32x8d_FPN_3x"):
        config = km.MaskRCNNConfig.detectron2(f"{folder}pointrend_rcnn_{name}_coco.yaml")
        assert config == km.MaskRCNNConfig.detectron2(f"pointrend_rcnn_{name}")
        assert config.branches == (PointRendMask(),) and config.num_classes == 80 and len(config.class_names) == 80
    one = km.MaskRCNNConfig.detectron2("pointrend_rcnn_R_50_FPN_3x", 1)
    assert one.class_names == ("class 0",) and one.num_classes == 1
