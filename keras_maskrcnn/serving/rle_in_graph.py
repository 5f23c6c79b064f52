"""Convert masks in the box frame to COCO's compressed run-length strings, in the graph. For `serve_rle`.

Pastes as `paste_mask_windows` does and writes the same text as pycocotools' `encode`, with stock operators. Only the
window of a mask is computed, never the whole image. Called by `signatures.py`.
"""

import tensorflow as tf

_DIGITS = 7  # of 5 bits: a run is shorter than 2**31, plus a sign bit
MASKS = "masks"  # the mask branch's array, which serve_rle replaces by "mask_rle"


def has_masks(config):
    """Whether the detections of a model have masks to encode."""
    return any(MASKS in branch.found(config) for branch in config.branches)


def in_run_lengths(outputs, config):
    """Detections with each mask as COCO's run-length code, in image pixels.

    Args:
        outputs: dict of tensors as `serve_bytes` returns them. config: MaskRCNNConfig.

    Returns:
        The same dict with `mask_rle`, string (B, D), instead of `masks`.
    """

    def encode(row):
        return encode_masks(*row, config.mask_pasting)

    rows = (outputs[MASKS], outputs["boxes"], outputs["valid"], outputs["image_sizes"])
    spec = tf.TensorSpec((config.max_detections,), tf.string)
    codes = tf.map_fn(encode, rows, fn_output_signature=spec, parallel_iterations=1)
    return {name: array for name, array in outputs.items() if name != MASKS} | {"mask_rle": codes}


def encode_masks(masks, boxes, valid, image_size, pasting):
    """Compressed run-length codes of the masks of one image.

    Args:
        masks: float32 (D, m, m), probabilities in the frame of each box.
        boxes: float32 (D, [x1, y1, x2, y2]), image pixels, inside the image.
        valid: bool (D,).
        image_size: int32 [height, width], image pixels.
        pasting: "subpixel", "detectron2" or "torchvision", see `MaskRCNNConfig.mask_pasting`.

    Returns:
        string (D,), the `counts` of COCO's code; empty for rows that are not valid.
    """
    axis = _torchvision_axis if pasting == "torchvision" else _subpixel_axis
    decide = tf.greater_equal if pasting == "detectron2" else tf.greater
    cells = masks.shape[-1]

    def encode(row):
        mask, box = row
        top, rows = axis(box[1], box[3], cells, image_size[0])
        left, columns = axis(box[0], box[2], cells, image_size[1])
        window = decide(tf.matmul(tf.matmul(rows, mask), columns, transpose_b=True), 0.5)
        return run_length_text(run_lengths(window, left, top, image_size))

    count = tf.reduce_sum(tf.cast(valid, tf.int32))  # valid rows come first
    texts = tf.map_fn(encode, (masks[:count], boxes[:count]), fn_output_signature=tf.string, parallel_iterations=4)
    return tf.concat([texts, tf.fill([tf.size(valid) - count], "")], axis=0)


def run_lengths(window, left, top, image_size):
    """Runs of 0 and 1, in column order, of an image-sized mask that is False outside a window.

    Args:
        window: bool (h, w). left, top: int32, image column and row of its top-left corner.
        image_size: int32 [height, width].

    Returns:
        int32 (runs,), their sum is height * width.
    """
    height, width = image_size[0], image_size[1]
    columns = tf.transpose(window)
    columns = tf.cond(tf.size(columns) > 0, lambda: columns, lambda: tf.zeros((1, 1), tf.bool))
    # If the window is as high as the image, a run continues from the bottom of a column to the top of the next one.
    whole = tf.equal(tf.shape(columns)[1], height)
    outside = tf.zeros((1,), tf.bool)
    before = tf.concat([outside, columns[:-1, -1]], axis=0) & whole
    behind = tf.concat([columns[1:, 0], outside], axis=0) & whole
    begins = columns & ~tf.concat([before[:, None], columns[:, :-1]], axis=1)
    ends = columns & ~tf.concat([columns[:, 1:], behind[:, None]], axis=1)

    def positions(flags):
        at = tf.cast(tf.where(flags), tf.int32)
        return (left + at[:, 0]) * height + top + at[:, 1]

    edges = tf.reshape(tf.stack([positions(begins), positions(ends) + 1], axis=1), [-1])
    edges = tf.concat([[0], edges, [height * width]], axis=0)
    runs = edges[1:] - edges[:-1]
    return tf.cond(runs[-1] > 0, lambda: runs, lambda: runs[:-1])


def run_length_text(runs):
    """Encode runs int32 (n,) as pycocotools does: differences from the second last run, 5 bits per character."""
    values = tf.concat([runs[:3], runs[3:] - runs[1:-2]], axis=0)
    shifts = 5 * tf.range(_DIGITS)
    rest = tf.bitwise.right_shift(values[:, None], tf.minimum(shifts, 31))
    digits = rest & 31
    # Another digit follows unless the rest is only sign bits that match this digit's upper bit.
    rest = tf.bitwise.right_shift(values[:, None], tf.minimum(shifts + 5, 31))
    more = tf.not_equal(rest, tf.where(digits & 16 > 0, -1, 0))
    written = tf.math.cumprod(tf.cast(more, tf.int32), axis=1, exclusive=True) > 0
    characters = digits + 32 * tf.cast(more, tf.int32) + 48
    return tf.strings.unicode_encode(tf.boolean_mask(characters, written), "UTF-8")


def _subpixel_axis(low, high, cells, extent):
    """`masks._subpixel_axis` on tensors: the first pixel int32, and weights float32 (pixels, cells)."""
    low, high = tf.cast(low, tf.float64), tf.cast(high, tf.float64)
    first = tf.clip_by_value(tf.cast(tf.math.ceil(low - 0.5), tf.int32), 0, extent)
    last = tf.maximum(tf.minimum(tf.cast(tf.math.ceil(high - 0.5), tf.int32), extent), first)
    last = tf.where(high > low, last, first)
    centres = tf.cast(tf.range(first, last), tf.float64) + 0.5
    points = (centres - low) / tf.where(high > low, high - low, 1.0) * cells - 0.5
    return first, _weights(points, cells)


def _torchvision_axis(low, high, cells, extent):
    """`masks._torchvision_axis` on tensors."""
    half = (high - low) * 0.5 * ((cells + 2) / cells)
    middle = (high + low) * 0.5
    start, end = tf.cast(middle - half, tf.int32), tf.cast(middle + half, tf.int32)
    size = tf.maximum(end - start + 1, 1)
    first = tf.clip_by_value(start, 0, extent)
    last = tf.maximum(tf.minimum(end + 1, extent), first)
    pixels = tf.cast(tf.range(first, last) - start, tf.float64)
    points = (pixels + 0.5) * ((cells + 2) / tf.cast(size, tf.float64)) - 0.5
    return first, _weights(tf.clip_by_value(points, 0, cells + 1) - 1, cells)


def _weights(points, cells):
    distance = tf.abs(points[:, None] - tf.range(cells, dtype=tf.float64))
    return tf.cast(tf.maximum(1.0 - distance, 0.0), tf.float32)
