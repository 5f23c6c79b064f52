"""MMDetection's names and layout: Mask R-CNNs with a ResNet and a pyramid, of versions 1 to 3.

They are the `.pth` files of OpenMMLab's model zoo and of its users: the tensors under `state_dict`, and `meta`, with
the names of the classes and the text of the config. Versions 2 and 3 have the same names, with background last;
version 1 has no `roi_head` in them, and background first. Backbones of "caffe" style read BGR. Names are from
`mmdet/models/`.
"""

import dataclasses
import re

from keras_maskrcnn.config import MaskRCNNConfig
from keras_maskrcnn.families import mmdetection as recipe
from keras_maskrcnn.families.coco import COCO_CLASS_NAMES
from keras_maskrcnn.host.messages import argument
from keras_maskrcnn.weights.family import Family, check_kind, check_parts, differences
from keras_maskrcnn.weights.renaming import Renaming
from keras_maskrcnn.weights.states import plain_names, with_meta
from keras_maskrcnn.weights.torchvision import read_architecture, tensor_table

LICENCE = "Apache-2.0 (MMDetection's repository; no licence of the weights alone)"
_ROI = "roi_heads"
_RULES = (
    ("backbone.body.conv1", "backbone.conv1", ()),
    ("backbone.body.bn1", "backbone.bn1", ()),
    ("backbone.body.layer#.#.conv#", "backbone.layer#.#.conv#", (0, 0, 0)),
    ("backbone.body.layer#.#.bn#", "backbone.layer#.#.bn#", (0, 0, 0)),
    ("backbone.body.layer#.#.downsample.#", "backbone.layer#.#.downsample.#", (0, 0, 0)),
    ("backbone.fpn.inner_blocks.#.0", "neck.lateral_convs.#.conv", (0,)),
    ("backbone.fpn.layer_blocks.#.0", "neck.fpn_convs.#.conv", (0,)),
    ("rpn.head.conv.0.0", "rpn_head.rpn_conv", ()),
    ("rpn.head.cls_logits", "rpn_head.rpn_cls", ()),
    ("rpn.head.bbox_pred", "rpn_head.rpn_reg", ()),
    (f"{_ROI}.box_head.fc#", "roi_head.bbox_head.shared_fcs.#", (-6,)),
    (f"{_ROI}.box_predictor.cls_score", "roi_head.bbox_head.fc_cls", ()),
    (f"{_ROI}.box_predictor.bbox_pred", "roi_head.bbox_head.fc_reg", ()),
    (f"{_ROI}.mask_head.#.0", "roi_head.mask_head.convs.#.conv", (0,)),
    (f"{_ROI}.mask_predictor.conv5_mask", "roi_head.mask_head.upsample", ()),
    (f"{_ROI}.mask_predictor.mask_fcn_logits", "roi_head.mask_head.conv_logits", ()),
)
_PARTS = {  # field of the config -> its values
    "rpn_convs": (1,),
    "box_convs": (0,),
    "head_norm": (None,),
    "fpn_norm": (None, "none"),
    "norm": ("frozen_batch", "batch"),
    "cascade_ious": ((),),
}
_FITS = (
    "MMDetection's weights fit a ResNet with batch norm, one RPN convolution, one box head of dense layers, and masks."
)
_READ = "Of MMDetection's models Mask R-CNNs with a ResNet-50 or -101 and a pyramid are read."
_NAMES = Renaming(_RULES)
_NAMES_1 = Renaming(tuple((ours, theirs.removeprefix("roi_head."), offsets) for ours, theirs, offsets in _RULES))


def recognises(state):
    """Whether a state dict has the names of MMDetection 2 and 3."""
    return _is_mmdetection(state) and not recognises_1(state)


def recognises_1(state):
    """Whether a state dict has the names of MMDetection 1."""
    return _is_mmdetection(state) and any(name.startswith(("bbox_head.", "mask_head.")) for name in state)


def _is_mmdetection(state):
    return any(name.startswith(("rpn_head.rpn_", "neck.lateral_convs.", "roi_head.bbox_head.")) for name in state)


def prepare(state):
    """The tensors with plain names, and with the checkpoint's `meta`."""
    return with_meta(state, plain_names(state))


def table(model):
    """The weights of a model under the names of MMDetection 2 and 3, in the order of torchvision's table."""
    return _table(model, _NAMES, "last")


def table_1(model):
    """The same under the names of MMDetection 1, which has background first, as torchvision."""
    return _table(model, _NAMES_1, "first")


def _table(model, renaming, background):
    check_parts(model, _PARTS, _FITS, "mmdetection")
    caffe = model.config.stride_in_1x1
    return [
        dataclasses.replace(
            entry,
            name=renaming.theirs(entry.name),
            background=background,
            reversed_channels=entry.first and caffe,
        )
        for entry in tensor_table(model)
    ]


def _notes(model):
    return differences(model.config, recipe.COMMON, "MMDetection")


def _notes_1(model):
    return (
        "MMDetection 1 measures boxes to their last pixel and moves anchors by half a pixel, which versions 2 and 3 "
        "and this package do not: the numbers differ. Train on from these weights",
    )


# The config --------------------------------------------------------------------------------------------------


def read_config(state, source, name=None, overrides=()):
    """The config of the model that a file belongs to. Arguments and result as of `detectron2.read_config`.

    The style of the backbone follows from the config's name, that in the name of a zoo file, or the text in the file's
    `meta`; from there are also the names of the classes and the size of images.
    """
    return _read_config(state, source, name, overrides, _NAMES)


