"""On JAX a process keeps what it compiles for the next one, and lets the user decide otherwise."""

import os
import platform
import subprocess
import sys

import keras
import pytest

pytestmark = pytest.mark.skipif(keras.backend.backend() != "jax", reason="JAX alone keeps compiled programs")

PROGRAM = """
import sys
sys.path.insert(0, sys.argv[1])
import jax
import keras_maskrcnn as km
from known_answers import KnownModel, small_config
jax.jit(lambda x: x + 1)(1)  # something was compiled before
km.Predictor(KnownModel(small_config(), []))
jax.jit(lambda x: x * 2)(1)
print(jax.config.jax_compilation_cache_dir)
"""


def run(home, **environment):
    environment = {"KERAS_HOME": str(home), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0", **environment}
    inherited = {name: value for name, value in os.environ.items() if name != "JAX_COMPILATION_CACHE_DIR"}
    command = [sys.executable, "-c", PROGRAM, os.path.dirname(__file__)]
    return subprocess.run(
        command, env=inherited | environment, check=True, capture_output=True, text=True
    ).stdout.strip()


def test_the_next_process_finds_what_this_one_compiled(tmp_path):
    folder = tmp_path / "keras_maskrcnn" / "compiled" / platform.node()
    assert run(tmp_path) == str(folder)
    assert any(file.name.startswith("jit__lambda") for file in folder.iterdir())


def test_the_user_decides(tmp_path, monkeypatch):
    import jax

    from keras_maskrcnn import backend
    from keras_maskrcnn.host.caches import compiled_folder

    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    monkeypatch.setenv("KERAS_MASKRCNN_KEEP_COMPILED", "0")
    assert compiled_folder() is None and not list(tmp_path.iterdir())
    before = jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", str(tmp_path / "mine"))  # as JAX_COMPILATION_CACHE_DIR does
    try:
        backend.keep_compiled(tmp_path / "ours")
        assert jax.config.jax_compilation_cache_dir == str(tmp_path / "mine")
    finally:
        jax.config.update("jax_compilation_cache_dir", before)
