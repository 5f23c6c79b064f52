"""Web servers in threads of a test: a folder by HTTP, or any handler."""

import contextlib
import functools
import http.server
import threading


@contextlib.contextmanager
def answering(handler):
    """Serve with a class of handlers. Gives the server's address."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


@contextlib.contextmanager
def served(folder, lists_folders=True, cut="", asked=None):
    """Serve a folder as `python -m http.server` does. Gives its address.

    Args:
        folder: path. lists_folders: whether the address of a folder gives its list.
        cut: end of the paths whose answers stop 100 bytes early; "": none.
        asked: None, or a list that each path is appended to.
    """
    asked = [] if asked is None else asked
    with answering(functools.partial(_Files, asked, lists_folders, cut, directory=str(folder))) as address:
        yield address


class Quiet:
    """Keeps a handler from printing every request."""

    def log_message(self, *_):
        pass


class _Files(Quiet, http.server.SimpleHTTPRequestHandler):
    def __init__(self, asked, lists_folders, cut, *arguments, **options):
        self.asked, self.lists_folders, self.cut = asked, lists_folders, cut
        super().__init__(*arguments, **options)  # handles the request

    def send_head(self):
        self.asked.append(self.path)
        return super().send_head()

    def send_header(self, name, value):
        stops = name == "Content-Length" and self.cut and self.path.endswith(self.cut)
        super().send_header(name, str(int(value) + 100) if stops else value)

    def list_directory(self, path):
        if self.lists_folders:
            return super().list_directory(path)
        self.send_error(403, "no listing")
        return None
