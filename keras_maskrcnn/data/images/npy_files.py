"""numpy's `.npy` files -> arrays. Called by `decoding`, and by the reader of label images."""

import numpy as np

from keras_maskrcnn.data.images.forms import DECODER_FAULTS, ImageError, channels_last, damaged, stored_array


def read_npy(file, name, mmap_mode=None):
    """The array of a `.npy` file.

    Args:
        file: Path, or a binary file.
        name: str, what messages call it.
        mmap_mode: as for `numpy.load`; mapping needs a Path.

    Raises:
        ImageError: it is damaged, or holds no numbers.
    """
    try:
        array = np.load(file, mmap_mode=mmap_mode, allow_pickle=False)
    except DECODER_FAULTS as error:
        raise ImageError(damaged(name, error)) from error
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "buif":
        found = f"dtype {array.dtype}" if isinstance(array, np.ndarray) else "several arrays"
        raise ImageError(f"An image holds numbers. Received {name} of {found}. Save one image in it.")
    return array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))


def read_npy_image(opened, mapped_bytes):
    """`Stored` of an `Opened` `.npy` file; one on disk that is larger than `mapped_bytes` is mapped.

    Raises:
        ImageError: as for `read_npy`, or it holds no single image.
    """
    if opened.path is not None and opened.path.stat().st_size > mapped_bytes:
        array = read_npy(opened.path, opened.name, "r")
    else:
        array = read_npy(opened.content, opened.name)
    return stored_array(channels_last(array, opened.name), opened.name)
