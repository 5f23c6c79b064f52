"""A folder in other places: in fsspec's memory, behind a web server in a thread, and in object stores.

The object stores are emulators in threads of this process, where their packages are installed:

    s3://   pip install s3fs "moto[server]"
    gs://   pip install gcsfs gcp-storage-emulator
"""

import contextlib
import functools
import importlib.util
import itertools
import os
import pathlib
import socket

from web_servers import served

_NUMBERS = itertools.count()
PACKAGES = {"s3": ("s3fs", "moto", "flask"), "gs": ("gcsfs", "gcp_storage_emulator")}
STORES = tuple(kind for kind, names in PACKAGES.items() if all(map(importlib.util.find_spec, names)))


def in_memory(folder):
    """Copy a folder into fsspec's memory. Returns its address."""
    import fsspec

    root = f"/copy{next(_NUMBERS)}"
    memory = fsspec.filesystem("memory")
    for file in pathlib.Path(folder).rglob("*"):
        if file.is_file():
            memory.pipe_file(f"{root}/{file.relative_to(folder).as_posix()}", file.read_bytes())
    return f"memory:/{root}"


@functools.cache
def _start_store(kind):
    """Start the emulator of an object store. fsspec, here and in processes that this one starts, finds it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    if kind == "s3":
        from moto.server import ThreadedMotoServer

        ThreadedMotoServer("127.0.0.1", port, verbose=False).start()
        keys = {"AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing", "AWS_DEFAULT_REGION": "us-east-1"}
        os.environ.update(keys, AWS_ENDPOINT_URL=address)
    else:
        from gcp_storage_emulator.server import create_server

        server = create_server("127.0.0.1", port, in_memory=True)
        server._api.daemon = True  # it ends with this process
        server.start()
        os.environ["STORAGE_EMULATOR_HOST"] = address


def in_store(kind, folder):
    """Copy a folder into a new bucket of an object store, "s3" or "gs". Returns its address."""
    import fsspec

    _start_store(kind)
    bucket, system = f"bucket-{next(_NUMBERS)}", fsspec.filesystem(kind)
    system.mkdir(bucket)
    for file in pathlib.Path(folder).rglob("*"):
        if file.is_file():
            system.pipe_file(f"{bucket}/{file.relative_to(folder).as_posix()}", file.read_bytes())
    return f"{kind}://{bucket}"


@contextlib.contextmanager
def elsewhere(kind, folder):
    """A folder in another place: "memory", "http" or one of STORES. Yields its address."""
    if kind == "http":
        with served(folder) as address:
            yield address
    else:
        yield in_memory(folder) if kind == "memory" else in_store(kind, folder)
