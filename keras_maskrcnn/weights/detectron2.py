"""Detectron2's names and layout: Mask, Keypoint, PointRend and Cascade R-CNNs with a ResNet and a pyramid.

They are the tensors of its zoo's `.pkl` and its users' `.pth` files.

Background is the last row of the class scores, as here. Images are BGR, so the first kernel's channels are reversed.
Names are from `modeling/backbone/{resnet,fpn}.py`, `modeling/proposal_generator/rpn.py` and `modeling/roi_heads/`.
"""

import dataclasses
import functools
import hashlib
import pathlib
import re

import numpy as np

from keras_maskrcnn.config import MaskRCNNConfig
from keras_maskrcnn.families import detectron2 as recipe
from keras_maskrcnn.host.messages import argument
from keras_maskrcnn.weights import detectron2_yaml
from keras_maskrcnn.weights.family import Family, differences
from keras_maskrcnn.weights.renaming import Renaming
from keras_maskrcnn.weights.states import plain_names
from keras_maskrcnn.weights.torchvision import read_architecture, tensor_table

LICENCE = "CC-BY-SA 3.0 (the weights of Detectron2's model zoo, and what is made of them)"
_BODY, _STAGE = "backbone.bottom_up.", (1, 0, 0)
_RPN = "proposal_generator.rpn_head"
_ROI = "roi_heads"
_RULES = (
    ("backbone.body.conv1", f"{_BODY}stem.conv1", ()),
    ("backbone.body.bn1", f"{_BODY}stem.conv1.norm", ()),
    ("backbone.body.layer#.#.conv#", f"{_BODY}res#.#.conv#", _STAGE),
    ("backbone.body.layer#.#.bn#", f"{_BODY}res#.#.conv#.norm", _STAGE),
    ("backbone.body.layer#.#.downsample.0", f"{_BODY}res#.#.shortcut", (1, 0)),
    ("backbone.body.layer#.#.downsample.1", f"{_BODY}res#.#.shortcut.norm", (1, 0)),
    ("backbone.fpn.inner_blocks.#.0", "backbone.fpn_lateral#", (2,)),
    ("backbone.fpn.inner_blocks.#.1", "backbone.fpn_lateral#.norm", (2,)),
    ("backbone.fpn.layer_blocks.#.0", "backbone.fpn_output#", (2,)),
    ("backbone.fpn.layer_blocks.#.1", "backbone.fpn_output#.norm", (2,)),
    ("rpn.head.cls_logits", f"{_RPN}.objectness_logits", ()),
    ("rpn.head.bbox_pred", f"{_RPN}.anchor_deltas", ()),
    (f"{_ROI}.box_head.fc#", f"{_ROI}.box_head.fc#", (-5,)),
    (f"{_ROI}.box_head.#.0", f"{_ROI}.box_head.conv#", (1,)),
    (f"{_ROI}.box_head.#.1", f"{_ROI}.box_head.conv#.norm", (1,)),
    (f"{_ROI}.box_heads.#.fc#", f"{_ROI}.box_head.#.fc#", (0, -5)),
    (f"{_ROI}.box_heads.#.#.0", f"{_ROI}.box_head.#.conv#", (0, 1)),
    (f"{_ROI}.box_heads.#.#.1", f"{_ROI}.box_head.#.conv#.norm", (0, 1)),
    (f"{_ROI}.box_predictors.#.cls_score", f"{_ROI}.box_predictor.#.cls_score", (0,)),
    (f"{_ROI}.box_predictors.#.bbox_pred", f"{_ROI}.box_predictor.#.bbox_pred", (0,)),
    (f"{_ROI}.mask_head.#.0", f"{_ROI}.mask_head.mask_fcn#", (1,)),
    (f"{_ROI}.mask_head.#.1", f"{_ROI}.mask_head.mask_fcn#.norm", (1,)),
    (f"{_ROI}.mask_predictor.conv5_mask", f"{_ROI}.mask_head.deconv", ()),
    (f"{_ROI}.mask_predictor.mask_fcn_logits", f"{_ROI}.mask_head.predictor", ()),
    # Torchvision counts the ReLU between the convolutions.
    *((f"{_ROI}.keypoint_head.{2 * index}", f"{_ROI}.keypoint_head.conv_fcn{index + 1}", ()) for index in range(32)),
    (f"{_ROI}.keypoint_predictor.kps_score_lowres", f"{_ROI}.keypoint_head.score_lowres", ()),
)
_ONE_CONV = Renaming((*_RULES, ("rpn.head.conv.0.0", f"{_RPN}.conv", ())))
_MORE_CONVS = Renaming((*_RULES, ("rpn.head.conv.#.0", f"{_RPN}.conv.conv#", (0,))))
# Names in files of PointRend before its heads moved into one (`roi_heads.py` and `coarse_mask_head.py` there).
_OLD_NAMES = (
    (r"roi_heads\.mask_coarse_head\.coarse_mask_(fc\d+\.\w+)", r"roi_heads.mask_head.coarse_head.\1"),
    (r"roi_heads\.mask_(coarse|point)_head\.(\w+\.\w+)", r"roi_heads.mask_head.\1_head.\2"),
    (r"roi_heads\.mask_head\.coarse_head\.coarse_mask_(fc\d+\.\w+)", r"roi_heads.mask_head.coarse_head.\1"),
)
_PIXELS = ("pixel_mean", "pixel_std")  # buffers of older files: RGB order of the images, (3, 1, 1)

