"""Requests that try to mix images up: sizes, formats and damaged files at random, from several clients at once."""

import io
import json
import os
import pathlib
import subprocess
import sys
import threading

import numpy as np
from PIL import Image

SIZES = ((40, 60), (96, 128), (150, 70), (64, 64), (33, 190), (120, 121))  # (height, width)
FORMATS = ("JPEG", "PNG", "BMP", "GIF")
DAMAGED_SHARE = 0.05
PER_IMAGE = ("num_detections", "image_sizes", "problems")  # outputs without an axis of detections
TOLERANCES = {"boxes": 1e-3, "scores": 1e-5, "masks": 1e-4}


def encode(pixels, file_format):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, file_format)
    return buffer.getvalue()


def noise(seed, size):
    """Blocks of random colours: every image is its own, and no format smooths it away."""
    rng = np.random.default_rng(seed)
    blocks = rng.integers(0, 256, (-(-size[0] // 8), -(-size[1] // 8), 3), np.uint8)
    return np.repeat(np.repeat(blocks, 8, axis=0), 8, axis=1)[: size[0], : size[1]]


def good_files():
    """Every size in every format, as {name: bytes}."""
    return {
        f"{file_format} {height}x{width}": encode(noise([i, j], (height, width)), file_format)
        for i, (height, width) in enumerate(SIZES)
        for j, file_format in enumerate(FORMATS)
    }


def damaged_files():
    """Files that no decoder may read, as {name: bytes}."""
    files = good_files()
    halves = {f"half of {name}": data[: len(data) // 2] for name, data in files.items() if "96x128" in name}
    del halves["half of BMP 96x128"], halves["half of GIF 96x128"]  # some decoders show the half that is there
    return halves | {
        "nothing": b"",
        "text": b"this is no image",
        "a BMP's header alone": files["BMP 64x64"][:40],
        "a JPEG's start and noise": b"\xff\xd8\xff\xe0" + np.random.default_rng(0).bytes(500),
    }


def requests(seed, count, most_files, good, damaged):
    """`count` requests of a client: each a list of 1 to `most_files` names, DAMAGED_SHARE of them damaged."""
    rng = np.random.default_rng(seed)

    def name():
        names = sorted(damaged if rng.random() < DAMAGED_SHARE else good)
        return names[rng.integers(len(names))]

    return [[name() for _ in range(rng.integers(1, most_files + 1))] for _ in range(count)]


def run_clients(models, lists, files, signature, after_request):
    """Each client sends its list in a thread of its own, one request after the other.

    Args:
        models: list of clients with `predict(signature, inputs)`.
        lists: for each client, its requests as lists of names.
        files: {name: bytes}.
        after_request: function of the number of answers so far, called by one thread at a time.

    Returns:
        For each client, its answers in the order of its requests; an exception where there was one.
    """
    answers = [[] for _ in models]
    lock = threading.Lock()

    def work(model, names_of_requests, received):
        for names in names_of_requests:
            try:
                received.append(model.predict(signature, {"image_bytes": [files[name] for name in names]}))
            except Exception as error:  # kept, so that the test shows it
                received.append(error)
            with lock:
                after_request(sum(map(len, answers)))

    threads = [threading.Thread(target=work, args=triple) for triple in zip(models, lists, answers, strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return answers


def resident(pid):
    """Resident set of a process, bytes (Linux)."""
    fields = pathlib.Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()
    return int(fields[1]) * os.sysconf("SC_PAGE_SIZE")


def check_answers(lists, answers, singly):
    """Every answer against those of its files alone. Returns how many files were compared."""
    compared = 0
    for names_of_requests, received in zip(lists, answers, strict=True):
        for names, answer in zip(names_of_requests, received, strict=True):
            if isinstance(answer, Exception):
                raise answer
            assert len(answer["num_detections"]) == len(names)
            for row, name in enumerate(names):
                compare_row(answer, row, singly[name])
                compared += 1
    return compared


def compare_row(answer, row, expected, expected_row=0):
    """One image of an answer against one of another: all outputs, as far as there are detections.

    Returns:
        How many detections it has.
    """
    count = int(expected["num_detections"][expected_row])
    assert int(answer["num_detections"][row]) == count
    assert set(answer) == set(expected)
    for name in expected:
        got, wanted = np.asarray(answer[name][row]), np.asarray(expected[name][expected_row])
        if name not in PER_IMAGE:
            got, wanted = got[:count], wanted[:count]
        if wanted.dtype.kind in "OSU":
            assert as_text(got) == as_text(wanted), name
        else:
            np.testing.assert_allclose(
                got.astype(np.float64), wanted.astype(np.float64), atol=TOLERANCES.get(name, 0), err_msg=name
            )
    return count


def as_text(values):
    """Strings of any shape as a flat list of str; gRPC and TensorFlow have bytes, JSON str."""
    return [item.decode() if isinstance(item, bytes) else item for item in np.asarray(values).ravel().tolist()]


class ServerProcess:
    """A loopback server in a process of its own; `stop` returns (requests, rows) of every call it made."""

    def __init__(self, *arguments):
        command = [sys.executable, str(pathlib.Path(__file__).with_name("loopback.py")), *map(str, arguments)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        addresses = json.loads(self.process.stdout.readline())
        self.grpc, self.rest = addresses["grpc"], addresses["rest"]

    def stop(self):
        answer, _ = self.process.communicate(timeout=60)
        return json.loads(answer.strip().splitlines()[-1])["calls"]
