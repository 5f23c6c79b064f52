"""Video files, read and written frame by frame with PyAV. Called by `engine.py`."""

import contextlib
import pathlib

import numpy as np

from keras_maskrcnn.data.images.forms import ImageError
from keras_maskrcnn.host.addresses import is_address

ENDINGS = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".wmv", ".ogv")
_CODECS = ("libx264", "mpeg4")  # the first that is there writes
_RATE = 25  # frames a second of a video that tells none


def is_video(path):
    """Whether a path names a video on this machine, by its ending."""
    return not is_address(path) and pathlib.PurePath(str(path)).suffix.lower() in ENDINGS


def import_av(path):
    """PyAV. Raises ImportError with the remedy."""
    try:
        import av
    except ImportError as error:
        raise ImportError(
            f"Reading {path} needs PyAV. Received: it is not installed. "
            "Install it: pip install 'keras-maskrcnn[video]'."
        ) from error
    return av


class VideoFrames:
    """The frames of a video in order, as it is shown: turned as its metadata say.

    Args:
        path: file.

    Attributes:
        rate: fractions.Fraction, frames a second. expected: int, number of frames as the file says, or None. times:
            list of float, seconds, of the frames that were read so far.

    Raises:
        ImageError: it is no video, or has no frame.
    """

    def __init__(self, path):
        self.path = path
        self._av = import_av(path)
        with self._opened() as stream:
            self.rate = stream.average_rate or stream.guessed_rate or _RATE
            self.expected = stream.frames or None
        self.times = []

    def __iter__(self):
        """Yield uint8 (H, W, 3), RGB."""
        with self._opened() as stream:
            for frame in stream.container.decode(stream):
                self.times.append(len(self.times) / float(self.rate) if frame.time is None else float(frame.time))
                pixels = frame.to_ndarray(format="rgb24")
                quarter = round(getattr(frame, "rotation", 0) / 90)
                yield np.ascontiguousarray(np.rot90(pixels, quarter)) if quarter % 4 else pixels

    @contextlib.contextmanager
    def _opened(self):
        try:
            with self._av.open(str(self.path)) as container:
                if not container.streams.video:
                    raise ImageError(f"A video has frames. Received {self.path}, which has none. Name another file.")
                yield container.streams.video[0]
        except self._av.FFmpegError as error:
            raise ImageError(
                f"A video must be of a format that FFmpeg reads, and complete. Received {self.path}: {error}. "
                "Export it again."
            ) from error


class VideoWriter:
    """Writes pictures as an .mp4 file (a context manager).

    Args:
        path: file. rate: frames a second. source: str, the video that it is made of, for messages.
    """

    def __init__(self, path, rate, source):
        self._av = import_av(source)
        self._path, self._rate, self._container, self._stream = path, rate, None, None

    def __enter__(self):
        return self

    def __exit__(self, *error):
        try:
            for packet in self._stream.encode() if self._stream is not None else ():
                self._container.mux(packet)
        finally:
            if self._container is not None:
                self._container.close()

    def add(self, picture):
        """Append a picture, uint8 (H, W, 3). An odd last row or column is left out: the format has none."""
        height, width = (side - side % 2 for side in picture.shape[:2])
        if self._stream is None:
            codec = next(name for name in _CODECS if name in self._av.codecs_available)
            self._container = self._av.open(str(self._path), "w")
            self._stream = self._container.add_stream(codec, rate=self._rate)
            self._stream.width, self._stream.height, self._stream.pix_fmt = width, height, "yuv420p"
        frame = self._av.VideoFrame.from_ndarray(np.ascontiguousarray(picture[:height, :width]), format="rgb24")
        for packet in self._stream.encode(frame):
            self._container.mux(packet)
