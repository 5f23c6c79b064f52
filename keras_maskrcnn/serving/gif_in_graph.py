"""The first frame of a GIF file, found with stock operators: TensorFlow's decoder unpacks every frame to give one.

In: the bytes of a file. Out: the file cut after its first frame. Called by `images_in_graph.py`.
"""

import tensorflow as tf

_HEADER, _FRAME = 13, 10  # bytes of the header, and of a frame's descriptor
_EXTENSION, _IMAGE = 0x21, 0x2C  # what a block starts with
_MOST_EXTENSIONS = 1000  # before the first frame
_MOST_PARTS = 2**17  # of up to 255 bytes each, in a block: 33 MB


def first_frame(data):
    """Cut a GIF after its first frame.

    Args:
        data: string (), a whole file.

    Returns:
        string (), a GIF of one frame; int32 (2, [width, height]), the sides of the canvas and of the frame, whichever
        are larger. Raises InvalidArgumentError if there is no frame within the limits of this module.
    """
    raw = tf.concat([tf.io.decode_raw(data, tf.uint8), tf.zeros((1,), tf.uint8)], axis=0)  # a 0 ends what is cut off

    def more(position):
        return _byte(raw, position) == _EXTENSION

    def step(position):
        return (_after_parts(raw, position + 2),)

    (frame,) = tf.while_loop(
        more, step, (_HEADER + _table(raw, 10),), parallel_iterations=1, maximum_iterations=_MOST_EXTENSIONS
    )
    end = _after_parts(raw, frame + _FRAME + _table(raw, frame + 9) + 1)
    found = tf.debugging.Assert((_byte(raw, frame) == _IMAGE) & (end < tf.size(raw)), ["no frame in a GIF"])
    with tf.control_dependencies([found]):
        sides = tf.maximum(_sides(raw, 6), _sides(raw, frame + 5))
        return tf.strings.substr(data, 0, end) + b";", sides


def _after_parts(raw, position):
    """The position behind a block's parts, each a length and so many bytes; behind the file if they do not end."""

    def step(position, length):
        position += length + 1
        return position, _byte(raw, position)

    position, length = tf.while_loop(
        lambda position, length: length > 0,
        step,
        (position, _byte(raw, position)),
        parallel_iterations=1,
        maximum_iterations=_MOST_PARTS,
    )
    return tf.where(length > 0, tf.size(raw), position + 1)


def _table(raw, position):
    """Bytes of the colour table that the flags at a position announce."""
    flags = _byte(raw, position)
    return tf.where(flags >= 128, tf.bitwise.left_shift(6, tf.bitwise.bitwise_and(flags, 7)), 0)


def _sides(raw, position):
    low, high = (tf.stack([_byte(raw, position + k + i) for k in (0, 2)]) for i in range(2))
    return low + 256 * high


def _byte(raw, position):
    """The byte at a position, int32 (); 0 behind the file."""
    return tf.cast(tf.gather(raw, tf.minimum(position, tf.size(raw) - 1)), tf.int32)
