"""Box geometry: areas, overlaps, the box coder, clipping and scaling.

In and out: float32 boxes `(..., N, [x1, y1, x2, y2])` in one frame (image or network pixels),
width = x2 - x1. Pure functions in `keras.ops` for any number of leading dimensions. Results and
gradients are finite for empty boxes, because padding rows are boxes of zeros. Called by the stages,
targets and `km.ops`.
"""

import math

from keras import ops

# Lower bound in pixels of widths and heights in divisions and logarithms.
SMALLEST_SIDE = 1e-6

# Largest growth of an anchor, as in torchvision and Detectron.
MAX_LOG_SCALE = math.log(1000 / 16)


def split_sides(boxes):
    """Split boxes into their four sides, in float32: bfloat16 would be off by 2 to 4 px at 1000 px.

    Args:
        boxes: (..., [x1, y1, x2, y2]).

    Returns:
        x1, y1, x2, y2: four float32 tensors (...,).
    """
    return tuple(ops.unstack(ops.cast(ops.convert_to_tensor(boxes), "float32"), 4, axis=-1))


def area(boxes):
    """Area of each box; 0 if its sides are swapped.

    Args:
        boxes: float (..., [x1, y1, x2, y2]).

    Returns:
        float (...,), square pixels, >= 0.
    """
    x1, y1, x2, y2 = split_sides(boxes)
    return ops.relu(x2 - x1) * ops.relu(y2 - y1)


def pairwise_intersection(a, b):
    """Shared area of every box of `a` with every box of `b`.

    Args:
        a: float (..., N, [x1, y1, x2, y2]).
        b: float (..., M, [x1, y1, x2, y2]), the same frame.

    Returns:
        float (..., N, M), square pixels.
    """
    ax1, ay1, ax2, ay2 = split_sides(ops.expand_dims(a, -2))
    bx1, by1, bx2, by2 = split_sides(ops.expand_dims(b, -3))
    width = ops.relu(ops.minimum(ax2, bx2) - ops.maximum(ax1, bx1))
    height = ops.relu(ops.minimum(ay2, by2) - ops.maximum(ay1, by1))
    return width * height


def pairwise_iou(a, b):
    """Intersection over union of every box of `a` with every box of `b`.

    Args:
        a: float (..., N, [x1, y1, x2, y2]).
        b: float (..., M, [x1, y1, x2, y2]), the same frame.

    Returns:
        float (..., N, M) in 0..1; 0 where both boxes are empty.
    """
    intersection = pairwise_intersection(a, b)
    union = area(a)[..., :, None] + area(b)[..., None, :] - intersection
    return _ratio(intersection, union)


def pairwise_ioa(a, b):
    """Share of each box of `a` that lies inside each box of `b` (the rule for crowd regions).

    Args:
        a: float (..., N, [x1, y1, x2, y2]).
        b: float (..., M, [x1, y1, x2, y2]), the same frame.

    Returns:
        float (..., N, M) in 0..1; 0 where the box of `a` is empty.
    """
    return _ratio(pairwise_intersection(a, b), area(a)[..., :, None])


def encode_boxes(boxes, anchors, weights=(1.0, 1.0, 1.0, 1.0)):
    """Encode each box relative to its anchor, the regression target (Faster R-CNN, eq. 2).

    Args:
        boxes: float (..., N, [x1, y1, x2, y2]). Empty boxes count as 1e-6 px wide and high: the result
            is finite, and the caller must mask it.
        anchors: float (..., N, [x1, y1, x2, y2]), the same frame.
        weights: factors of dx, dy, dw, dh; (10, 10, 5, 5) in the second stage.

    Returns:
        float (..., N, [dx, dy, dw, dh]). Centre shift in anchor widths and heights, then log size
        ratio, weighted.
    """
    x, y, width, height = _centres_and_sizes(boxes)
    anchor_x, anchor_y, anchor_width, anchor_height = _centres_and_sizes(anchors)
    deltas = (
        (x - anchor_x) / anchor_width,
        (y - anchor_y) / anchor_height,
        ops.log(width / anchor_width),
        ops.log(height / anchor_height),
    )
    return ops.stack([delta * weight for delta, weight in zip(deltas, weights, strict=True)], axis=-1)


