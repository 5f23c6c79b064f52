"""Encoded images -> network pixels, in the graph. For `serve_bytes` and `serve_rle`.

Reads any mix of JPEG, PNG, BMP and GIF (first frame) of any size, as `km.data.read_image` does: EXIF orientation
applied, alpha dropped, gray and palettes converted to RGB, 16 bits scaled by their range. With stock operators one
damaged file raises for the whole batch. TensorFlow can catch this only in a tf.data pipeline, which can ignore errors.
So each file is decoded in its own pipeline; if the first element fails, the second one replaces it. Models for other
images than 8-bit RGB have their own readers (`READERS`) with the same rules. Called by `signatures.py`.
"""

import tensorflow as tf

from keras_maskrcnn.data.images.limits import MAX_SCANS, MAX_TEXTS, max_pixels
from keras_maskrcnn.serving.exif_in_graph import jpeg_orientation, png_orientation
from keras_maskrcnn.serving.gif_in_graph import first_frame

JPEG, PNG, GIF, BMP, UNKNOWN = range(5)
_SIGNATURES = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF8", b"BM")
_PROBLEMS = (*(f"a damaged {name}, or a variant that TensorFlow does not read, or too large" for name in
               ("JPEG", "PNG", "GIF", "BMP")), "not a JPEG, PNG, GIF or BMP file")  # fmt: skip
_WIDE_RANGES = (255, 1023, 4095, 16383, 65535)  # as in data/images: 8, 10, 12, 14 and 16 bits


def read_batch(image_bytes, network_size, pixels=(3, "uint8")):
    """Decode, rotate, resize and pad files onto one canvas. A damaged file does not affect the others.

    Args:
        image_bytes: string (B,), whole files.
        network_size: function from int32 [height, width] in image pixels to the size in network pixels.
        pixels: (channels, dtype) of the model's images, a key of READERS.

    Returns:
        dict of images float32 (B, H, W, C), network pixels, zero outside each image; network_sizes and image_sizes
        int32 (B, [height, width]), the latter after EXIF rotation; problems string (B,), empty if the file was read.
        For a file that was not read, the image is one black pixel and image_sizes holds zeros.
    """

    def read(data):
        image = tf.ensure_shape(READERS[pixels](data), (None, None, pixels[0]))
        size = tf.shape(image)[:2]
        network = network_size(size)
        # Pass uint8 unchanged: a float copy of the source would be four times as large.
        resized = tf.image.resize(image, network, "bilinear", antialias=False)
        return {"images": resized, "network_sizes": network, "image_sizes": size, "problems": tf.constant("")}

    def read_or_stand_in(data):
        good = tf.data.Dataset.from_tensors(data).map(_plain(read)).ignore_errors()
        stand_in = {
            "images": tf.zeros((1, 1, pixels[0])),
            "network_sizes": tf.ones((2,), tf.int32),
            "image_sizes": tf.zeros((2,), tf.int32),
            "problems": tf.gather(tf.constant(_PROBLEMS), file_format(data)),
        }
        return good.concatenate(tf.data.Dataset.from_tensors(stand_in)).take(1)

    files = tf.data.Dataset.from_tensor_slices(image_bytes)
    rows = files.interleave(
        _plain(read_or_stand_in), cycle_length=4, num_parallel_calls=4, deterministic=True
    )  # in the order of the files
    count = tf.maximum(tf.size(image_bytes, out_type=tf.int64), 1)
    shapes = {"images": [None, None, pixels[0]], "network_sizes": [2], "image_sizes": [2], "problems": []}
    return rows.padded_batch(count, shapes).get_single_element()


def decode(data):
    """Decode one file and apply its EXIF rotation.

    Args:
        data: string (), a whole file.

    Returns:
        uint8 (h, w, [r, g, b]), image pixels. Raises InvalidArgumentError for files that are not images, are damaged
        or have more pixels than `data/images/limits` allowed when the graph was made.
    """
    readers = [_decode_jpeg, _decode_png, _decode_gif, _decode_bmp, _refuse]
    image = tf.switch_case(file_format(data), [lambda reader=reader: reader(data) for reader in readers])
    return tf.ensure_shape(image, (None, None, 3))


def decode_gray(data):
    """Decode one gray file: uint8 (h, w, 1). Raises as `decode` does, and for colour images."""
    image = decode(data)
    gray = tf.debugging.Assert(tf.reduce_all(tf.equal(image, image[..., :1])), ["a colour image"])
    with tf.control_dependencies([gray]):
        return tf.identity(image[..., :1])


def decode_rgba(data):
    """Decode one RGBA PNG: uint8 (h, w, 4). Raises as `decode` does, and for all other files."""
    return _decode_own_png(data, (8, 6), lambda: tf.io.decode_png(data, 4))


def decode_wide_gray(data):
    """Decode one 16-bit gray PNG: uint16 (h, w, 1), as stored. Raises as `decode` does, and for all other files."""
    return _decode_own_png(data, (16, 0), lambda: tf.io.decode_png(data, 1, tf.uint16))


READERS = {(3, "uint8"): decode, (1, "uint8"): decode_gray, (4, "uint8"): decode_rgba, (1, "uint16"): decode_wide_gray}


def file_format(data):
    """The format by the first bytes of a file: JPEG, PNG, GIF, BMP or UNKNOWN, int32 ()."""
    starts = [tf.equal(tf.strings.substr(data, 0, len(start)), start) for start in _SIGNATURES]
    return tf.argmax(tf.stack([*starts, True]), output_type=tf.int32)


def _plain(function):
    """Stop AutoGraph from parsing the source; it has nothing to convert here."""
    return tf.autograph.experimental.do_not_convert(function)


