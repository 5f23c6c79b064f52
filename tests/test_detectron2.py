"""Detectron2's weights: where each tensor goes, what is refused, what a pickle may hold.

Its numbers are in test_detectron2_golden.py.
"""

import dataclasses
import io
import os
import pickle
import re

import numpy as np
import pytest
from detectron2_parts import SMALL, expected, faults, random_state, small_model

import keras_maskrcnn as km
from keras_maskrcnn.families import detectron2 as recipe
from keras_maskrcnn.weights.catalogue import FILES
from keras_maskrcnn.weights.convert import build_model
from keras_maskrcnn.weights.detectron2 import ZOO, read_config
from keras_maskrcnn.weights.limits import WeightFileError
from keras_maskrcnn.weights.loading import read_state
from keras_maskrcnn.weights.pkl import read_pkl

KINDS = {
    "plain": "mask_rcnn_R_50_FPN_3x",
    "group": "mask_rcnn_R_50_FPN_3x_gn",
    "lsj": "mask_rcnn_R_50_FPN_400ep_LSJ",
    "cascade": "cascade_mask_rcnn_R_50_FPN_3x",
}


SLOW = [pytest.param(kind, marks=[] if kind == "plain" else pytest.mark.slow) for kind in KINDS]


@pytest.fixture(scope="module", params=SLOW)
def pair(request):
    """A model of each form of the heads, and a state dict for it."""
    channels = {"fpn_channels": 32, "mask_channels": 32} if request.param == "group" else {}
    model = small_model(KINDS[request.param], **channels)
    return model, random_state(model)


def test_every_tensor_goes_to_its_place(pair):
    model, state = pair
    receipt = km.load_weights(model, state)
    assert faults(model, state) == [] and receipt.complete and not receipt.left_over
    assert {name for name, _ in receipt.used} == set(state)
    assert receipt.family == "Detectron2" and "CC-BY-SA 3.0" in str(receipt)
    assert len(expected(model)) == len(model.weights)


def groups(state):
    """One tensor of each kind: names that differ by numbers alone are of one kind."""
    return {re.sub(r"\d+", "#", name): name for name in reversed(list(state))}.values()


def turned(array, axis):
    return np.flip(array, axis) if axis < array.ndim else array


def moved(array, axis):
    return np.roll(array, 1, axis) if axis < array.ndim else array


def transposed(array, axis):
    """The first two axes, or the last two, in the other order, where their lengths are equal."""
    pair = ((0, 1), (-1, -2))[axis] if array.ndim > 1 and axis < 2 else (0, 0)
    return np.swapaxes(array, *pair) if array.shape[pair[0]] == array.shape[pair[1]] else array


@pytest.mark.parametrize("spoil", [turned, moved, transposed])
def test_a_tensor_of_any_kind_in_another_order_is_noticed(pair, spoil):
    model, state = pair
    for axis in range(4):
        spoiled = {name: spoil(state[name], axis) for name in groups(state)}
        changed = [name for name, array in spoiled.items() if not np.array_equal(array, state[name])]
        if changed:
            km.load_weights(model, state | spoiled)
            assert sorted(faults(model, state)) == sorted(changed)
        assert axis or len(changed) >= (3 if spoil is transposed else 20)
    km.load_weights(model, state)


def test_tensors_that_change_places_are_noticed(pair):
    model, state = pair
    kinds = {}
    for name in groups(state):
        kinds.setdefault((state[name].shape, name.endswith("var")), []).append(name)
    swapped = {}
    for names in kinds.values():  # each takes the numbers of the one before it
        swapped |= {name: state[other] for name, other in zip(names, [names[-1], *names]) if other != name}
    km.load_weights(model, state | swapped)
    assert sorted(faults(model, state)) == sorted(swapped) and len(swapped) >= 15
    km.load_weights(model, state)


def test_missing_misshapen_and_unknown_tensors_are_refused_by_name(pair):
    model, state = pair
    km.load_weights(model, state)
    for name in groups(state):
        rest = {key: array for key, array in state.items() if key != name}
        for wrong, problem in (
            (rest, "missing from the source"),
            (state | {name: state[name][..., None]}, "another shape"),
            (rest | {f"{name}.more": state[name]}, "unknown to the model"),
        ):
            with pytest.raises(ValueError, match=problem) as caught:
                km.load_weights(model, wrong)
            assert name in str(caught.value)
    assert faults(model, state) == []  # nothing was loaded