def read_config_1(state, source, name=None, overrides=()):
    """As `read_config`, for version 1, whose RoIAlign is torchvision's."""
    given = {"roi_aligned": False, "roi_sampling_ratio": 2, **dict(overrides)}
    return _read_config(state, source, name, given, _NAMES_1)


def _read_config(state, source, name, overrides, renaming):
    check_kind(state, _OTHERS, _READ)
    found = read_architecture({renaming.ours(key): array for key, array in state.items()})
    if found["backbone"] not in ("resnet50", "resnet101"):
        raise ValueError(
            f"MMDetection's models have a ResNet-50 or -101 here. Received one with {found['backbone']}. "
            "Convert one of these."
        )
    meta = getattr(state, "meta", {})
    said = _said(meta)
    chosen, note = _choose(name, str(source), said.get("style"), found["backbone"])
    labels = _labels(meta, found["num_classes"])
    sizes = {field: said[field] for field in ("min_size", "max_size") if field in said}
    found = {key: value for key, value in found.items() if key != "head_norm"}
    given = {**labels, **sizes, **dict(overrides)}
    values = {**recipe.fields(chosen, found["num_classes"], given), **found, **given}
    read = [*(["class names"] if labels else []), *(["size of images"] if sizes else [])]
    notes = (note, f"{' and '.join(read)} from the file's meta") if read else (note,)
    return MaskRCNNConfig(**values), notes


_OTHERS = {
    r"roi_head\.bbox_head\.\d+\..*|bbox_head\.\d+\..*": "a cascade",
    r"roi_head\.point_head\..*": "PointRend",
    r"bbox_head\.(retina|conv|cls_convs|reg_convs|gfl|atss|transformer).*": "one stage",
    r"(roi_head\.)?mask_iou_head\..*": "mask scoring",
    r"neck\.\w+\.\d+\.(gn|bn)\..*": "norms in the pyramid",
    r"backbone\.layer\d+\.\d+\.conv2\.conv_offset.*|backbone\..*conv2_offset.*": "deformable convolutions",
    r"backbone\.(patch_embed|stages|downsample_layers)\..*": "another backbone than a ResNet",
    r"semantic_head\..*|roi_head\.semantic_head\..*": "a semantic branch",
}


def _choose(name, source, style, backbone):
    """(name of a config, line for the receipt): the user's, or by the file's name or meta, or the usual one."""
    if name is not None:
        return recipe.config_name(name), f"arithmetic of MMDetection's config {recipe.config_name(name)}, as asked"
    place, named = "the file's meta", {"caffe": "_caffe", "pytorch": ""}.get(style)
    if named is None:
        place = "the name of the file"
        match = re.search(r"mask[-_]rcnn_r(50|101)([-_]caffe)?_fpn", source)
        named = None if match is None else "_caffe" if match[2] else ""
    chosen = f"mask_rcnn_r{backbone.removeprefix('resnet')}{named or ''}_fpn_1x_coco"
    if named is not None:
        return chosen, f"arithmetic of MMDetection's config {chosen}, by {place}"
    return chosen, (
        'the style of the backbone ("pytorch" or "caffe": strides and pixels) is not in the file: taken from '
        f"MMDetection's config {chosen}. If yours is the other, name it: {argument('architecture')}."
    )


def _labels(meta, num_classes):
    """The fields about classes of a checkpoint's meta; COCO's get their ids from `families/labels.py`."""
    inside = meta.get("dataset_meta") if isinstance(meta.get("dataset_meta"), dict) else {}
    names = next((each for each in (meta.get("CLASSES"), inside.get("classes"), inside.get("CLASSES")) if each), None)
    names = (names,) if isinstance(names, str) else names
    if not isinstance(names, list | tuple) or not all(isinstance(each, str) for each in names):
        return {}
    if len(names) != num_classes or tuple(names) == COCO_CLASS_NAMES:
        return {}
    return {"class_names": tuple(names)}


def _said(meta):
    """What the text of a config in `meta` says: dict of style, min_size, max_size, as far as it is there.

    The text is a program in Python. It is searched, and not run.
    """
    text = next((meta[key] for key in ("config", "cfg") if isinstance(meta.get(key), str)), "")
    styles = set(_STYLE.findall(text))
    said = {"style": styles.pop()} if len(styles) == 1 else {}
    scales = {tuple(sorted(map(int, pair))) for part in _TEST_PIPELINE.findall(text) for pair in _SCALE.findall(part)}
    if len(scales) == 1:
        said["min_size"], said["max_size"] = scales.pop()
    return said


_STYLE = re.compile(r"\bstyle\s*=\s*['\"](caffe|pytorch)['\"]")
_TEST_PIPELINE = re.compile(r"^test_pipeline\s*=\s*\[$(.*?)^\]", re.DOTALL | re.MULTILINE)
_SCALE = re.compile(r"\b(?:img_)?scale\s*=\s*\(([1-9]\d{0,4}),\s*([1-9]\d{0,4})\)")

_SHARED = {"licence": LICENCE, "prepare": prepare, "warm": recipe.WARM}
FAMILY = Family(title="MMDetection", recognises=recognises, table=table, notes=_notes, config=read_config, **_SHARED)
FAMILY_1 = Family(
    title="MMDetection 1", recognises=recognises_1, table=table_1, notes=_notes_1, config=read_config_1, **_SHARED
)