def _decode_jpeg(data):
    few_scans = tf.debugging.Assert(_count(data, b"\xff\xda") <= MAX_SCANS, ["too many scans"])
    with _not_huge(tf.image.extract_jpeg_shape(data)[:2]), tf.control_dependencies([few_scans]):
        # The slow transform is the exact one, which Pillow and OpenCV use too.
        image = tf.io.decode_jpeg(data, channels=3, dct_method="INTEGER_ACCURATE")
    return orient(image, jpeg_orientation(data))


def _png_header(data):
    """(int64 [width, height], int64 [bit depth, colour type])."""
    header = tf.cast(tf.io.decode_raw(tf.strings.substr(data, 16, 10), tf.uint8), tf.int64)
    sides = tf.linalg.matvec(tf.reshape(header[:8], (2, 4)), tf.constant([2**24, 2**16, 2**8, 1], tf.int64))
    return sides, header[8:10]


def _decode_own_png(data, kind, read):
    """A PNG of a given bit depth and colour type, rotated upright. Raises for all other files."""
    refused = tf.debugging.Assert(tf.equal(file_format(data), PNG), ["no PNG"])
    with tf.control_dependencies([refused]):
        sides, found = _png_header(tf.identity(data))
    readable = tf.debugging.Assert(tf.reduce_all(tf.equal(found, kind)), ["a PNG of another type"])
    with _not_huge(sides), tf.control_dependencies([readable, _few_texts(data)]):
        image = read()
    return orient(image, png_orientation(data))


def _decode_png(data):
    sides, kind = _png_header(data)
    with _not_huge(sides), tf.control_dependencies([_few_texts(data)]):
        image = tf.cond(
            kind[0] == 16, lambda: _narrow(tf.io.decode_png(data, 3, tf.uint16)), lambda: tf.io.decode_png(data, 3)
        )
    return orient(image, png_orientation(data))


def _few_texts(data):
    """An operator that raises if a PNG has very many compressed texts."""
    texts = _count(data, b"zTXt") + _count(data, b"iTXt") + _count(data, b"iCCP")
    return tf.debugging.Assert(texts <= MAX_TEXTS, ["too many texts"])


def _count(data, piece):
    """How often some bytes are in a file, int32 ()."""
    return tf.size(tf.strings.split(data, piece)) - 1


def _decode_gif(data):
    first, sides = first_frame(data)
    with _not_huge(sides):
        return tf.io.decode_image(first, channels=3, expand_animations=False)


def _decode_bmp(data):
    """Decode a BMP. TensorFlow does not read palettes and ignores bit-field masks, so check the header for both."""
    header = tf.io.decode_raw(tf.strings.substr(data, 14, 24), tf.int32)  # size, width, height, planes and bits, ...
    plain = tf.equal(header[4], 0)  # compression: none
    masks = tf.io.decode_raw(tf.strings.substr(data, 54, 12), tf.int32)
    bgrx = tf.logical_and(tf.equal(header[4], 3), tf.reduce_all(tf.equal(masks, [0xFF0000, 0xFF00, 0xFF])))
    readable = tf.debugging.Assert(tf.logical_or(plain, bgrx), ["compressed BMP"])
    with _not_huge(tf.abs(header[1:3])), tf.control_dependencies([readable]):
        image = tf.io.decode_bmp(data)

    def with_palette():
        start = 14 + header[0]
        offset = tf.io.decode_raw(tf.strings.substr(data, 10, 4), tf.int32)[0]
        palette = tf.reshape(tf.io.decode_raw(tf.strings.substr(data, start, offset - start), tf.uint8), (-1, 4))
        return tf.gather(palette[:, 2::-1], tf.cast(image[..., 0], tf.int32))

    return tf.cond(tf.equal(tf.shape(image)[2], 1), with_palette, lambda: image[..., :3])


def _refuse(data):
    with tf.control_dependencies([tf.debugging.Assert(False, ["no image"])]):
        return tf.zeros((1, 1, 3), tf.uint8)


def _not_huge(sides):
    """A context whose operators run only if the sides (any integer type) give no more pixels than the limit."""
    pixels = tf.reduce_prod(tf.cast(sides, tf.float64))
    return tf.control_dependencies([tf.debugging.Assert(pixels <= max_pixels(), ["too many pixels"])])


def _narrow(image):
    """16 bits (h, w, 3) to uint8: maps the smallest usual range that holds the maximum to 0..255."""
    top = tf.cast(tf.reduce_max(image), tf.int32)
    limits = tf.constant(_WIDE_RANGES)
    full = tf.reduce_min(tf.where(limits >= top, limits, _WIDE_RANGES[-1]))
    levels = tf.range(_WIDE_RANGES[-1] + 1, dtype=tf.float64) * (255.0 / tf.cast(full, tf.float64))
    levels = tf.cast(tf.minimum(tf.round(levels), 255.0), tf.uint8)
    return tf.gather(levels, tf.cast(image, tf.int32))


def orient(image, orientation):
    """Rotate and flip an image by its EXIF orientation.

    Args:
        image: (h, w, C).
        orientation: int32 (), 1..8; 1 is upright.

    Returns:
        (h, w, C), or (w, h, C) for orientations 5 to 8.
    """

    def turn():
        turned = tf.cond(orientation >= 5, lambda: tf.transpose(image, (1, 0, 2)), lambda: image)
        upside_down = tf.reduce_any(tf.equal(orientation, [3, 4, 7, 8]))
        mirrored = tf.reduce_any(tf.equal(orientation, [2, 3, 6, 7]))
        turned = tf.cond(upside_down, lambda: turned[::-1], lambda: turned)
        return tf.cond(mirrored, lambda: turned[:, ::-1], lambda: turned)

    return tf.cond(tf.equal(orientation, 1), lambda: image, turn)
