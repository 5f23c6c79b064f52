"""The samples as modules, an export of a small model, and a loopback server in a process of its own."""

import json
import pathlib
import subprocess
import sys

import pytest
from tiny import scatter_weights, tiny_config

HERE = pathlib.Path(__file__).parent
SAMPLE = HERE.parents[1] / "samples" / "serving"
CLASS_NAMES = ("cat", "dog", "bird")


@pytest.fixture(scope="session")
def samples():
    """The samples' folder, importable, as it is for a script that is started from it."""
    sys.path.insert(0, str(SAMPLE))
    yield SAMPLE
    sys.path.remove(str(SAMPLE))


@pytest.fixture(scope="session")
def export(tmp_path_factory):
    """A folder with versions 1 and 2; weights are scattered, so that there are detections everywhere."""
    import keras_maskrcnn as km

    folder = tmp_path_factory.mktemp("export")
    config = tiny_config(image_scale=None, min_size=64, max_size=110, class_names=CLASS_NAMES, max_detections=6)
    first = km.export_saved_model(scatter_weights(km.MaskRCNN(config)), folder)
    (folder / "2").symlink_to(first)
    return folder


class Server:
    """A loopback server's process and addresses; `calls` after `stop`: (requests, rows) of every call it made."""

    def __init__(self, *arguments):
        command = [sys.executable, str(HERE / "loopback.py"), *map(str, arguments)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        addresses = json.loads(self.process.stdout.readline())
        self.grpc, self.rest = addresses["grpc"], addresses["rest"]
        self.calls = None

    def memory(self):
        """Resident set, bytes."""
        fields = pathlib.Path(f"/proc/{self.process.pid}/statm").read_text().split()
        return int(fields[1]) * 4096

    def stop(self):
        if self.calls is None:
            answer, _ = self.process.communicate(timeout=60)
            self.calls = json.loads(answer.strip().splitlines()[-1])["calls"]
        return self.calls


@pytest.fixture(scope="session")
def server(export):
    """Batching as in the sample's batching_parameters.txt."""
    running = Server(export, "--max-batch-size", 4, "--batch-timeout-micros", 5000, "--label", "stable=1")
    yield running
    running.stop()
