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
    """Copy the image's last row and column one cell into the padding, for samplers that clamp at the map's edge.

    RoIAlign clamps a sample beyond the last cell to that cell; in a padded map it would mix with zeros instead.

    Args:
        features: float (B, h, w, C), zero beyond the image.
        image_sizes: int (B, [height, width]), network pixels, or None (returns the map as it is).
        stride: network pixels a cell.

    Returns:
        float (B, h, w, C).
    """
    if image_sizes is None:
        return features
    extents = valid_extents(image_sizes, stride)
    for axis in (1, 2):
        last = extents[:, axis - 1]
        cells = ops.arange(ops.shape(features)[axis], dtype="int32")[None, :] == last[:, None]
        cells = cells[:, :, None, None] if axis == 1 else cells[:, None, :, None]
        zero = ops.zeros_like(features[:, :1] if axis == 1 else features[:, :, :1])
        kept = features[:, :-1] if axis == 1 else features[:, :, :-1]
        shifted = ops.concatenate([zero, kept], axis=axis)
        features = ops.where(cells, shifted, features)
    return features
