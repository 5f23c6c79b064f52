"""First step: what a user calls an image -> its content and the kind of that content.

Called by `reading`.
"""

import contextlib
import io
import os
import pathlib
import stat

import numpy as np
from PIL import Image

from keras_maskrcnn.data.images.forms import ImageError, Kind, Opened
from keras_maskrcnn.host.addresses import local_file, open_image
from keras_maskrcnn.host.messages import argument
from keras_maskrcnn.host.remote_paths import RemotePath

_STARTS = {
    b"\x93NUM": Kind.NPY,
    b"II*\0": Kind.TIFF,
    b"MM\0*": Kind.TIFF,
    b"II+\0": Kind.TIFF,  # BigTIFF
    b"MM\0+": Kind.TIFF,
}


@contextlib.contextmanager
def open_source(source):
    """Open an image. A context manager, which closes the file.

    Args:
        source: path or address (str, Path or RemotePath), bytes of an encoded file, PIL.Image.Image, or array.

    Yields:
        Opened.

    Raises:
        ImageError: the source is none of these, or no file is there that may be read.
    """
    if isinstance(source, np.ndarray):
        yield Opened(source, Kind.ARRAY, "an array")
    elif isinstance(source, Image.Image):
        yield Opened(source, Kind.PIL_IMAGE, f"{getattr(source, 'filename', '') or 'an image'} of mode {source.mode}")
    elif isinstance(source, (bytes, bytearray, memoryview)):
        yield _opened(io.BytesIO(source), f"<{len(source)} bytes>")
    elif isinstance(source, (str, pathlib.Path, RemotePath)):
        file, path = _open_file(source)
        with file:
            yield _opened(file, str(source), path)
    else:
        raise ImageError(
            "An image is a path, bytes, a PIL image, or a numpy array. "
            f"Received {type(source).__name__}. {_remedy(source)}"
        )


def _remedy(source):
    if isinstance(source, (list, tuple, set, dict)):
        return "Give one image at a time: [read(image) for image in images]."
    return "Convert it to one of these."


def _open_file(path):
    """(binary file, its pathlib.Path or None): what is on this machine, and what an address leads to."""
    try:
        local = local_file(path)
        if local is None:
            return open_image(path), None
        if stat.S_ISFIFO(os.stat(local).st_mode):  # opening one would wait for a writer
            raise OSError("it is a pipe, not a file")
        return open(local, "rb"), local
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
        raise ImageError(
            f"An image file must exist. Received {path}, which does not. "
            f"Check the folder of the images ({argument('image_dir')}) and the file names in the annotations."
        ) from error
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the path
        raise ImageError(
            f"An image file must be readable. Received {path}: {error}. Check its name and its permissions."
        ) from error


def _opened(file, name, path=None):
    start = file.read(4)
    file.seek(0)
    return Opened(file, _STARTS.get(start, Kind.OTHER_FILE), name, path)
