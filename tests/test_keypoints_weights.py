"""Keypoint R-CNN's weights: where each tensor of torchvision's and Detectron2's goes, and what is refused."""

import numpy as np
import pytest
from detectron2_parts import faults, random_state, small_model
from test_detectron2 import (
    test_a_tensor_of_any_kind_in_another_order_is_noticed,
    test_every_tensor_goes_to_its_place,
    test_missing_misshapen_and_unknown_tensors_are_refused_by_name,
    test_tensors_that_change_places_are_noticed,
)

import keras_maskrcnn as km
from keras_maskrcnn.branches import KeypointBranch
from keras_maskrcnn.families.detectron2 import BRANCH_OPTIONS
from keras_maskrcnn.weights.detectron2 import read_config
from keras_maskrcnn.weights.torchvision import read_architecture
from keras_maskrcnn.weights.zoo import config_for_state

__all__ = [
    "test_a_tensor_of_any_kind_in_another_order_is_noticed",
    "test_every_tensor_goes_to_its_place",
    "test_missing_misshapen_and_unknown_tensors_are_refused_by_name",
    "test_tensors_that_change_places_are_noticed",
]

NARROW = {"channels": 8, "num_convs": 3}
OPTIONS = BRANCH_OPTIONS["keypoints"]
BRANCH = KeypointBranch(**NARROW, **OPTIONS)


@pytest.fixture(scope="module")
def narrow():
    """A narrow model of Detectron2's, and a state dict for it."""
    model = small_model("keypoint_rcnn_R_50_FPN_3x", 1, branches=(BRANCH,))
    return model, random_state(model)


@pytest.fixture(params=[pytest.param("keypoints", marks=pytest.mark.slow)])
def pair(narrow):
    """What the imported tests take. With masks they are quick; here they are slow ones."""
    return narrow


def test_torchvision_names_there_and_back(narrow):
    model, state = narrow
    receipt = km.load_weights(model, state)
    assert faults(model, state) == [] and receipt.complete and receipt.family == "Detectron2"
    names = km.torchvision_state_dict(model)
    head = model.branch_heads()["keypoints"]
    for index, conv in enumerate(head.convs):
        kernel, bias = (np.asarray(weight) for weight in (conv.conv.kernel, conv.conv.bias))
        np.testing.assert_array_equal(
            names[f"roi_heads.keypoint_head.{2 * index}.weight"], kernel.transpose(3, 2, 0, 1)
        )
        np.testing.assert_array_equal(names[f"roi_heads.keypoint_head.{2 * index}.bias"], bias)
    predictor = names["roi_heads.keypoint_predictor.kps_score_lowres.weight"]
    assert predictor.shape == (8, 17, 4, 4)
    np.testing.assert_array_equal(predictor, np.asarray(head.deconv.kernel).transpose(3, 2, 0, 1))
    before = [np.array(weight) for weight in model.weights]
    for weight in model.weights:
        if weight.dtype == "float32":
            weight.assign(np.zeros(weight.shape, "float32"))
    receipt = km.load_weights(model, names)
    assert receipt.complete and not receipt.left_over and receipt.family != "Detectron2"
    for weight, values in zip(model.weights, before, strict=True):
        np.testing.assert_array_equal(np.array(weight), values)


def test_the_architecture_follows_from_the_tensors(narrow):
    model, state = narrow
    found = read_architecture(km.torchvision_state_dict(model))
    assert found["branches"] == (KeypointBranch(**NARROW),) and found["num_classes"] == 1
    other = {
        name: array[:, :5] if name.endswith("lowres.weight") else array[:5] if name.endswith("lowres.bias") else array
        for name, array in km.torchvision_state_dict(model).items()
    }
    assert read_architecture(other)["branches"][0].names == tuple(f"keypoint {k}" for k in range(5))
    config, notes = read_config(state, "mine.pth", "keypoint_rcnn_R_50_FPN_1x")
    assert config.branches == (BRANCH,) and config.smooth_l1_beta == 0.5 and config.rpn_smooth_l1_beta == 0.0
    assert "keypoint_rcnn_R_50_FPN_1x, as asked" in notes[0] and config.class_names == ("person",)
    config, _ = config_for_state(state, architecture="keypoint_rcnn_R_50_FPN_3x", warm_start=True)
    assert config.branches == (BRANCH,) and config.anchor_rounding is True


def test_kernels_that_do_not_belong_together_are_refused(narrow):
    state = km.torchvision_state_dict(narrow[0])
    name = "roi_heads.keypoint_head.2.weight"
    with pytest.raises(ValueError, match="sizes that belong together.*keypoint_head.2.weight"):
        read_architecture(state | {name: np.zeros((9, 8, 3, 3), np.float32)})


def test_zoo_configs():
    for name in ("R_50_FPN_1x", "R_50_FPN_3x", "R_101_FPN_3x", "X_101_32x8d_FPN_3x"):
        config = km.MaskRCNNConfig.detectron2(f"COCO-Keypoints/keypoint_rcnn_{name}.yaml")
        assert config.branches == (KeypointBranch(**OPTIONS),) and config.num_classes == 1
        assert (config.class_names, config.category_ids) == (("person",), (1,)) and config.train_post_nms == 1500
    own = km.MaskRCNNConfig.detectron2("keypoint_rcnn_R_50_FPN_3x", 3, class_names=("a", "b", "c"))
    assert own.class_names == ("a", "b", "c") and own.category_ids == (1, 2, 3)
