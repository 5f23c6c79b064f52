"""The padding of a canvas: which cells of a feature map belong to the image, and how the others lose their influence.

A canvas holds an image at its top left and zeros elsewhere. A convolution with a bias or a norm turns the zeros into
other numbers, and the next convolution mixes these into the image's border. The result would depend on the size of the
canvas. Setting the padding to zero before each convolution larger than 1x1 removes the dependence exactly.
Pure functions of `keras.ops`; called by the backbones, `fpn.py`, `rpn.py` and `model.py`.
"""

from keras import ops

from keras_maskrcnn import backend


def valid_extents(image_sizes, stride):
    """Rows and columns of a feature map that the image covers: ceil(size / stride).

    Args:
        image_sizes: int (B, [height, width]), network pixels.
        stride: network pixels per cell.

    Returns:
        int32 (B, [rows, columns]).
    """
    return (ops.cast(image_sizes, "int32") + (stride - 1)) // stride


def valid_cells(extent, image_sizes, stride):
    """True where a cell of the map belongs to the image.

    Args:
        extent: (h, w) of the map.
        image_sizes: int (B, [height, width]), network pixels.
        stride: network pixels per cell.

    Returns:
        bool (B, h, w).
    """
    height, width = (
        ops.reshape(side, (-1, 1, 1)) for side in ops.unstack(valid_extents(image_sizes, stride), 2, axis=1)
    )
    rows, columns = (ops.arange(size, dtype="int32") for size in extent)
    return ops.logical_and(ops.reshape(rows, (1, -1, 1)) < height, ops.reshape(columns, (1, 1, -1)) < width)


def zero_padding(features, image_sizes, stride):
    """Set the cells outside the image to zero. Without image sizes, return the map unchanged.

    Args:
        features: float (B, h, w, C).
        image_sizes: int (B, [height, width]), network pixels, or None.
        stride: network pixels per cell.

    Returns:
        float (B, h, w, C).
    """
    return keep_cells(features, weights_of_map(features, image_sizes, stride))


def weights_of_map(features, image_sizes, stride):
    """`cell_weights` for a map float (B, h, w, C): in its dtype, or None without image sizes."""
    if image_sizes is None:
        return None
    return cell_weights(backend.shape(features)[1:3], image_sizes, stride, features.dtype)


def keep_cells(features, weights):
    """Multiply a map with weights from `cell_weights`; without any, return the map unchanged."""
    return features if weights is None else backend.keep_cells(features, weights)


def cell_weights(extent, image_sizes, stride, dtype):
    """1 for the cells of the image, 0 for those of the padding.

    Args:
        extent: (h, w) of the map.
        image_sizes: int (B, [height, width]), network pixels, or None.
        stride: network pixels per cell.
        dtype: of the result.

    Returns:
        float (B, h, w, 1), or None without image sizes.
    """
    if image_sizes is None:
        return None
    return ops.expand_dims(ops.cast(valid_cells(extent, image_sizes, stride), dtype), -1)


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
    for axis, end in enumerate(ops.unstack(valid_extents(image_sizes, stride), 2, axis=1), 1):
        end = ops.expand_dims(end, 1)
        inside = ops.arange(backend.shape(features)[axis], dtype="int32") < end
        inside = ops.expand_dims(inside, (2, 3) if axis == 1 else (1, 3))
        features = ops.where(inside, features, backend.gather_each(features, end - 1, axis))
    return features