# The six digits in the name of a zoo file -> its config. The start of the file's MD5, `model_zoo/model_zoo.py`.
ZOO = {
    "a54504": "mask_rcnn_R_50_FPN_1x",
    "f10217": "mask_rcnn_R_50_FPN_3x",
    "a3ec72": "mask_rcnn_R_101_FPN_3x",
    "2d9806": "mask_rcnn_X_101_32x8d_FPN_3x",
    "62ca52": "mask_rcnn_R_50_FPN_noaug_1x",
    "e9d89b": "cascade_mask_rcnn_R_50_FPN_1x",
    "480dd8": "cascade_mask_rcnn_R_50_FPN_3x",
    "af9cf5": "mask_rcnn_R_50_FPN",
    "571f7c": "LVISv0.5-InstanceSegmentation/mask_rcnn_R_50_FPN_1x",
    "824ab5": "LVISv0.5-InstanceSegmentation/mask_rcnn_R_101_FPN_1x",
    "5e3439": "LVISv0.5-InstanceSegmentation/mask_rcnn_X_101_32x8d_FPN_1x",
    "bb69de": "mask_rcnn_R_50_FPN_100ep_LSJ",
    "89a8d3": "mask_rcnn_R_50_FPN_200ep_LSJ",
    "14d201": "mask_rcnn_R_50_FPN_400ep_LSJ",
    "4f7b58": "mask_rcnn_R_101_FPN_100ep_LSJ",
    "0bb7ae": "mask_rcnn_R_101_FPN_200ep_LSJ",
    "f96b26": "mask_rcnn_R_101_FPN_400ep_LSJ",
    "dc5d9e": "mask_rcnn_R_50_FPN_3x_gn",
    "3b3c51": "mask_rcnn_R_50_FPN_3x_syncbn",
    "01ca85": "scratch_mask_rcnn_R_50_FPN_3x_gn",
    "da7b4c": "scratch_mask_rcnn_R_50_FPN_9x_gn",
    "5ce33e": "scratch_mask_rcnn_R_50_FPN_9x_syncbn",
    "04e291": "keypoint_rcnn_R_50_FPN_1x",
    "a6e10b": "keypoint_rcnn_R_50_FPN_3x",
    "997cc7": "keypoint_rcnn_R_101_FPN_3x",
    "5ad38f": "keypoint_rcnn_X_101_32x8d_FPN_3x",
    "736f5a": "pointrend_rcnn_R_50_FPN_1x",
    "88c6f8": "pointrend_rcnn_R_50_FPN_1x",
    "edd263": "pointrend_rcnn_R_50_FPN_3x",
    "3c3198": "pointrend_rcnn_R_50_FPN_3x",
    "3f4d2a": "pointrend_rcnn_R_101_FPN_3x",
    "ba17b9": "pointrend_rcnn_X_101_32x8d_FPN_3x",
    "318a02": "pointrend_rcnn_R_50_FPN_1x_cityscapes",
}


