"""EXIF orientation of a JPEG or PNG file, read with stock string operators.

In: the bytes of a file. Out: 1..8; 1 if the orientation is missing or invalid. Never raises, for any bytes. Called by
`images_in_graph.py`. Not supported: orientation stored only in XMP, and EXIF in a PNG text chunk (ImageMagick before
2017).
"""

import tensorflow as tf

ORIENTATION = 0x0112  # the tag
_LONG = 4  # type of a four-byte value; usually it is SHORT, two bytes
_MOST_ENTRIES = 512  # largest number of directory entries to search


def jpeg_orientation(data):
    """Orientation from the Exif segment (APP1), which precedes the image data, int32 ()."""
    raw = _raw(data)

    def more(start, found):
        marker = _byte(raw, start + 1)
        is_header = tf.logical_and(marker != 0xDA, marker != 0xD9)  # start of scan, end of image
        in_step = tf.logical_and(_byte(raw, start) == 0xFF, start + 4 < tf.size(raw))
        return tf.logical_and(found < 0, tf.logical_and(is_header, in_step))

    def step(start, found):
        is_fill = _byte(raw, start + 1) == 0xFF  # any number of fill bytes may precede a marker
        is_exif = tf.equal(_byte(raw, start + 1), 0xE1) & tf.equal(tf.strings.substr(data, start + 4, 6), b"Exif\0\0")
        length = tf.maximum(_number(raw, start + 2, 2, True), 2)
        return start + tf.where(is_fill, 1, 2 + length), tf.where(is_exif, start + 10, found)

    _, found = tf.while_loop(more, step, (2, -1), parallel_iterations=1)
    return _orientation_at(raw, found)


def png_orientation(data):
    """Orientation from the eXIf chunk, which may be before or after the image data, int32 ()."""
    # Most files have no such chunk, and large files have thousands of chunks.
    may_have = tf.size(tf.strings.split(data, b"eXIf")) > 1
    return tf.cond(may_have, lambda: _walk_png(data), lambda: tf.constant(1))


def _walk_png(data):
    raw = _raw(data)

    def more(start, found):
        return tf.logical_and(found < 0, start + 12 <= tf.size(raw))

    def step(start, found):
        length = _number(raw, start, 4, True)
        is_exif = tf.equal(tf.strings.substr(data, start + 4, 4), b"eXIf")
        length = tf.where(tf.logical_or(length < 0, length > tf.size(raw)), tf.size(raw), length)
        return start + 12 + length, tf.where(is_exif, start + 8, found)

    _, found = tf.while_loop(more, step, (8, -1), parallel_iterations=1)
    return _orientation_at(raw, found)


def _orientation_at(raw, start):
    """The tag in the first directory of the TIFF structure at byte `start`; 1 for start < 0."""
    big = tf.equal(_byte(raw, start), ord("M"))  # "MM", or "II" for little-endian
    directory = start + _number(raw, start + 4, 4, big)
    count = tf.clip_by_value(_number(raw, directory, 2, big), 0, _MOST_ENTRIES)
    entries = directory + 2 + 12 * tf.range(count)
    is_tag = tf.equal(_number(raw, entries, 2, big), ORIENTATION)
    is_long = tf.equal(_number(raw, entries + 2, 2, big), _LONG)
    values = tf.where(is_long, _number(raw, entries + 8, 4, big), _number(raw, entries + 8, 2, big))
    value = tf.reduce_max(tf.where(is_tag, values, 0))
    sensible = (start >= 0) & (value >= 1) & (value <= 8)
    return tf.where(sensible, value, 1)


def _raw(data):
    """The bytes, uint8 (n + 1,), followed by a 0 for reads past the end."""
    return tf.concat([tf.io.decode_raw(data, tf.uint8), [tf.constant(0, tf.uint8)]], axis=0)


def _byte(raw, position):
    """The bytes at the given positions, int32; 0 outside the file."""
    last = tf.size(raw) - 1
    inside = tf.logical_and(position >= 0, position < last)
    return tf.cast(tf.gather(raw, tf.where(inside, position, last)), tf.int32)


def _number(raw, position, size, big_endian):
    """Unsigned integers of 2 or 4 bytes at the given positions, int32 (negative from 2**31 on, never valid)."""
    parts = [_byte(raw, position + i) for i in range(size)]
    from_big = sum(part * 256 ** (size - 1 - i) for i, part in enumerate(parts))
    from_little = sum(part * 256**i for i, part in enumerate(parts))
    return tf.where(big_endian, from_big, from_little)
