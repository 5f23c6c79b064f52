"""The PointRend branch (Kirillov et al., CVPR 2020): masks with sharp edges, in the place of the mask branch.

It needs the same of a batch and adds the same to a detection as the mask branch. The layer: pointrend_head.py.
"""

import re

import numpy as np

from keras_maskrcnn.branches.field import Field
from keras_maskrcnn.branches.mask import TARGET_RULES, MaskBranch

_PREFIX = "roi_heads.mask_head."  # Detectron2's names; torchvision has no such model
_MOST = {"pool_size": 64, "coarse_size": 64, "coarse_fcs": 16, "num_fcs": 16, "steps": 8}


class PointRendMask(MaskBranch):
    """A binary mask for each detection, of coarse_size * 2 ** steps cells per side: rendered, most of it interpolated.

    The defaults are the paper's and Detectron2's: masks of 224 cells.

    Args:
        coarse_size: side of the coarse masks. pool_size: cells of P2 per side that the coarse head reads, even.
        coarse_features, coarse_fcs: width and number of the coarse head's hidden layers.
        channels, num_fcs: width and number of the point head's hidden layers.
        steps: how often a mask is doubled.
        step_points: points of a mask that are predicted in each step.
        train_points: points of a RoI in the loss. importance: share of them that are the least certain ones of
            `oversampling` times as many random points; the rest are random.

    Raises:
        ValueError: a wrong option.
    """

    name = "pointrend"
    losses = ("mask_loss", "point_loss")
    class_layers = ("coarse_logits", "point_fcs", "point_logits")
    torchvision_renames = ()

    def __init__(
        self,
        coarse_size=7,
        pool_size=14,
        coarse_features=1024,
        coarse_fcs=2,
        channels=256,
        num_fcs=3,
        steps=5,
        step_points=784,
        train_points=196,
        oversampling=3,
        importance=0.75,
    ):
        self.coarse_size, self.pool_size, self.coarse_features = coarse_size, pool_size, coarse_features
        self.coarse_fcs, self.channels, self.num_fcs, self.steps = coarse_fcs, channels, num_fcs, steps
        self.step_points, self.train_points = step_points, train_points
        self.oversampling, self.importance = oversampling, importance
        _check_options(self)

    @property
    def mask_size(self):
        """Cells of a mask's side."""
        return self.coarse_size * 2**self.steps

    def make_head(self, config, dtype):
        """The coarse head and the point head, both on P2."""
        from keras_maskrcnn.branches.pointrend_head import PointRendHead

        return PointRendHead(
            num_classes=config.num_classes,
            channels_in=config.fpn_channels,
            fading=not config.mask_padding,
            target_rule=TARGET_RULES[config.mask_targets],
            **vars(self),
            **self.head_options(config, dtype) | {"max_rois": config.max_mask_rois},
        )

    def found(self, config):
        """masks: probabilities in the frame of each box."""
        side = self.mask_size
        return {"masks": Field((side, side), "float32", "probabilities in the frame of each box")}

    # Detectron2: projects/PointRend/point_rend/{mask_head,point_head}.py ------------------------------------------

    def torchvision_table(self, head):
        """Detectron2's names, which its family leaves as they are. All layers but three depend on the classes."""
        yield head.reduce, f"{_PREFIX}coarse_head.reduce_spatial_dim_conv", False
        for index, fc in enumerate(head.fcs, start=1):
            yield fc, f"{_PREFIX}coarse_head.fc{index}", False
        yield head.coarse_logits, f"{_PREFIX}coarse_head.prediction", "outputs"
        for index, fc in enumerate(head.point_fcs, start=1):
            yield fc, f"{_PREFIX}point_head.fc{index}", "outputs"
        yield head.point_logits, f"{_PREFIX}point_head.predictor", "outputs"

    def torchvision_fields(self, state):
        """No field of the config: the options are the branch's."""
        return {} if f"{_PREFIX}point_head.predictor.weight" in state else None

    @classmethod
    def of_torchvision(cls, state):
        """Widths and numbers of the layers, and the sides of the squares.

        Raises:
            ValueError: tensors are missing, or have sizes that do not belong together.
        """
        shapes = {name: np.shape(array) for name, array in state.items() if name.startswith(_PREFIX)}
        try:
            return cls(**_options_of(shapes))
        except (LookupError, ValueError, ZeroDivisionError) as error:
            raise ValueError(
                "The tensors of a PointRend head must be those of a coarse and a point head, with sizes that belong "
                f"together. Received {dict(list(shapes.items())[:20])}. The file is damaged, or of another kind of "
                "model."
            ) from error

    def check_torchvision_export(self, config):
        """Torchvision has no PointRend."""
        raise ValueError(
            "Torchvision has no model with the branch `pointrend`. Received one. Save the model as .keras or "
            ".weights.h5."
        )

    # Keras -----------------------------------------------------------------------------------------------------

    def get_config(self):
        """The options that differ from the defaults."""
        usual = vars(PointRendMask())
        return {key: value for key, value in vars(self).items() if value != usual[key]}


