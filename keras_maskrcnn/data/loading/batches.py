"""Batches from a dataset, by position. Only numpy; `loader.py` gives them to Keras.

Comes in: a Dataset and the model's config. Goes out: dicts as `batch.py` describes them. The calling thread makes a
batch itself (`rows.py`), or a worker process does (`pool.py`): the bytes are the same.
"""

import os
import threading
import time
import warnings

import numpy as np

from keras_maskrcnn.batch import empty_batch
from keras_maskrcnn.data.classes import for_config
from keras_maskrcnn.data.learnable import nothing_to_learn
from keras_maskrcnn.data.loading.choosing import PROCESS, THREAD, Workers, choose_workers
from keras_maskrcnn.data.loading.epoch_order import EpochOrder
from keras_maskrcnn.data.loading.options import LoaderOptions
from keras_maskrcnn.data.loading.packing import NotSendable
from keras_maskrcnn.data.loading.pool import WorkerPool
from keras_maskrcnn.data.loading.rows import RowMaker
from keras_maskrcnn.data.transforms.moves import bound_after
from keras_maskrcnn.data.transforms.presets import preset, resize_as
from keras_maskrcnn.geometry.resizing import canvas_size
from keras_maskrcnn.host.messages import argument


class BatchMaker(RowMaker):
    """Reads, transforms and pads images with their objects; the same seed gives the same batches.

    The result for an image depends only on (seed, epoch, position of the image, how often it was shown before in
    the epoch), not on the order in which batches are made, nor on who makes them. Every batch has the same canvas, so
    that compiled steps are compiled once. Objects with less than a visible pixel are dropped; objects
    beyond `max_instances` are dropped at random with a warning.

    Worker processes start with the first batch. They end with `close`, with the object, and with this process, however
    it ends.

    Args:
        dataset: a Dataset (CocoDataset, DsbDataset, ArrayDataset). Its classes are joined with the config's by name
            (`classes.for_config`).
        config: MaskRCNNConfig, for classes, image size, channels, max_instances and the branches' arrays.
        batch_size: images per batch, over all hosts.
        transforms: list of `(sample, rng) -> sample`, in order; None resizes as the config says.
        options: LoaderOptions, or None.
        **fields: fields of LoaderOptions by name, which override `options`.

    Attributes:
        ready_at: dict, when the batch at an index was last finished (`time.monotonic`).
        workers_chosen: choosing.Workers: what makes the batches, and why.

    Raises:
        ClassesDiffer: a ValueError: objects have classes that the config does not name.
        ValueError: without names, classes of dataset and config disagree; the canvas is no multiple of 32; not one
            batch; a share of negatives that the dataset cannot give; options that contradict each other.
    """

    def __init__(self, dataset, config, batch_size, transforms=None, options=None, **fields):
        options = LoaderOptions.of(options, **fields)
        dataset = for_config(dataset, config)
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1. Received {batch_size}.")
        problem = nothing_to_learn(dataset)
        if problem:
            warnings.warn(problem, stacklevel=2)
        augmentation = options.augmentation
        transforms = [resize_as(config)] if transforms is None else list(transforms)
        transforms += preset(augmentation, config) if isinstance(augmentation, str) else augmentation or []
        max_instances = options.max_instances or config.max_instances
        super().__init__(dataset, config, transforms, max_instances, options.seed, options.cache_bytes)
        self.batch_size = batch_size
        self.options = options
        self.shard = _checked_shard(options.shard, batch_size)
        self.drop_last = options.shuffle if options.drop_last is None else options.drop_last
        self.canvas = _checked_canvas(options.canvas) if options.canvas else self._smallest_canvas()
        self.epoch = 0
        self.order = EpochOrder(dataset, options.shuffle, options.seed, options.repeat_threshold, options.negatives)
        self.ready_at = {}
        self._images = (None, None)
        self.workers_chosen = choose_workers(options, dataset.image_sizes, config, files=dataset.records.files())
        self._pool = None
        self._pool_lock = threading.Lock()
        if len(self) == 0:
            raise ValueError(
                f"A loader needs at least one full batch. Received {len(self.order)} images for "
                f"{argument('batch_size', batch_size)}. Set {argument('batch_size', len(self.order))}."
            )
        self._check_last_shard()

    def __len__(self):
        """Batches per epoch."""
        count = len(self.order)
        return count // self.batch_size if self.drop_last else -(-count // self.batch_size)

    def __getitem__(self, index):
        """The batch at a position of the current epoch: a dict of numpy arrays (see batch.py).

        Raises:
            WorkerLost: an OSError: a worker process crashed or hung; it names the images of its batch.
            NotSendable: a ValueError: data or transforms cannot be sent to worker processes.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"Batches are numbered 0..{len(self) - 1}. Received {index}.")
        epoch = self.epoch
        chosen = self.images_of(epoch, index)
        pool = self._running_pool()
        here = pool is None or not len(chosen)
        batch = self._made_here(epoch, chosen) if here else pool.batch(epoch, chosen)
        if self.options.fill_last:
            batch = _filled(batch, self.batch_size // self.shard[1])
        self.ready_at[index] = time.monotonic()
        return batch

    def set_epoch(self, epoch):
        """Choose the epoch that the next batches belong to, as when a run is resumed."""
        self.epoch = int(epoch)
        if self._pool is not None and self._pool.failed:
            self.close()  # new workers take the place of those that were lost

    def images_of(self, epoch, index):
        """This host's images of a batch: int (n, [position in the dataset, how often it was shown before])."""
        known, images = self._images
        if known != epoch:
            images = self.order.images(epoch)
            self._images = (epoch, images)
        chosen = images[index * self.batch_size : (index + 1) * self.batch_size]
        return np.array_split(chosen, self.shard[1])[self.shard[0]]

    def close(self):
        """End the worker processes, if there are any. The next batch starts new ones."""
        with self._pool_lock:
            pool, self._pool = self._pool, None
        if pool is not None:
            pool.close()

    def _made_here(self, epoch, chosen):
        batch = empty_batch(len(chosen), self.canvas, self.max_instances, self.config)
        self.fill(batch, epoch, chosen)
        return batch

    def _running_pool(self):
        """The pool of worker processes, started if it must be; None where threads make the batches."""
        if self.workers_chosen.kind == THREAD:
            return None
        with self._pool_lock:
            if self._pool is not None and (self._pool.interrupted or self._pool.owner != os.getpid()):
                self._pool = None  # after Ctrl-C, or in a fork of the process that the workers belong to
            if self._pool is None and self.workers_chosen.kind == PROCESS:
                self._start_pool()
            return self._pool

    def _start_pool(self):
        rows = -(-self.batch_size // self.shard[1])
        template = empty_batch(rows, self.canvas, self.max_instances, self.config)
        chosen = self.workers_chosen
        try:
            self._pool = WorkerPool(self, template, chosen.count, chosen.cache_bytes, self.options.worker_timeout)
        except NotSendable as error:
            if chosen.asked_for:
                raise
            self.workers_chosen = Workers(THREAD, chosen.count, "worker processes cannot take over these data")
            warnings.warn(f"Threads make the batches. {error}", stacklevel=5)

    def _check_last_shard(self):
        rest = 0 if self.drop_last else len(self.order) % self.batch_size
        if 0 < rest < self.shard[1] and not self.options.fill_last:
            raise ValueError(
                f"Each of the {self.shard[1]} hosts of shard={self.shard} needs an image of every batch. Received a "
                f"last batch of {rest} images. Pass drop_last=True or fill_last=True, or another batch_size."
            )

    def _smallest_canvas(self):
        sizes = np.array([bound_after(self.transforms, *size) for size in set(self.dataset.image_sizes)])
        return canvas_size(*(int(side) for side in sizes.max(0)))


def _filled(batch, rows):
    """The batch with rows of zeros added: no image, no object."""
    missing = rows - len(batch["images"])
    if not missing:
        return batch
    return {key: np.pad(array, [(0, missing)] + [(0, 0)] * (array.ndim - 1)) for key, array in batch.items()}


def _checked_canvas(canvas):
    if canvas_size(*canvas) != tuple(canvas):
        raise ValueError(
            f"canvas must be (height, width) in multiples of 32. Received {canvas}. "
            f"The next larger one is {canvas_size(*canvas)}."
        )
    return tuple(canvas)


def _checked_shard(shard, batch_size):
    """(index, count) of this host; (0, 1) for a single one."""
    index, count = (0, 1) if shard is None else shard
    if not 0 <= index < count:
        raise ValueError(
            f"shard is (index, count), this host among all, with 0 <= index < count. Received {shard}. "
            "On JAX it is (jax.process_index(), jax.process_count())."
        )
    if batch_size % count:
        raise ValueError(
            "A batch holds the images of all hosts, and each takes the same number. Received "
            f"{argument('batch_size', batch_size)} for {count} hosts. Make it a multiple of {count}."
        )
    return index, count