def test_what_a_file_may_hold_beside_the_weights():
    model = small_model()
    state = random_state(model)
    more = {f"proposal_generator.anchor_generator.cell_anchors.{k}": np.ones((3, 4), np.float32) for k in range(5)}
    more["pixel_mean"] = np.array([103.53, 116.28, 123.675], np.float32).reshape(3, 1, 1)
    more["pixel_std"] = np.ones((3, 1, 1), np.float32)
    receipt = km.load_weights(model, {"model": {f"module.{k}": v for k, v in (state | more).items()}, "iteration": 7})
    assert faults(model, state) == [] and {name for name, _ in receipt.left_over} == set(more)
    more["pixel_mean"] = more["pixel_mean"][::-1]
    with pytest.raises(ValueError, match=r"pixel_mean of the file, blue first, .*Received \[123.*Pass pixel_mean="):
        km.load_weights(model, state | more)


def test_other_arithmetic_is_told():
    model = small_model(resize="bilinear", anchor_rounding=True)
    receipt = km.load_weights(model, random_state(model))
    assert "anchor_rounding=True (there False)" in str(receipt) and "resize='bilinear' (there 'pillow')" in str(receipt)
    model = small_model(score_threshold=0.5)
    assert not km.load_weights(model, random_state(model)).notes


def test_configs_of_the_zoo():
    assert set(ZOO.values()) <= set(recipe.CONFIGS)
    for name in recipe.CONFIGS:
        config = km.MaskRCNNConfig.detectron2(name)
        of_persons = name.startswith("keypoint")
        assert config.category_ids[-1] == (1 if of_persons else 90) and config.class_names[0] == "person"
        branch = "keypoints" if of_persons else "pointrend" if "pointrend" in name else "mask"
        assert [each.name for each in config.branches] == [branch]
        assert config.anchor_rounding is False and config.pixel_mean == (123.675, 116.28, 103.53)
    config = km.MaskRCNNConfig.detectron2("COCO-InstanceSegmentation/mask_rcnn_R_101_FPN_3x.yaml", 7, min_size=640)
    assert (config.backbone, config.num_classes, config.min_size) == ("resnet101", 7, 640)
    assert config.class_names[0] == "class 0" and (config.roi_sampling_ratio, config.smooth_l1_beta) == (0, 0.0)
    config = km.MaskRCNNConfig.detectron2("mask_rcnn_X_101_32x8d_FPN_3x")
    assert config.backbone == "resnext101_32x8d" and not config.stride_in_1x1 and config.pixel_std[0] == 58.395
    config = km.MaskRCNNConfig.detectron2("Misc/cascade_mask_rcnn_R_50_FPN_1x.yaml")
    assert config.cascade_ious == (0.5, 0.6, 0.7) and config.train_post_nms == 2000
    weights = ((10.0, 10.0, 5.0, 5.0), (20.0, 20.0, 10.0, 10.0), (30.0, 30.0, 15.0, 15.0))
    assert config.box_stages == tuple(zip((0.5, 0.6, 0.7), weights))
    with pytest.raises(ValueError, match="must be one of mask_rcnn_R_50_FPN_1x.*Received: 'panoptic"):
        km.MaskRCNNConfig.detectron2("panoptic_fpn_R_50_3x")


def add_blocks(state):
    """Make the state dict of a small model one of a ResNet-101, for those who look at names."""
    for stage, blocks in {"res2": 3, "res3": 4, "res4": 23, "res5": 3}.items():
        names = [f"backbone.bottom_up.{stage}.{n}.conv{c}.weight" for n in range(blocks) for c in (1, 2, 3)]
        state |= dict.fromkeys(names, np.zeros((1, 64, 1, 1)))


def test_the_config_of_a_file_follows_from_names_and_tensors():
    model = small_model(num_classes=5)  # the backbone's blocks are the one thing that a small model lacks
    state = random_state(model)
    add_blocks(state)
    config, notes = read_config(state, "model_final.pth")
    assert (config.backbone, config.num_classes, config.fpn_channels, config.box_features) == ("resnet101", 5, 16, 24)
    assert config.stride_in_1x1 and "the usual one" in notes[0] and "R_101_FPN_3x" in notes[0]
    config, notes = read_config(state, "mine.pth", "mask_rcnn_R_50_FPN_noaug_1x", {"min_size": 320})
    assert (config.backbone, config.roi_sampling_ratio, config.min_size) == ("resnet101", 2, 320)
    assert notes == ("arithmetic of Detectron2's config mask_rcnn_R_50_FPN_noaug_1x, as asked",)