def _options_of(shapes):
    """Options of the branch that Detectron2's tensors of these shapes belong to. Raises where there is no such."""
    channels = shapes[f"{_PREFIX}coarse_head.reduce_spatial_dim_conv.weight"][0]
    classes = shapes[f"{_PREFIX}point_head.predictor.weight"][0]
    width, flat = shapes[f"{_PREFIX}coarse_head.fc1.weight"]
    points = shapes[f"{_PREFIX}point_head.fc1.weight"][0]
    options = {
        "coarse_size": round((shapes[f"{_PREFIX}coarse_head.prediction.weight"][0] / classes) ** 0.5),
        "pool_size": 2 * round((flat / channels) ** 0.5),
        "coarse_features": width,
        "coarse_fcs": _count(shapes, "coarse_head"),
        "channels": points,
        "num_fcs": _count(shapes, "point_head"),
    }
    found = {name: shape for name, shape in shapes.items() if name.endswith(".weight")}
    if found != _shapes_of(channels, classes, options):
        raise ValueError(f"not the shapes of {options}")
    return options


def _count(shapes, head):
    return sum(re.fullmatch(rf"{re.escape(_PREFIX)}{head}\.fc\d+\.weight", name) is not None for name in shapes)


def _shapes_of(channels, classes, options):
    """Name and shape of each kernel, in torch's layout."""
    width, points = options["coarse_features"], options["channels"]
    coarse = {"reduce_spatial_dim_conv": (channels, channels, 2, 2)}
    flat = (options["pool_size"] // 2) ** 2 * channels
    for index in range(options["coarse_fcs"]):
        coarse[f"fc{index + 1}"] = (width, width if index else flat)
    coarse["prediction"] = (options["coarse_size"] ** 2 * classes, width)
    point = {f"fc{i + 1}": (points, (points if i else channels) + classes, 1) for i in range(options["num_fcs"])}
    point["predictor"] = (classes, points + classes, 1)
    heads = {"coarse_head": coarse, "point_head": point}
    return {f"{_PREFIX}{head}.{name}.weight": shape for head, rows in heads.items() for name, shape in rows.items()}


def _check_options(branch):
    for option, value in vars(branch).items():
        most = _MOST.get(option, 2**16)
        if option != "importance" and (not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= most):
            raise ValueError(f"{option} must be a whole number of 1 to {most}. Received: {value!r}. Correct it.")
    if branch.pool_size % 2:
        raise ValueError(
            f"pool_size must be even: a convolution of stride 2 reads the square. Received: {branch.pool_size}. "
            "Take 14."
        )
    if branch.mask_size > 1024:
        raise ValueError(
            "Masks must have at most 1024 cells per side, which are coarse_size * 2 ** steps. Received: "
            f"coarse_size={branch.coarse_size}, steps={branch.steps}. Take fewer steps."
        )
    importance = branch.importance
    known = isinstance(importance, int | float) and not isinstance(importance, bool) and 0 <= importance <= 1
    if not known or not int(branch.train_points * importance):
        raise ValueError(
            "importance must be a share of the train_points in 0..1, and choose at least one. Received: "
            f"importance={importance!r}, train_points={branch.train_points}. Take 0.75."
        )
