"""Check the sizes in a file against each other before a model of them is built.

A config, or the shapes of a few tensors, determine a model. So a forged file of a few kilobytes could describe a model
of terabytes. The checks here make a model's size proportional to its file. Called by `torchvision.py` and
`keras_files.py`.
"""

import re

import numpy as np

from keras_maskrcnn.weights.limits import LARGEST_UNUSED_SIZE

# Size of a detector: the tensor that determines it, the number of its axes, and the axis.
_SIZES = {
    "pyramid": ("backbone.fpn.inner_blocks.0.0.weight", 4, 0),
    "box": ("roi_heads.box_predictor.cls_score.weight", 2, 1),
    "stage": ("roi_heads.box_predictors.0.cls_score.weight", 2, 1),  # of a cascade
    "mask": ("roi_heads.mask_head.0.0.weight", 4, 0),
    "keypoint": ("roi_heads.keypoint_head.0.weight", 4, 0),
}
# Names of tensors, and the sizes of their first axes; None: any.
_AXES = (
    (r"backbone\.fpn\.layer_blocks\.\d+\.0\.weight", ("pyramid", "pyramid", None, None)),
    (r"rpn\.head\.conv\.\d+\.0\.weight", ("pyramid", "pyramid", None, None)),
    (r"roi_heads\.box_head\.\d+\.0\.weight", ("pyramid", "pyramid", None, None)),
    (r"roi_heads\.box_head\.(fc)?\d+\.weight", ("box", None)),
    (r"roi_heads\.box_heads\.\d+\.\d+\.0\.weight", ("pyramid", "pyramid", None, None)),
    (r"roi_heads\.box_heads\.\d+\.(fc)?\d+\.weight", ("stage", None)),
    (r"roi_heads\.box_predictors\.\d+\.cls_score\.weight", (None, "stage")),
    (r"roi_heads\.mask_head\.[1-9]\d*\.0\.weight", ("mask", "mask", None, None)),
    (r"roi_heads\.mask_predictor\.conv5_mask\.weight", ("mask", "mask", None, None)),
    (r"roi_heads\.keypoint_head\.[1-9]\d*\.weight", ("keypoint", "keypoint", None, None)),
    (r"roi_heads\.keypoint_predictor\.kps_score_lowres\.weight", ("keypoint", None, None, None)),
)
_NEEDED = {
    "pyramid": r"backbone\.fpn\.layer_blocks\.0\.0\.weight",
    "mask": r"roi_heads\.mask_predictor\.conv5_mask\.weight",
    "keypoint": _AXES[-1][0],
}

# Fields of a stored config that are sizes of arrays, or counts of layers.
_SIZE_FIELDS = {"fpn_channels", "rpn_channels", "box_features", "mask_channels", "num_classes", "units", "filters"}
_SIZE_FIELDS |= {"channels", "num_keypoints", "coarse_features"}  # of heads and branches
_COUNT_FIELDS = {"rpn_convs", "box_convs", "box_fcs", "mask_convs", "num_convs", "coarse_fcs", "num_fcs"}


def check_state_sizes(state):
    """Check that the tensors of a torchvision detector belong together.

    Args:
        state: dict of torchvision names (`current_names`) to arrays.

    Raises:
        ValueError: kernels of one head have different sizes, or a tensor has the wrong number of axes.
    """
    sizes, faults = {}, []
    for size, (name, axes, axis) in _SIZES.items():
        if name in state and np.ndim(state[name]) == axes:
            sizes[size] = np.shape(state[name])[axis]
        elif name in state:
            faults.append(f"{name} {np.shape(state[name])}")
    for name, array in state.items():
        wanted = next((axes for pattern, axes in _AXES if re.fullmatch(pattern, name)), None)
        if wanted and not _fits(np.shape(array), wanted, sizes):
            faults.append(f"{name} {np.shape(array)}")
    for size, pattern in _NEEDED.items():
        if size in sizes and not any(re.fullmatch(pattern, name) for name in state):
            faults.append("no " + pattern.replace("\\", ""))
    if faults or 0 in sizes.values():
        raise ValueError(
            "The tensors of a detector must have sizes that belong together, with as many filters in every convolution "
            f"of a head. Received {', '.join(faults[:6]) or sizes}. The file is damaged, or of another kind of model."
        )


def _fits(shape, wanted, sizes):
    if len(shape) != len(wanted):
        return False
    return all(size is None or found == sizes.get(size, found) for found, size in zip(shape, wanted))


def check_config_sizes(config, shapes):
    """Check that a stored model config describes no larger arrays than its file holds.

    Args:
        config: what a `.keras` file's config.json holds. shapes: list of the shapes of the file's arrays.

    Raises:
        ValueError: a size is that of no array.
    """
    largest = max([LARGEST_UNUSED_SIZE, *(side for shape in shapes for side in shape)])
    waiting = [config]
    while waiting:
        value = waiting.pop()
        if isinstance(value, list):
            waiting += value
        elif isinstance(value, dict):
            for key, each in value.items():
                most = largest if key in _SIZE_FIELDS else len(shapes) if key in _COUNT_FIELDS else None
                if most is not None and isinstance(each, int | float) and not -1 <= each <= most:
                    raise ValueError(f"a config with {key}={each!r:.40}, of a file whose arrays allow at most {most}")
            waiting += value.values()
