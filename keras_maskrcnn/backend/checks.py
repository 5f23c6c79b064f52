"""Checks of operators' arguments that every backend shares: the native operators, stock ones and `keras.ops`.

Shapes are checked as far as they are known. Values are checked where they are at hand: not while a graph is traced, and
not for a tensor on its way through a compiled model. Called by `generic.py`, `tensorflow.py` and, for the public
operators, by `network/roi_align.py` and `ops.py`.
"""

import numpy as np

MOST_BINS = 1024  # of a crop, along an axis; heads use 7 to 28
MOST_POINTS = 128  # points per bin and axis
MOST_CROPPED = 2**31 - 1  # numbers in all crops of a call
LARGEST_SCALE = 1024.0  # cells of a map per pixel
MOST_OUTPUTS = 2**24  # boxes that NMS keeps of an image
MOST_CLASSES = 1 << 16
LONGEST_STRIDE = 1 << 15


def check_maps(maps, what):
    """Check maps (B, H, W, C): at least one row, column and channel. The batch may be empty.

    Raises:
        ValueError: the known part of a shape is wrong.
    """
    for level in maps:
        shape = tuple(level.shape)
        if len(shape) != 4 or 0 in shape[1:]:
            raise ValueError(
                f"{what} takes maps (B, H, W, C) with at least one row, one column and one channel. "
                f"Received shape {shape}. Leave out levels that the image is too small for."
            )
    check_channels(maps, what)


def check_channels(maps, what):
    """Check that maps (..., C) have one number of channels. Raises ValueError."""
    channels = {level.shape[-1] for level in maps} - {None}
    if len(channels) > 1:
        raise ValueError(
            f"{what} takes maps with the same number of channels. Received {sorted(channels)}. "
            "Bring them to one number by a 1x1 convolution."
        )


def check_convolution(maps, kernel, bias, strides, groups=1):
    """Check the arguments of `generic.convolve`.

    Raises:
        ValueError: a shape is wrong, without filters or channels, or the stride is no whole number from 1.
    """
    if isinstance(strides, bool) or not isinstance(strides, int) or not 1 <= strides <= LONGEST_STRIDE:
        raise ValueError(
            f"strides must be a whole number from 1 to {LONGEST_STRIDE}. Received {strides!r}. Use 1 to keep the size "
            "of the maps, 2 to halve it."
        )
    check_maps(maps, "A convolution")
    shape = tuple(kernel.shape)
    if len(shape) != 4 or shape[0] != shape[1] or shape[0] % 2 == 0 or 0 in shape[2:]:
        raise ValueError(
            f"A kernel must be (k, k, C, K), k odd, with at least one channel and one filter. Received shape {shape}."
        )
    if isinstance(groups, bool) or not isinstance(groups, int) or groups < 1 or shape[3] % groups:
        raise ValueError(
            f"groups must be a whole number from 1 that divides the {shape[3]} filters. Received {groups!r}. "
            "Use 1 for a convolution that mixes all channels."
        )
    wrong = [level.shape[-1] for level in maps if level.shape[-1] not in (None, shape[2] * groups)]
    if wrong or (bias is not None and tuple(bias.shape) != shape[3:]):
        raise ValueError(
            "A kernel (k, k, C, K) fits maps of C channels and a bias (K,). Received a kernel of shape "
            f"{shape}, maps of {wrong or shape[2]} channels and a bias of shape "
            f"{None if bias is None else tuple(bias.shape)}, in {groups} groups of C channels."
        )


def check_crops(maps, boxes, box_batch, output_size):
    """Check the arguments of `roi_align`: maps, boxes (R, 4), box_batch (R,), bins (h, w).

    Raises:
        ValueError: shapes do not belong together, or the crops would have too many numbers.
    """
    check_maps(maps, "roi_align")
    if len(boxes.shape) != 2 or boxes.shape[1] != 4 or len(box_batch.shape) != 1:
        raise ValueError(
            "roi_align takes features (B, H, W, C), boxes (R, 4) and box_batch (R,). Received "
            f"shapes {tuple(maps[0].shape)}, {tuple(boxes.shape)} and {tuple(box_batch.shape)}. "
            "Flatten boxes (B, R, 4) and pass the image of each box in box_batch."
        )
    counts = {boxes.shape[0], box_batch.shape[0]} - {None}
    if len(counts) > 1:
        raise ValueError(
            "roi_align takes the image of every box. Received "
            f"{boxes.shape[0]} boxes and a box_batch of {box_batch.shape[0]}. Pass one entry for each box."
        )
    numbers = max(counts, default=1) * output_size[0] * output_size[1] * (maps[0].shape[-1] or 1)
    if numbers > MOST_CROPPED:
        raise ValueError(
            f"The crops of a call must have at most {MOST_CROPPED:,} numbers. Received {max(counts, default=1):,} "
            f"boxes of {output_size[0]}x{output_size[1]} bins and {maps[0].shape[-1]} channels, {numbers:,} numbers. "
            "Crop fewer boxes at a time."
        )


def check_rows(boxes, columns):
    """Check that columns have one value for each box.

    Args:
        boxes: (..., N, 4). columns: dict of an argument's name to a tensor (..., N), or None.
    """
    for name, column in columns.items():
        if column is None:
            continue
        pairs = zip(tuple(boxes.shape)[:-1], tuple(column.shape))
        if len(column.shape) != len(boxes.shape) - 1 or any(None not in pair and len(set(pair)) > 1 for pair in pairs):
            raise ValueError(
                f"{name} must have one value for each box: the shape {tuple(boxes.shape)[:-1]} of boxes "
                f"{tuple(boxes.shape)}. Received {name} of shape {tuple(column.shape)}. Pass both for the same boxes."
            )


def check_indices(name, values, count, what):
    """Check that whole numbers are in 0..count-1.

    Args:
        name: the argument. values: numpy array, or None if the values are not known. count: int or None. what: what is
            counted.
    """
    if values is None or count is None or not values.size:
        return
    wrong = np.flatnonzero((values < 0) | (values >= count))
    if wrong.size:
        raise ValueError(
            f"{name} must be from 0 to {count - 1}: there are {count} {what}. "
            f"Received {values.reshape(-1)[wrong[0]]} at position {wrong[0]}. Count them from 0."
        )