def recognises(state):
    """Whether a state dict has Detectron2's names."""
    return any(name.startswith((_BODY, "proposal_generator.", "backbone.fpn_lateral")) for name in state)


def table(model):
    """The weights of a model under Detectron2's names, in the order of torchvision's table."""
    renaming = _ONE_CONV if len(model.rpn.convs) == 1 else _MORE_CONVS
    convs = len(model.box_head.stages()[0].convs)
    entries = []
    for entry in tensor_table(model):
        # Torchvision counts the layers of a head with convolutions: convolutions, flattening, then dense and ReLU.
        name = re.sub(
            rf"^{_ROI}\.(box_head|box_heads\.\d+)\.(\d+)\.(weight|bias)$",
            lambda found: f"{_ROI}.{found[1]}.fc{6 + (int(found[2]) - convs - 1) // 2}.{found[3]}",
            entry.name,
        )
        changes = {"name": renaming.theirs(name), "background": "last", "reversed_channels": entry.first}
        entries.append(dataclasses.replace(entry, **changes))
    return entries


def _left(name):
    return name in _PIXELS or re.fullmatch(r"proposal_generator\.anchor_generator\.cell_anchors\.\d+", name) is not None


def _check_pixels(state, model):
    """The mean and deviation in a file must be the config's, in the other order."""
    for name in _PIXELS:
        wanted = np.array(getattr(model.config, name)[::-1], np.float32)
        found = np.asarray(state.get(name, wanted), np.float32).ravel()
        if found.shape != wanted.shape or not np.allclose(found, wanted, rtol=1e-4):
            raise ValueError(
                f"{name} of the file, blue first, must be the config's, red first. Received {found.tolist()} for "
                f"{name}={getattr(model.config, name)}. Pass {name}={tuple(found.tolist()[::-1])} to the config."
            )


def _notes(model):
    return differences(model.config, recipe.COMMON, "Detectron2")


def read_config(state, source, name=None, overrides=()):
    """The config of the model that a file belongs to.

    What the tensors do not show, such as the place of the strides, follows from the config's name: the user's, or that
    of a zoo file by the digits in its name; else from the config.yaml beside the file; else it is that of the usual
    config of such tensors. The receipt says which.

    Args:
        state: dict of Detectron2's names to arrays. source: path of the file, or text. name: of a config, or None.
        overrides: fields of MaskRCNNConfig.

    Returns:
        (MaskRCNNConfig, tuple of lines for the receipt).

    Raises:
        ValueError: tensors of another kind of model; no such config, or a config.yaml of another model.
    """
    single = f"{_RPN}.conv.weight" in state
    renaming = _ONE_CONV if single else _MORE_CONVS
    found = read_architecture({renaming.ours(key): array for key, array in state.items()})
    known = ZOO.get(pathlib.Path(str(source)).stem.rsplit("_", 1)[-1])
    chosen = recipe.config_name(name or known or _usual_config(found, state))
    notes = _origin_notes(chosen, name, known, source)
    found |= {"norm": recipe.CONFIGS[chosen].get("norm", "frozen_batch"), **_head_norm(state)}
    found["branches"] = tuple(_with_options(branch) for branch in found["branches"])
    found["cascade_ious"] = recipe.CONFIGS[chosen].get("cascade_ious", ())
    if name is None and known is None:
        beside, notes = _beside(source, found, notes)
        found |= beside
    values = {**recipe.fields(chosen, found["num_classes"], overrides), **found, **dict(overrides)}
    return MaskRCNNConfig(**values), notes


