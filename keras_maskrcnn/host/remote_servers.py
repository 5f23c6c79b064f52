"""How servers are asked for files: patiently, and with errors that name the address.

fsspec is imported when the first address is used. Called by `remote_paths.py`.
"""

import contextlib
import io
import time

_HEAD = 2**16  # bytes: what most headers of images fit into
_WAITS = (0.2, 2.0)  # seconds before a server is asked again
_REFUSED = (401, 403)  # of HTTP


class HeadFirst(io.RawIOBase):
    """A remote file for reading: the first 64 kB are read at once, the rest when more is asked for.

    Args:
        path: RemotePath.
    """

    def __init__(self, path):
        self._path = path
        self._data, self._whole = path.part(0, _HEAD)
        self._at = 0

    def readable(self):
        """As of every file that is read."""
        return True

    def seekable(self):
        """Yes."""
        return True

    def tell(self):
        """The position, bytes."""
        return self._at

    def seek(self, offset, whence=io.SEEK_SET):
        """Move the position; from the end only after reading all."""
        if whence == io.SEEK_END:
            self._need_all()
        self._at = max(0, offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: len(self._data)}[whence])
        return self._at

    def readinto(self, buffer):
        """Fill a buffer from the position on. Returns the number of bytes."""
        if self._at + len(buffer) > len(self._data):
            self._need_all()
        found = self._data[self._at : self._at + len(buffer)]
        buffer[: len(found)] = found
        self._at += len(found)
        return len(found)

    def _need_all(self):
        if not self._whole:
            self._data, self._whole = self._path.read_bytes(), True


def patiently(ask):
    """What a server gives; it is asked again if it fails for another reason than that there is nothing."""
    for wait in _WAITS:
        try:
            return ask()
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError, PermissionError):
            raise
        except Exception as error:  # aiohttp, botocore and others have bases of their own
            if getattr(error, "status", 500) in _REFUSED:
                raise PermissionError(f"the server refuses it: {_reason(error)}") from error
            time.sleep(wait)
    return ask()


def file_system(protocol, address):
    """The file system of fsspec for a protocol.

    Args:
        protocol: str, such as "s3". address: for messages.

    Raises:
        ValueError: fsspec or its package for the protocol is not installed, or there is no such protocol.
    """
    try:
        import fsspec

        return fsspec.filesystem(protocol)
    except ImportError as error:
        raise ValueError(
            f"An address needs the packages that read it. Received {address}: {error}. Install them: "
            'pip install "keras-maskrcnn[remote]".'
        ) from error
    except ValueError as error:
        raise ValueError(
            f"An address begins with a protocol that fsspec has, such as s3://. Received {address}: {error}. "
            "Correct it."
        ) from error


@contextlib.contextmanager
def named(path):
    """Errors of servers and their libraries become OSErrors that name the address; FileNotFoundError stays one."""
    try:
        yield
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
        raise type(error)(f"{path} is not there: {_reason(error)}") from error
    except PermissionError as error:
        raise PermissionError(f"{path} may not be read: {error}") from error
    except Exception as error:  # aiohttp, botocore and others have bases of their own
        raise OSError(
            f"An address must be within reach. Received {path}: {_reason(error)}. Check it and the network."
        ) from error


def _reason(error):
    return f"{type(error).__name__}: {error}"[:300]