def decode_boxes(deltas, anchors, weights=(1.0, 1.0, 1.0, 1.0), max_log_scale=MAX_LOG_SCALE):
    """Apply the predicted deltas to the anchors (inverse of Faster R-CNN, eq. 2).

    Args:
        deltas: float (..., N, [dx, dy, dw, dh]). Centre shift in anchor widths and heights, then
            log size ratio, each times its weight.
        anchors: float (..., N, [x1, y1, x2, y2]), network pixels.
        weights: the factors used in `encode_boxes`.
        max_log_scale: largest `dw`, `dh` used, or the pair of smallest and largest. Keeps `exp` finite while the
            network is still untrained.

    Returns:
        float (..., N, [x1, y1, x2, y2]), network pixels. Not clipped to the image.
    """
    dx, dy, dw, dh = (side / weight for side, weight in zip(split_sides(deltas), weights, strict=True))
    x1, y1, x2, y2 = split_sides(anchors)
    anchor_width, anchor_height = x2 - x1, y2 - y1
    x = x1 + 0.5 * anchor_width + dx * anchor_width
    y = y1 + 0.5 * anchor_height + dy * anchor_height
    if isinstance(max_log_scale, tuple):
        smallest, max_log_scale = max_log_scale
        dw, dh = ops.maximum(dw, smallest), ops.maximum(dh, smallest)
    half_width = 0.5 * anchor_width * ops.exp(ops.minimum(dw, max_log_scale))
    half_height = 0.5 * anchor_height * ops.exp(ops.minimum(dh, max_log_scale))
    return ops.stack([x - half_width, y - half_height, x + half_width, y + half_height], axis=-1)


def clip_boxes(boxes, image_sizes, origins=None):
    """Clip each box to its image, so that no box extends into the padding.

    Args:
        boxes: float (B, ..., [x1, y1, x2, y2]), network pixels.
        image_sizes: (B, [height, width]), network pixels: the part of the canvas that is image.
        origins: (B, [y, x]), network pixels: where it begins; None: at (0, 0).

    Returns:
        float, the shape of `boxes`. A box completely outside its image has area 0.
    """
    x1, y1, x2, y2 = split_sides(boxes)
    height, width = _per_image(image_sizes, rank=len(boxes.shape) - 1)
    top, left = (0.0, 0.0) if origins is None else _per_image(origins, rank=len(boxes.shape) - 1)
    bottom, right = top + height, left + width
    sides = (x1, left, right), (y1, top, bottom), (x2, left, right), (y2, top, bottom)
    return ops.stack([ops.clip(*side) for side in sides], axis=-1)


def sides_reach(boxes, length):
    """Whether both sides of each box are at least `length` long: float (..., [x1, y1, x2, y2]) -> bool (...,)."""
    x1, y1, x2, y2 = split_sides(boxes)
    return ops.minimum(x2 - x1, y2 - y1) >= length


def scale_boxes(boxes, factors):
    """Scale boxes from one frame to another, as when an image is resized.

    Args:
        boxes: float (B, ..., [x1, y1, x2, y2]).
        factors: float (B, [fy, fx]), pixels of the new frame per pixel of the old one.

    Returns:
        float, the shape of `boxes`, in the new frame.
    """
    x1, y1, x2, y2 = split_sides(boxes)
    fy, fx = _per_image(factors, rank=len(boxes.shape) - 1)
    return ops.stack([x1 * fx, y1 * fy, x2 * fx, y2 * fy], axis=-1)


def _ratio(part, whole):
    """`part / whole`; 0 with a gradient of 0 where `whole` is 0."""
    return part / ops.where(whole > 0, whole, ops.ones_like(whole))


def _centres_and_sizes(boxes):
    x1, y1, x2, y2 = split_sides(boxes)
    width = ops.maximum(x2 - x1, SMALLEST_SIDE)
    height = ops.maximum(y2 - y1, SMALLEST_SIDE)
    return x1 + 0.5 * width, y1 + 0.5 * height, width, height


def _per_image(pairs, rank):
    """Reshape the two columns of a (B, 2) table to (B, 1, ...) of the given rank, float32."""
    first, second = ops.unstack(ops.cast(ops.convert_to_tensor(pairs), "float32"), 2, axis=1)
    shape = (-1,) + (1,) * (rank - 1)
    return ops.reshape(first, shape), ops.reshape(second, shape)
