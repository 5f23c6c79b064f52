"""Operators refuse what they cannot compute, on every path and never by a signal. The cases are in native_faults.py."""

import functools
import json
import os
import pathlib
import subprocess
import sys

import keras
import pytest
from child_processes import python_path

TESTS = pathlib.Path(__file__).parent
TENSORFLOW = keras.backend.backend() == "tensorflow"
PATHS = ["native", "stock"] if TENSORFLOW else ["jax"]


@functools.cache
def run_cases(*paths):
    """Of a child process that runs all cases on these paths of one backend: dict of a path to its lines."""
    environment = {**os.environ, "PYTHONPATH": python_path(TESTS.parent, TESTS)}
    environment |= {"KERAS_BACKEND": "jax" if "jax" in paths else "tensorflow", "TF_CPP_MIN_LOG_LEVEL": "3"}
    command = [sys.executable, str(TESTS / "native_faults.py"), *paths]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert done.returncode == 0, f"{paths} ended with {done.returncode} in {lines[-1:]}: {done.stderr[-2000:]}"
    starts = [number for number, line in enumerate(lines) if "path" in line]
    assert [lines[start]["path"] for start in starts] == list(paths)
    return {path: lines[a:b] for path, a, b in zip(paths, starts, [*starts[1:], len(lines)], strict=True)}


@pytest.mark.parametrize("path", PATHS)
def test_every_fault_is_an_error_with_what_was_received(path):
    from native_faults import DOORS, native_cases

    lines = run_cases("jax")[path] if path == "jax" else run_cases("native", "stock")[path]
    expected = DOORS | (native_cases() if path == "native" else {})
    found = {line["case"]: line for line in lines if "case" in line}
    assert set(found) == set(expected)
    for name, (_, part) in expected.items():
        kinds = {"ValueError"} if name in DOORS else {"ValueError", "InvalidArgumentError"}
        assert kinds & set(found[name]["error"] or []), (name, found[name])
        assert part in found[name]["message"], (name, found[name])
    valid = lines[-1]["valid"]
    assert valid["wild"] and valid["empty"] == [0, 2, 2, 16] and valid["no images"] == [0, 8, 8, 16]
    assert 0 < valid["far"] < 1e-14  # of 2e9 points a side about ten lie in the map