def _beside(source, found, notes):
    """(fields, lines for the receipt) of the config.yaml beside a file; without one none, and the lines given."""
    path = pathlib.Path(str(source)).parent / detectron2_yaml.NAME
    if not pathlib.Path(str(source)).is_file() or not path.is_file():
        return {}, notes
    content = detectron2_yaml.read_config_yaml(path)
    if content is None:
        return {}, (*notes, f"{path} lies beside the file and is no config of Detectron2: it is not used")
    return detectron2_yaml.fields_of(content, path, found), (f"arithmetic, anchors, sizes and thresholds from {path}",)


def _with_options(branch):
    """A branch, as `read_architecture` finds it, with Detectron2's options."""
    return type(branch).from_config({**branch.get_config(), **recipe.BRANCH_OPTIONS.get(branch.name, {})})


def _usual_config(found, state):
    """The config that such tensors are usually of."""
    if found["head_norm"] is None:
        kind, end = _kind(found, state), "3x"
    elif _head_norm(state)["head_norm"] == "group":
        kind, end = "mask", "3x_gn"
    else:
        kind, end = "mask", "100ep_LSJ" if found["rpn_convs"] == 2 else "3x_syncbn"
    # Where the zoo has no R101 (of cascades and norms), its R50 differs from it in depth alone.
    trunks = {"resnet50": ["R_50"], "resnet101": ["R_101", "R_50"], "resnext101_32x8d": ["X_101_32x8d"]}
    names = [f"{kind}_rcnn_{trunk}_FPN_{end}" for trunk in trunks.get(found["backbone"], ())]
    usual = next((name for name in names if name in recipe.CONFIGS), None)
    if usual is None:
        asked = f", which would be {names[0]}" if names else ""
        raise ValueError(
            "Detectron2's zoo has models with a ResNet-50 or ResNet-101, and some with a ResNeXt-101: of one box head, "
            f"without norms. Received one with {found['backbone']}{asked}. Name a config that has the same arithmetic: "
            f"{argument('architecture')}."
        )
    return usual


def _kind(found, state):
    """The first words of a config's name. One with masks and keypoints is not in the zoo."""
    if f"{_ROI}.box_predictor.0.cls_score.weight" in state:
        return "cascade_mask"
    known = tuple(branch.name for branch in found["branches"])
    return {("keypoints",): "keypoint", ("pointrend",): "pointrend"}.get(known, "mask")


def _head_norm(state):
    """The norm of pyramid and heads, which torchvision's names do not tell apart."""
    if "backbone.fpn_lateral2.norm.weight" not in state:
        return {"head_norm": None}
    return {"head_norm": "batch" if "backbone.fpn_lateral2.norm.running_mean" in state else "group"}


def _origin_notes(chosen, name, known, source):
    if name is not None:
        return (f"arithmetic of Detectron2's config {chosen}, as asked",)
    if known is None:
        return (
            f"strides, pixels and RoIAlign are not in the file: taken from Detectron2's config {chosen}, the usual one "
            f"of such tensors. If yours differs, name it: {argument('architecture')}.",
        )
    notes = [f"arithmetic of Detectron2's config {chosen}, by the digits in the name of the file"]
    digits = hashlib.md5(pathlib.Path(source).read_bytes(), usedforsecurity=False).hexdigest()[:6]
    if not pathlib.Path(source).stem.endswith(digits):
        notes.append(
            f"the file's MD5 starts with {digits}, not with the digits in its name: it is not the published one"
        )
    return tuple(notes)


FAMILY = Family(
    title="Detectron2",
    licence=LICENCE,
    recognises=recognises,
    table=table,
    prepare=functools.partial(plain_names, renames=_OLD_NAMES),
    left=_left,
    notes=_notes,
    config=read_config,
    check=_check_pixels,
    warm=recipe.WARM,
)
