"""Files from the network, into the user's cache: downloaded once, checked each time.

Called by `weights/published.py` and `serving/web.py`.
"""

import hashlib
import http.client
import logging
import urllib.request

from keras_maskrcnn.host.caches import need_writable
from keras_maskrcnn.host.files import disk_error, write_atomically
from keras_maskrcnn.host.locks import locked_file
from keras_maskrcnn.host.progress import progress_bar

_LOG = logging.getLogger(__name__)
_MEGABYTE = 1 << 20


def fetch(path, url, verify, otherwise=""):
    """A file in the cache; downloaded if it is missing.

    Args:
        path: pathlib.Path, its place.
        url: where it is.
        verify: function (path, remedy) that raises ValueError, with the remedy in its message, if a file is not the
            right one.
        otherwise: what else the user can do if the download fails, for the message.

    Returns:
        The path.

    Raises:
        OSError: the cache cannot be written to; or the download failed, and the message gives the URL and the place for
            a manual download.
        ValueError: of `verify`. A download is then deleted.
    """
    if not path.is_file():
        need_writable(path.parent)
        with locked_file(path, wait=True):
            if not path.is_file():  # another process may have downloaded it meanwhile
                write_atomically(path, lambda partial: _fill(partial, path, url, verify, otherwise))
                return path
    verify(path, f"Delete {path}; it will be downloaded again.")
    return path


def digest(path, algorithm="sha256"):
    """The digest of a file, a hash object of hashlib."""
    found = hashlib.new(algorithm)
    with open(path, "rb") as file:
        while chunk := file.read(_MEGABYTE):
            found.update(chunk)
    return found


def _fill(partial, path, url, verify, otherwise):
    try:
        _download(url, partial)
    except (OSError, http.client.HTTPException) as error:
        if disk_error(error):
            raise
        raise OSError(
            f"{url} could not be downloaded: {error}\nDownload it on another machine, copy it to\n  {path}\n"
            f"and run this again. {otherwise}"
        ) from error
    verify(partial, f"The download from {url} was deleted. Try again.")


def _download(url, path):
    """Copy what a URL holds into a file. Errors of the network are OSErrors."""
    _LOG.info("downloading %s", url)
    with urllib.request.urlopen(url) as response, open(path, "wb") as file:
        size = int(response.headers.get("Content-Length", 0))
        with progress_bar(size // _MEGABYTE or None, unit_name="megabyte") as bar:
            while block := response.read(_MEGABYTE):
                file.write(block)
                bar.update(file.tell() // _MEGABYTE)
        if file.tell() < size:
            raise OSError(f"the connection ended after {file.tell():,} of {size:,} bytes")
