"""A folder in other places: in fsspec's memory, and behind a web server in a thread."""

import contextlib
import functools
import http.server
import itertools
import pathlib
import threading

_NUMBERS = itertools.count()


def in_memory(folder):
    """Copy a folder into fsspec's memory. Returns its address."""
    import fsspec

    root = f"/copy{next(_NUMBERS)}"
    memory = fsspec.filesystem("memory")
    for file in pathlib.Path(folder).rglob("*"):
        if file.is_file():
            memory.pipe_file(f"{root}/{file.relative_to(folder).as_posix()}", file.read_bytes())
    return f"memory:/{root}"


class _Quiet(http.server.SimpleHTTPRequestHandler):
    lists_folders = True

    def log_message(self, *_):
        pass

    def list_directory(self, path):
        if self.lists_folders:
            return super().list_directory(path)
        self.send_error(403, "no listing")
        return None


class _Unlisting(_Quiet):
    lists_folders = False


@contextlib.contextmanager
def served(folder, lists_folders=True):
    """Serve a folder by HTTP. Yields its address."""
    handler = functools.partial(_Quiet if lists_folders else _Unlisting, directory=str(folder))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


@contextlib.contextmanager
def elsewhere(kind, folder):
    """A folder in another place, "memory" or "http". Yields its address."""
    with served(folder) if kind == "http" else contextlib.nullcontext(in_memory(folder)) as address:
        yield address
