"""A file or folder that fsspec reads, with the methods of pathlib.Path that readers use.

https://filesystem-spec.readthedocs.io lists the protocols; its configuration and the environment hold credentials.
fsspec is imported when the first address is used. Called by `addresses.py`.
"""

import hashlib
import io
import os
import pathlib
import posixpath
import tempfile
import urllib.parse

from keras_maskrcnn.host.caches import cache_folder
from keras_maskrcnn.host.files import write_atomically
from keras_maskrcnn.host.remote_servers import HeadFirst, file_system, named, patiently

CACHED = "simplecache::"
_WEB = ("http", "https")
_NO_SERVER = "memory"  # its addresses begin with a folder, others with a server or a bucket
_UNLISTED = "unlisted"


class RemotePath:
    """A file or folder of a file system that fsspec reads. It has those methods of pathlib.Path that readers use.

    What a folder holds is asked for once; a path and those made from it share the answers. A web server that lists no
    folder is taken to have every file: only reading one can tell.

    Args:
        address: str, such as "s3://bucket/images". listings: dict, shared with another RemotePath, or None.
    """

    def __init__(self, address, listings=None):
        start, _, rest = address.removeprefix(CACHED).partition("://")
        self.is_cached = address.startswith(CACHED)
        self.protocol = start.lower()
        rest, mark, query = rest.partition("?") if self.protocol in _WEB else (rest, "", "")
        authority, _, path = rest.partition("/") if self.protocol != _NO_SERVER else ("", "", rest)
        path = posixpath.normpath(f"/{path}").strip("/")
        self._query = mark + query
        self._inside = tuple(path.split("/")) if path and path != "." else ()
        self._authority = authority
        self._listings = {} if listings is None else listings
        file_system(self.protocol, address)

    # Its name ------------------------------------------------------------------------------------------------

    def __str__(self):
        return f"{CACHED if self.is_cached else ''}{self.plain}"

    def __repr__(self):
        return f"RemotePath({str(self)!r})"

    @property
    def plain(self):
        """The address without `simplecache::`."""
        authority = () if self.protocol == _NO_SERVER else (self._authority,)
        return f"{self.protocol}://{'/'.join((*authority, *self._inside))}{self._query}"

    def __eq__(self, other):
        return isinstance(other, RemotePath) and str(self) == str(other)

    def __lt__(self, other):
        return str(self) < str(other)

    def __hash__(self):
        return hash(str(self))

    @property
    def name(self):
        """The last part, as people write it: on a web server without its quotes (%20)."""
        return self._told(self._inside[-1]) if self._inside else ""

    @property
    def stem(self):
        """The name without its last ending."""
        return pathlib.PurePosixPath(self.name).stem

    @property
    def suffix(self):
        """The last ending of the name."""
        return pathlib.PurePosixPath(self.name).suffix

    @property
    def parts(self):
        """The address of the server, bucket or root, then the parts of the path."""
        return (str(self._at(())), *map(self._told, self._inside))

    @property
    def parent(self):
        """The folder that holds it; a root is its own."""
        return self._at(self._inside[:-1])

    def __truediv__(self, name):
        """A path inside this folder. `..` leads out of it, at most to the root."""
        name = posixpath.normpath(posixpath.join("/".join(("", *self._inside)), self._quoted(str(name))))
        return self._at(tuple(part for part in name.split("/") if part not in ("", ".", "..")))

    def joinpath(self, *names):
        """A path inside this folder."""
        found = self
        for name in names:
            found = found / name
        return found

    def with_suffix(self, suffix):
        """Its neighbour with another ending."""
        return self.parent / f"{self.stem}{suffix}"

    def as_posix(self):
        """The address."""
        return str(self)

    def absolute(self):
        """Itself."""
        return self

    resolve = absolute

    def relative_to(self, folder):
        """Its path inside a folder, with forward slashes.

        Raises:
            ValueError: it is not inside.
        """
        count = len(folder._inside)
        if self._at(self._inside[:count]) != folder:
            raise ValueError(f"A file must be inside {folder}. Received {self}. Name a folder that holds it.")
        return pathlib.PurePosixPath(*map(self._told, self._inside[count:]))

    def _at(self, inside):
        found = object.__new__(type(self))
        found.__dict__.update(self.__dict__, _inside=inside, _query="" if inside != self._inside else self._query)
        return found

    def _quoted(self, name):
        return urllib.parse.quote(name, safe="/", errors="surrogateescape") if self.protocol in _WEB else name

    def _told(self, part):
        return urllib.parse.unquote(part, errors="surrogateescape") if self.protocol in _WEB else part

    # What is there ---------------------------------------------------------------------------------------------

    def names(self):
        """{name: whether it is a folder} of what this folder holds; None: its server lists no folders."""
        key = self.plain
        if key not in self._listings:
            self._listings[key] = self._list()
        return self._listings[key]

    def _list(self):
        """As `names`, from the server.

        Raises:
            FileNotFoundError, NotADirectoryError, OSError: as of a local folder.
        """
        system, path = self._system()
        with named(self):
            if self.protocol in _WEB and self._is_file_of_a_server(system):
                raise NotADirectoryError(f"{self} is a file")
            try:
                entries = system.ls(path, detail=True, refresh=True)
            except Exception as error:
                if self.protocol in _WEB and (isinstance(error, FileNotFoundError) or hasattr(error, "status")):
                    return None  # 404, 403, 405: it does not list this
                raise
        start, found = len(self._fs_path(path).rstrip("/")) + 1, {}
        for entry in entries:
            name = self._fs_path(entry["name"])[start:]
            if name.strip("/") and "/" not in name.strip("/") and not name.startswith(("?", "#")):
                found[self._told(name.strip("/"))] = entry["type"] == "directory"
        if not found and self.protocol in _WEB:
            return None
        return found

    def is_unlisted(self):
        """Whether it may be a folder of a server that lists none."""
        try:
            return self.names() is None and self.parent.names() is None
        except (FileNotFoundError, NotADirectoryError):
            return False

    def _fs_path(self, path):
        return path.partition("?")[0] if self.protocol in _WEB else "/" + path.lstrip("/")

    def _listed(self):
        """Whether the folder above, if it was listed, has it as a folder (True), a file (False) or not (None)."""
        names = self._listings.get(self.parent.plain) if self._inside else None
        return _UNLISTED if names is None else names.get(self.name)

    def is_dir(self):
        """Whether it is a folder that can be listed."""
        listed = self._listed()
        if listed is not _UNLISTED:
            return bool(listed)
        try:
            return bool(self.names())
        except (FileNotFoundError, NotADirectoryError):
            return False

    def is_file(self):
        """Whether it is a file."""
        listed = self._listed()
        if listed is not _UNLISTED:
            return listed is False
        system, path = self._system()
        with named(self):
            if self.protocol in _WEB:
                return self._is_file_of_a_server(system)
            try:
                return system.info(path)["type"] == "file"
            except FileNotFoundError:
                return False

    def _is_file_of_a_server(self, system):
        """Whether a web server has it as a file: it redirects folders to a name with a slash."""
        try:
            about = system.info(self.plain)
        except FileNotFoundError:
            return False
        return bool(self._inside) and not about.get("url", self.plain).partition("?")[0].endswith("/")

    def exists(self):
        """Whether it is a file or a folder."""
        return self.is_file() or self.is_dir()

    def iterdir(self):
        """What the folder holds, as RemotePath."""
        for name in self.names() or ():
            yield self / name

    # Its content -----------------------------------------------------------------------------------------------

    def read_bytes(self):
        """The content of a file."""
        if self.is_cached:
            return self.local_copy().read_bytes()
        system, path = self._system()
        with named(self):
            return patiently(lambda: system.cat_file(path))

    def open(self):
        """A binary file of the whole content, in a temporary file: it may be large, and can be read anywhere."""
        if self.is_cached:
            return open(self.local_copy(), "rb")
        system, path = self._system()
        with tempfile.TemporaryDirectory(prefix="keras-maskrcnn-") as folder:
            place = os.path.join(folder, "file")
            with named(self):
                patiently(lambda: system.get_file(path, place))
            return io.BytesIO(open(place, "rb").read()) if os.name == "nt" else open(place, "rb")

    def open_head(self):
        """A binary file whose first 64 kB are read at once, and the rest when more is asked for: headers of images."""
        return open(self.local_copy(), "rb") if self.is_cached else io.BufferedReader(HeadFirst(self))

    def part(self, start, end=None):
        """Some bytes of a file, or all if the server cannot give a part: (bytes, whether these are all)."""
        system, path = self._system()
        with named(self):
            data = patiently(lambda: system.cat_file(path, start=start, end=end))
        return data, end is None or len(data) != end - start

    def local_copy(self):
        """The pathlib.Path of a copy in the cache folder, made if it is not there."""
        folder = cache_folder() / "remote"
        digest = hashlib.sha256(self.plain.encode("utf-8", "surrogatepass")).hexdigest()[:40]
        place = folder / f"{digest}{self.suffix[:10]}"
        if not place.exists():
            system, path = self._system()
            with named(self):
                write_atomically(place, lambda new: patiently(lambda: system.get_file(path, str(new))))
        return place

    def write_bytes(self, data):
        """Write a file as a whole: object stores show it when it is complete."""
        system, path = self._system()
        with named(self):
            patiently(lambda: system.pipe_file(path, data))

    def _system(self):
        system = file_system(self.protocol, self)
        return system, system._strip_protocol(self.plain)
