"""The published files of other programs: what `weights="detectron2/mask_rcnn_R_50_FPN_3x"` and the like download.

A name is that of the program, a slash, and the program's own name of the model. Numbers of models stand in `families/`.
Called by `published.py`.
"""

import dataclasses

from keras_maskrcnn.config import MaskRCNNConfig
from keras_maskrcnn.families import detectron2, mmdetection, tensorpack
from keras_maskrcnn.weights.detectron2 import ZOO

_DETECTRON2 = "https://dl.fbaipublicfiles.com/detectron2"
_MATTERPORT = "https://github.com/matterport/Mask_RCNN/releases/download/v2.0"
_TENSORPACK = "http://models.tensorpack.com/FasterRCNN"
_MMDETECTION = "https://download.openmmlab.com/mmdetection/v2.0/mask_rcnn"

_POINTREND = "PointRend/InstanceSegmentation"
# Name of a Detectron2 config -> its folder and its number in the zoo (`model_zoo/model_zoo.py`, PointRend's README).
DETECTRON2_PLACES = {
    "mask_rcnn_R_50_FPN_1x": ("COCO-InstanceSegmentation", "137260431"),
    "mask_rcnn_R_50_FPN_3x": ("COCO-InstanceSegmentation", "137849600"),
    "mask_rcnn_R_101_FPN_3x": ("COCO-InstanceSegmentation", "138205316"),
    "mask_rcnn_X_101_32x8d_FPN_3x": ("COCO-InstanceSegmentation", "139653917"),
    "mask_rcnn_R_50_FPN_noaug_1x": ("Detectron1-Comparisons", "137781281"),
    "mask_rcnn_R_50_FPN": ("Cityscapes", "142423278"),
    "mask_rcnn_R_50_FPN_3x_gn": ("Misc", "138602888"),
    "mask_rcnn_R_50_FPN_3x_syncbn": ("Misc", "169527823"),
    "scratch_mask_rcnn_R_50_FPN_3x_gn": ("Misc", "138602908"),
    "scratch_mask_rcnn_R_50_FPN_9x_gn": ("Misc", "183808979"),
    "scratch_mask_rcnn_R_50_FPN_9x_syncbn": ("Misc", "184226666"),
    "mask_rcnn_R_50_FPN_100ep_LSJ": ("new_baselines", "42047764"),
    "mask_rcnn_R_50_FPN_200ep_LSJ": ("new_baselines", "42047638"),
    "mask_rcnn_R_50_FPN_400ep_LSJ": ("new_baselines", "42019571"),
    "mask_rcnn_R_101_FPN_100ep_LSJ": ("new_baselines", "42025812"),
    "mask_rcnn_R_101_FPN_200ep_LSJ": ("new_baselines", "42131867"),
    "mask_rcnn_R_101_FPN_400ep_LSJ": ("new_baselines", "42073830"),
    "keypoint_rcnn_R_50_FPN_1x": ("COCO-Keypoints", "137261548"),
    "keypoint_rcnn_R_50_FPN_3x": ("COCO-Keypoints", "137849621"),
    "keypoint_rcnn_R_101_FPN_3x": ("COCO-Keypoints", "138363331"),
    "keypoint_rcnn_X_101_32x8d_FPN_3x": ("COCO-Keypoints", "139686956"),
    "cascade_mask_rcnn_R_50_FPN_1x": ("Misc", "138602847"),
    "cascade_mask_rcnn_R_50_FPN_3x": ("Misc", "144998488"),
    "pointrend_rcnn_R_50_FPN_1x": (_POINTREND, "164254221"),
    "pointrend_rcnn_R_50_FPN_3x": (_POINTREND, "164955410"),
    "pointrend_rcnn_R_101_FPN_3x": (_POINTREND, "28119983"),
    "pointrend_rcnn_X_101_32x8d_FPN_3x": (_POINTREND, "28119989"),
    "pointrend_rcnn_R_50_FPN_1x_cityscapes": (_POINTREND, "164255101"),
    "LVISv0.5-InstanceSegmentation/mask_rcnn_R_50_FPN_1x": ("", "144219072"),
    "LVISv0.5-InstanceSegmentation/mask_rcnn_R_101_FPN_1x": ("", "144219035"),
    "LVISv0.5-InstanceSegmentation/mask_rcnn_X_101_32x8d_FPN_1x": ("", "144219108"),
}
# Name of an MMDetection config -> the end of its file's name; its last eight digits are the start of the SHA-256.
MMDETECTION_ENDS = {
    "mask_rcnn_r50_fpn_1x_coco": "20200205-d4b0c5d6",
    "mask_rcnn_r50_fpn_2x_coco": "bbox_mAP-0.392__segm_mAP-0.354_20200505_003907-3e542a40",
    "mask_rcnn_r50_fpn_mstrain-poly_3x_coco": "20210524_201154-21b550bb",
    "mask_rcnn_r50_caffe_fpn_mstrain-poly_3x_coco": "bbox_mAP-0.408__segm_mAP-0.37_20200504_163245-42aa3d00",
    "mask_rcnn_r101_fpn_1x_coco": "20200204-1efe0ed5",
    "mask_rcnn_r101_fpn_2x_coco": "bbox_mAP-0.408__segm_mAP-0.366_20200505_071027-14b391c7",
    "mask_rcnn_r101_fpn_mstrain-poly_3x_coco": "20210524_200244-5675c317",
    "mask_rcnn_r101_caffe_fpn_1x_coco": "20200601_095758-805e06c1",
}