def test_a_cascade_is_recognised_by_its_heads():
    state = random_state(small_model(KINDS["cascade"], num_classes=5))
    add_blocks(state)
    config, notes = read_config(state, "model_final.pth")
    assert (config.backbone, config.num_classes, config.box_features) == ("resnet101", 5, 24)
    assert config.cascade_ious == (0.5, 0.6, 0.7) and "cascade_mask_rcnn_R_50_FPN_3x, the usual" in notes[0]
    state["roi_heads.box_head.1.fc2.weight"] = np.zeros((10**6, 1), np.float32)
    with pytest.raises(ValueError, match="sizes that belong together.*box_heads.1.fc7.weight"):
        read_config(state, "model_final.pth")


# Pickles -------------------------------------------------------------------------------------------------------

ARRAYS = {
    "a": np.arange(6, dtype=np.float32).reshape(2, 3),
    "fortran": np.asfortranarray(np.arange(6, dtype=np.float64).reshape(2, 3)),
    "big": np.arange(4, dtype=">f4"),
    "half": np.arange(3, dtype=np.float16),
    "number": np.float32(1.5),
    "empty": np.zeros((0, 3), np.float32),
    "whole": np.array(7, np.int64),
}


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_pickles_of_every_protocol(tmp_path, protocol):
    path = tmp_path / "a.pkl"
    path.write_bytes(pickle.dumps({"model": ARRAYS, "__author__": "someone"}, protocol))
    found = read_pkl(path)
    assert found["__author__"] == "someone" and list(found["model"]) == list(ARRAYS)
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(found["model"][name], array, err_msg=name)
        assert np.asarray(found["model"][name]).dtype.isnative


def test_a_pickle_of_python_2(tmp_path):
    """Bytes were strings there. Written by hand, because numpy 2 has other names."""
    array = np.array([[1.5, -2.0]], "<f4")
    text = (
        b"\x80\x02}q\x00U\x05modelq\x01}q\x02U\x01wq\x03"
        b"cnumpy.core.multiarray\n_reconstruct\nq\x04cnumpy\nndarray\nq\x05K\x00\x85q\x06U\x01bq\x07\x87q\x08Rq\x09"
        b"(K\x01K\x01K\x02\x86q\x0acnumpy\ndtype\nq\x0bU\x02f4q\x0cK\x00K\x01\x87q\x0dRq\x0e"
        b"(K\x03U\x01<q\x0fNNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tq\x10b"
        b"\x89U\x08" + array.tobytes() + b"q\x11tq\x12bss."
    )
    path = tmp_path / "a.pkl"
    path.write_bytes(text)
    assert pickle.loads(text, encoding="latin1")["model"]["w"].tolist() == [[1.5, -2.0]]
    np.testing.assert_array_equal(read_pkl(path)["model"]["w"], array)


class Hostile:
    def __init__(self, call):
        self.call = call

    def __reduce__(self):
        return self.call


def test_hostile_pickles_run_nothing(tmp_path):
    touched = tmp_path / "touched"
    calls = [
        (os.system, (f"touch {touched}",)),
        (eval, (f"open({str(touched)!r}, 'w')",)),
        (getattr, ("text", "upper")),
        (np.fromfile, (str(touched),)),
        (np.ndarray, ((10**12,),)),
    ]
    for protocol in (0, 2, 4):
        for call in calls:
            path = tmp_path / "a.pkl"
            path.write_bytes(pickle.dumps({"model": {"w": Hostile(call)}}, protocol))
            with pytest.raises(WeightFileError, match="a.pkl was not read.*which no tensor needs|a call of"):
                read_pkl(path)
    assert not touched.exists()


