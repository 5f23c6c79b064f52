"""The padding of a canvas: which cells of a feature map belong to the image, and how the others lose their influence.

A canvas holds an image at its top left and zeros elsewhere. A convolution with a bias or a norm turns the zeros into
other numbers, and the next convolution mixes these into the image's border. The result would depend on the size of the
canvas. Setting the padding to zero before each convolution larger than 1x1 removes the dependence exactly.
Pure functions of `keras.ops`; called by the backbones, `fpn.py`, `rpn.py` and `model.py`.
"""

from keras import ops


def valid_extents(image_sizes, stride):
    """Rows and columns of a feature map that the image covers: ceil(size / stride).

    Args:
        image_sizes: int (B, [height, width]), network pixels.
        stride: network pixels per cell.

    Returns:
        int32 (B, [rows, columns]).
    """
    return (ops.cast(image_sizes, "int32") + (stride - 1)) // stride


def valid_cells(features, image_sizes, stride):
    """True where a cell of the map belongs to the image.

    Args:
        features: (B, h, w, C); only its shape is used.
        image_sizes: int (B, [height, width]), network pixels.
        stride: network pixels per cell.

    Returns:
        bool (B, h, w).
    """
    extents = valid_extents(image_sizes, stride)
    rows = ops.arange(ops.shape(features)[1], dtype="int32")[None, :] < extents[:, :1]
    columns = ops.arange(ops.shape(features)[2], dtype="int32")[None, :] < extents[:, 1:]
    return ops.logical_and(rows[:, :, None], columns[:, None, :])


def zero_padding(features, image_sizes, stride):
    """Set the cells outside the image to zero. Without image sizes, return the map unchanged.

    Args:
        features: float (B, h, w, C).
        image_sizes: int (B, [height, width]), network pixels, or None.
        stride: network pixels per cell.

    Returns:
        float (B, h, w, C).
    """
    if image_sizes is None:
        return features
    cells = ops.cast(valid_cells(features, image_sizes, stride), features.dtype)
    return features * cells[..., None]


def repeat_border(features, image_sizes, stride):
    """Fill the padding with the image's last row and column, and add one cell at the bottom and right.

    RoIAlign clamps a sample outside the map to the map's last cell. In a padded map the image's last cell is not the
    map's, so the sample would mix with zeros. The added cell is for thin boxes: RoIAlign widens a box to one cell, and
    reads 0 for samples more than one cell outside the map.

    Args:
        features: float (B, h, w, C).
        image_sizes: int32 (B, [height, width]), network pixels, or None (returns the map unchanged).
        stride: network pixels a cell.

    Returns:
        float (B, h + 1, w + 1, C), or the map unchanged.
    """
    if image_sizes is None:
        return features
    features = ops.pad(features, [[0, 0], [0, 1], [0, 1], [0, 0]])
    extents = valid_extents(image_sizes, stride)
    for axis in (1, 2):
        end = ops.reshape(extents[:, axis - 1], (-1, 1, 1, 1))
        shape = list(ops.shape(features))
        places = ops.reshape(ops.arange(shape[axis], dtype="int32"), (1, -1, 1, 1) if axis == 1 else (1, 1, -1, 1))
        shape[axis] = 1
        last = ops.take_along_axis(features, ops.broadcast_to(end - 1, shape), axis=axis)
        features = ops.where(places < end, features, last)
    return features
