"""The padded border of a canvas: which cells of a feature map are image, and how to keep the rest out of it.

A canvas holds an image at its top left and zeros elsewhere. A convolution with a bias or a norm makes the zeros
non-zero, and the next one carries them into the image's border; then an image alone and the same image in a wider
batch differ. Zeroing the padding before each convolution that looks sideways removes the difference exactly.
Called by `backbone.py`, `fpn.py` and `model.py`; pure functions of `keras.ops`.
"""

from keras import ops


def valid_extents(image_sizes, stride):
    """Rows and columns of a feature map that hold image: ceil(size / stride).

    Args:
        image_sizes: int (B, [height, width]), network pixels.
        stride: network pixels a cell.

    Returns:
        int32 (B, [rows, columns]).
    """
    return (ops.cast(image_sizes, "int32") + (stride - 1)) // stride


def valid_cells(features, image_sizes, stride):
    """True where a cell of the map belongs to the image.

    Args:
        features: (B, h, w, C); only its shape is read.
        image_sizes: int (B, [height, width]), network pixels.
        stride: network pixels a cell.

    Returns:
        bool (B, h, w).
    """
    extents = valid_extents(image_sizes, stride)
    rows = ops.arange(ops.shape(features)[1], dtype="int32")[None, :] < extents[:, :1]
    columns = ops.arange(ops.shape(features)[2], dtype="int32")[None, :] < extents[:, 1:]
    return ops.logical_and(rows[:, :, None], columns[:, None, :])


def zero_padding(features, image_sizes, stride):
    """Set the cells beyond the image to zero; without image sizes, return the map as it is.

    Args:
        features: float (B, h, w, C).
        image_sizes: int (B, [height, width]), network pixels, or None.
        stride: network pixels a cell.

    Returns:
        float (B, h, w, C).
    """
    if image_sizes is None:
        return features
    cells = ops.cast(valid_cells(features, image_sizes, stride), features.dtype)
    return features * cells[..., None]


def repeat_border(features, image_sizes, stride):
    """Fill the padding with the image's last row and column, for samplers that clamp at the map's edge.

    RoIAlign clamps a sample beyond the last cell to that cell; in a padded map it would mix with zeros instead. And a
    sample more than a cell beyond the last one is 0 to it, which a box thinner than a cell reaches, since it is widened
    to one: so the map grows by a cell, whether the image fills it or not.

    Args:
        features: float (B, h, w, C).
        image_sizes: int32 (B, [height, width]), network pixels, or None (returns the map as it is).
        stride: network pixels a cell.

    Returns:
        float (B, h + 1, w + 1, C), or the map as it is.
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