@dataclasses.dataclass(frozen=True)
class PublishedFile:
    """A published file.

    Args:
        name: what users call it. url: where it is.
        make_config: function of (num_classes, **overrides) that gives the MaskRCNNConfig of its model.
        sha256: the start of its SHA-256, or "". md5: the start of its MD5, or "".
    """

    name: str
    url: str
    make_config: object
    sha256: str = ""
    md5: str = ""

    @property
    def file(self):
        """Its name in the cache."""
        return self.url.rsplit("/", 1)[-1]


_CLASSES = {"Cityscapes": 8, "cityscapes": 8, detectron2.LVIS_FOLDER.rstrip("/"): 1230}  # COCO's are in the config


def _detectron2():
    """Of a model with two files, the first in `ZOO`."""
    for name, digits in {name: digits for digits, name in reversed(ZOO.items())}.items():
        folder, number = DETECTRON2_PLACES[name]
        file = f"{name}_coco" if folder == _POINTREND and not name.endswith("cityscapes") else name
        place = f"{folder}/{file}".strip("/")
        classes = next((count for part, count in _CLASSES.items() if part in place), None)
        yield PublishedFile(
            f"detectron2/{name}",
            f"{_DETECTRON2}/{place}/{number}/model_final_{digits}.pkl",
            _maker(MaskRCNNConfig.detectron2, name, classes),
            md5=digits,
        )


def _mmdetection():
    for name, end in MMDETECTION_ENDS.items():
        yield PublishedFile(
            f"mmdetection/{name}",
            f"{_MMDETECTION}/{name}/{name}_{end}.pth",
            _maker(MaskRCNNConfig.mmdetection, name),
            sha256=end.rsplit("-", 1)[-1],
        )


def _maker(make, name, published=None):
    """`make` for one name; without a number of classes those of the published file. published: None, or how many."""

    def config(num_classes=published, **overrides):
        return make(name, **({} if num_classes is None else {"num_classes": num_classes}), **overrides)

    return config


def _entries():
    yield from _detectron2()
    yield PublishedFile(
        "matterport/mask_rcnn_coco",
        f"{_MATTERPORT}/mask_rcnn_coco.h5",
        _maker(MaskRCNNConfig.matterport, "resnet101"),
    )
    for name in tensorpack.CONFIGS:
        yield PublishedFile(f"tensorpack/{name}", f"{_TENSORPACK}/{name}.npz", _maker(MaskRCNNConfig.tensorpack, name))
    yield from _mmdetection()


FILES = {entry.name: entry for entry in _entries()}
_NAMES = {  # program -> function that brings a user's name of a model to ours
    "detectron2": detectron2.config_name,
    "matterport": lambda name: name.removesuffix(".h5"),
    "tensorpack": tensorpack.config_name,
    "mmdetection": mmdetection.config_name,
}


def find(name):
    """The PublishedFile of a name, or None where it is no such name.

    Args:
        name: str, such as "detectron2/COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_3x.yaml".

    Raises:
        ValueError: the name of a program before the slash, and no published file of it behind.
    """
    program, _, model = str(name).partition("/")
    if program not in _NAMES or not model:
        return None
    found = FILES.get(f"{program}/{_NAMES[program](model)}")
    if found is None:
        known = [each for each in FILES if each.startswith(f"{program}/")]
        raise ValueError(
            f"The published weights of {program} are {', '.join(known)}. Received: {name}. Take one of these, or "
            "name a file of your own."
        )
    return found


def of_file(file):
    """The PublishedFile with this name of a file, or None."""
    return next((entry for entry in FILES.values() if entry.file == file), None)
