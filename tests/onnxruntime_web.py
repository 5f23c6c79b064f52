"""The npm package onnxruntime-web for tests: from the user's cache, where the export also looks for it."""

import shutil
import subprocess

import pytest

from keras_maskrcnn.host.caches import cache_folder
from keras_maskrcnn.serving.web import RUNTIME_VERSION


def runtime_package():
    """Path of the package's archive. npm fetches it the first time; skips where it cannot."""
    path = cache_folder() / f"onnxruntime-web-{RUNTIME_VERSION}.tgz"
    if path.is_file():
        return path
    pack = f"npm pack onnxruntime-web@{RUNTIME_VERSION}"
    if shutil.which("npm") is None:
        pytest.skip(f"{path} is missing, and npm is not installed: {pack}")
    done = subprocess.run([*pack.split(), "--silent"], cwd=path.parent, capture_output=True, text=True, timeout=120)
    if not path.is_file():
        pytest.skip(f"{path} is missing, and could not be fetched: {pack}: {done.stderr[-200:]}")
    return path
