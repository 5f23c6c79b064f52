"""Padding of a canvas: which cells of a feature map belong to the image, and how to zero the others.

A canvas has the image at its top left and zeros elsewhere. A convolution with a bias or a norm makes the zeros
non-zero, and the next one mixes them into the border of the image. Then the result for an image depends on the canvas.
Zeroing the padding before each convolution larger than 1x1 removes the difference exactly. Called by `backbone.py`,
`fpn.py` and `model.py`; pure functions in `keras.ops`.
"""

from keras import ops


def valid_extents(image_sizes, stride):
    """Rows and columns of a feature map that belong to the image: ceil(size / stride).

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
    """Fill the padding with the image's last row and column, for samplers that clamp at the edge of the map.

    RoIAlign clamps a sample outside the last cell to that cell; in a padded map it would mix with zeros instead. A
    sample more than one cell outside reads 0. A box thinner than one cell is widened to one, so its samples can be that
    far outside. Therefore the map is enlarged by one cell, even if the image fills it.

    Args:
        features: float (B, h, w, C).
        image_sizes: int32 (B, [height, width]), network pixels, or None (returns the map unchanged).
        stride: network pixels per cell.

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
