"""numpy's `.npy` files -> arrays. Called by `decoding`, which names whatever goes wrong."""

import numpy as np

from keras_maskrcnn.data.images.forms import channels_last, stored_array


def read_npy_image(opened, mapped_bytes):
    """`Stored` of an `Opened` `.npy` file; one on disk that is larger than `mapped_bytes` is mapped.

    Raises:
        ImageError: it holds no single image of numbers. Errors of numpy, where the file is damaged.
    """
    if opened.path is not None and opened.path.stat().st_size > mapped_bytes:
        array = np.load(opened.path, mmap_mode="r", allow_pickle=False)
    else:
        array = np.load(opened.content, allow_pickle=False)
    return stored_array(channels_last(array, opened.name), opened.name)