def test_damaged_and_forged_pickles_are_refused(tmp_path):
    path = tmp_path / "a.pkl"
    good = pickle.dumps({"model": ARRAYS}, 2)
    for data in [good[:place] for place in range(0, len(good), 37)] + [b"", b"\x80\x04N.", pickle.dumps([1])]:
        path.write_bytes(data)
        with pytest.raises(WeightFileError, match="a.pkl was not read"):
            read_pkl(path)
    objects = np.array([{}], object)
    fields = np.zeros(2, [("a", "f4")])
    for array in (objects, fields, np.array(["text"])):
        path.write_bytes(pickle.dumps({"model": {"w": array}}, 4))
        with pytest.raises(WeightFileError, match="dtype"):
            read_pkl(path)
    stream = io.BytesIO(good.replace(b"K\x02K\x03\x86", b"K\x7fK\x7f\x86", 1))
    path.write_bytes(stream.getvalue())
    with pytest.raises(WeightFileError, match=r"24 bytes for an array of shape \(127, 127\)"):
        read_pkl(path)


EMPTY = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
DTYPE = b"cnumpy\ndtype\nU\x02f4K\x00K\x01\x87R"
OF_FOUR_BYTES = b"(K\x01(%stDOUBT\x89U\x04abcdtb".replace(b"DOUBT", DTYPE)  # an array's state: version, shape, ...


@pytest.mark.parametrize(
    ("code", "found"),
    [
        (b"K\x07Q", "a reference to 7"),
        (DTYPE + b"(K\x03U\x01<N(U\x01at}tb", "a dtype that is not one of plain numbers"),
        (DTYPE + b"(K\x03U\x01!NNNtb", "a dtype that is not one of plain numbers"),
        (EMPTY + b"K\x07b", "an array without shape, dtype and bytes"),
        (EMPTY + b"(K\x01)U\x02f4\x89U\x00tb", "an array without a dtype and a shape of few axes"),
        (EMPTY + OF_FOUR_BYTES % (b"K\x01" * 9), "an array without a dtype and a shape of few axes"),
        (EMPTY + OF_FOUR_BYTES % b"J\xff\xff\xff\xff", r"an array of shape \(-1\)"),
        (EMPTY + OF_FOUR_BYTES % b"K\x02", r"4 bytes for an array of shape \(2,\) and dtype float32"),
        (EMPTY + (OF_FOUR_BYTES % b"K\x01").replace(b"U\x04abcd", b"K\x04"), "the numbers of an array in 4"),
        (b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\ndtype\n\x85R", "an array of the class numpy.dtype"),
        (b"c_codecs\nencode\nU\x01aU\x06base64\x86R", "bytes made of 'a' by 'base64'"),
        (b"c__builtin__\nbytes\nJ\xff\xff\xff\x7f\x85R", "bytes made of 2147483647"),
    ],
)
def test_forged_arrays_are_refused(tmp_path, code, found):
    path = tmp_path / "a.pkl"
    path.write_bytes(b"\x80\x02}U\x01w" + code + b"s.")
    with pytest.raises(
        WeightFileError, match=f"a.pkl was not read. Expected a pickle with only numpy.*Found: {found}. N"
    ):
        read_pkl(path)


def test_a_forged_array_that_fits_is_read(tmp_path):
    """The forger above writes what numpy would."""
    path = tmp_path / "a.pkl"
    path.write_bytes(b"\x80\x02}U\x01w" + EMPTY + OF_FOUR_BYTES % b"K\x01" + b"s.")
    assert read_pkl(path)["w"].tobytes() == b"abcd" and read_pkl(path)["w"].shape == (1,)


def test_the_content_of_a_file_decides_how_it_is_read(tmp_path):
    model = small_model()
    state = random_state(model)
    path = tmp_path / "model_final_f10217.pkl"
    path.write_bytes(pickle.dumps({"model": state, "__author__": "Detectron2 Model Zoo"}, 2))
    assert list(read_state(path)) == list(state)
    receipt = km.load_weights(model, path)
    assert faults(model, state) == [] and len(receipt.sha256) == 64 and receipt.sha256 in str(receipt)
    assert dataclasses.replace(receipt, sha256="", source="state dict") == km.load_weights(model, state)
    assert SMALL["fpn_channels"] == model.config.fpn_channels
    # The model of the file is as wide as its tensors, and says where its weights come from.
    built, told = build_model(read_state(path), path, architecture="mask_rcnn_R_50_FPN_3x")
    assert faults(built, state) == [] and told.notes == (
        "arithmetic of Detectron2's config mask_rcnn_R_50_FPN_3x, as asked",
    )
    origin = {"file": path.name, "family": "Detectron2", "licence": receipt.licence, "sha256": receipt.sha256}
    assert built.origin == origin | {"url": FILES["detectron2/mask_rcnn_R_50_FPN_3x"].url} and told.sha256
