"""Requests that try to mix images up: sizes, formats and damaged files at random, from several clients at once."""

import io
import threading

import numpy as np
from PIL import Image

SIZES = ((40, 60), (96, 128), (150, 70), (64, 64), (33, 190), (120, 121))  # (height, width)
FORMATS = ("JPEG", "PNG", "BMP", "GIF")
DAMAGED_SHARE = 0.05
MOST_FILES = 3  # in one request


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


def requests(seed, count, good, damaged):
    """`count` requests of a client: each a list of 1 to MOST_FILES names."""
    rng = np.random.default_rng(seed)

    def name():
        names = sorted(damaged if rng.random() < DAMAGED_SHARE else good)
        return names[rng.integers(len(names))]

    return [[name() for _ in range(rng.integers(1, MOST_FILES + 1))] for _ in range(count)]


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
