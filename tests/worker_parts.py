"""Transforms and datasets that worker processes import, and scenes that run as a process of their own.

    python tests/worker_parts.py SCENE FOLDER

starts two workers on the shapes in FOLDER, prints their process ids, and then does what the scene says. No framework.
"""

import dataclasses
import os
import signal
import sys
import time
import warnings

import numpy as np

FRAMEWORKS = {"keras", "tensorflow", "jax", "torch"}


class Strange(Exception):
    """An exception whose constructor takes other arguments than its message."""

    def __init__(self, number, image):
        super().__init__(f"number {number} of {image}")


@dataclasses.dataclass(frozen=True)
class Trouble:
    """A transform that makes trouble on images whose first pixel has a red value of `red`; None: on each."""

    kind: str
    red: int | None = None

    def __call__(self, sample, rng):
        """Returns the sample, or not."""
        if self.red is None or int(sample.image[0, 0, 0]) == self.red:
            getattr(self, f"_{self.kind}")()
        return sample

    def _exit(self):
        os._exit(3)

    def _kill(self):
        os.kill(os.getpid(), signal.SIGKILL)

    def _hang(self):
        time.sleep(1000)

    def _quit(self):
        sys.exit("enough")

    def _wrong(self):
        raise KeyError("no such colour")

    def _strange(self):
        raise Strange(7, "a picture")

    def _warn(self):
        warnings.warn("a dark picture", RuntimeWarning)

    def _modules(self):
        raise ValueError(f"modules: {sorted(name for name in sys.modules if '.' not in name)}")


class Unmounted:
    """A transform that another process cannot unpickle."""

    def __init__(self):
        self.process = os.getpid()

    def __setstate__(self, state):
        if os.getpid() != state["process"]:
            raise OSError("the disk is not mounted")
        self.__dict__.update(state)

    def __call__(self, sample, rng):
        """Returns the sample."""
        return sample


class Sums:
    """Fails unless the worker's dataset holds the arrays of test_workers."""

    def __call__(self, sample, rng):
        """Returns the sample."""
        first, second, third, numbers = sample.draw.__self__.dataset.tables
        assert first[-1] == 2**24 - 1 and second.shape == third.shape == (2**20, 10)
        assert second[::4096, 3].sum() == third[::4096, 3].sum() == 3 * 256 and len(numbers) == 100
        return sample


def pictures(count, size=32):
    """(images, masks) of an ArrayDataset: picture k is of the colour k, with one object."""
    mask = np.zeros((1, size, size), np.uint8)
    mask[0, 4:20, 6:30] = 1
    return [np.full((size, size, 3), k, np.uint8) for k in range(count)], [mask] * count


def is_running(process_id):
    """Whether a process exists and is no zombie."""
    try:
        with open(f"/proc/{process_id}/stat") as file:
            return file.read().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def wait_until_gone(process_ids, seconds=5.0):
    """Those of the processes that still run after some seconds."""
    deadline = time.monotonic() + seconds
    while (left := [one for one in process_ids if is_running(one)]) and time.monotonic() < deadline:
        time.sleep(0.02)
    return left


def main(scene):
    """Run a scene; "wait" waits for a signal, "busy" too while its workers hang, "end" ends, "error" raises."""
    import keras_maskrcnn_launcher

    signal.signal(signal.SIGINT, signal.default_int_handler)  # processes in the background start without it
    keras_maskrcnn_launcher.register_package()
    from concurrent.futures import ThreadPoolExecutor

    from keras_maskrcnn.config import MaskRCNNConfig
    from keras_maskrcnn.data import ArrayDataset
    from keras_maskrcnn.data.loading.batches import BatchMaker

    transforms = None
    if scene == "busy":
        from worker_parts import Trouble as Importable

        transforms = [Importable("hang", 3)]
    if scene == "main":
        transforms = [Trouble("hang", 3)]
    config = MaskRCNNConfig(num_classes=1, image_scale=1.0, max_instances=2, gt_mask_size=14)
    maker = BatchMaker(ArrayDataset(*pictures(4)), config, 1, transforms, workers=2, worker_type="process")
    maker[0]
    assert not FRAMEWORKS & set(sys.modules)
    print(*maker._pool.process_ids, flush=True)
    if scene == "error":
        raise RuntimeError("an error of the program")
    if scene == "busy":
        with ThreadPoolExecutor(2) as threads:
            threads.submit(maker.__getitem__, 3)
            time.sleep(1000)
    if scene == "wait":
        time.sleep(1000)


if __name__ == "__main__":
    main(sys.argv[1])
