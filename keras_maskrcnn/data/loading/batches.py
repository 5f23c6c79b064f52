"""Batches from a dataset, by position: read, transform, pad. Only numpy; `loader.py` gives them to Keras.

Comes in: a Dataset and the model's config. Goes out: dicts as `batch.py` describes them.
"""

import dataclasses
import time
import warnings

import numpy as np

from keras_maskrcnn.batch import empty_batch, fill_row
from keras_maskrcnn.data.classes import for_config
from keras_maskrcnn.data.images.reading import ImageError
from keras_maskrcnn.data.learnable import nothing_to_learn
from keras_maskrcnn.data.loading.cache import SampleCache
from keras_maskrcnn.data.loading.epoch_order import EpochOrder
from keras_maskrcnn.data.loading.options import LoaderOptions
from keras_maskrcnn.data.records import Fault
from keras_maskrcnn.data.transforms.moves import bound_after
from keras_maskrcnn.data.transforms.presets import preset, resize_as
from keras_maskrcnn.geometry.resizing import canvas_size
from keras_maskrcnn.host.messages import argument


class BatchMaker:
    """Reads, transforms and pads images with their objects; the same seed gives the same batches.

    The result for an image depends only on (seed, epoch, position of the image, how often it was shown before in
    the epoch), not on the order in which batches are made. Every batch has the same canvas, so that
    compiled steps are compiled once. Objects with less than a visible pixel are dropped; objects
    beyond `max_instances` are dropped at random with a warning.

    Args:
        dataset: a Dataset (CocoDataset, DsbDataset, ArrayDataset). Its classes are joined with the config's by name
            (`classes.for_config`).
        config: MaskRCNNConfig, for classes, image size, channels, max_instances and the branches' arrays.
        batch_size: images per batch.
        transforms: list of `(sample, rng) -> sample`, in order; None resizes as the config says.
        options: LoaderOptions, or None.
        **fields: fields of LoaderOptions by name, which override `options`.

    Attributes:
        ready_at: dict, when the batch at an index was last finished (`time.monotonic`).

    Raises:
        ClassesDiffer: a ValueError: objects have classes that the config does not name.
        ValueError: without names, classes of dataset and config disagree; the canvas is no multiple of 32; not one
            batch; a share of negatives that the dataset cannot give.
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
        self.dataset = dataset
        self.config = config
        self.batch_size = batch_size
        self.transforms = [resize_as(config)] if transforms is None else list(transforms)
        self.transforms += preset(augmentation, config) if isinstance(augmentation, str) else augmentation or []
        self.seed = options.seed
        self.drop_last = options.shuffle if options.drop_last is None else options.drop_last
        self.max_instances = options.max_instances or config.max_instances
        self.canvas = _checked_canvas(options.canvas) if options.canvas else self._smallest_canvas()
        self.epoch = 0
        self.order = EpochOrder(dataset, options.shuffle, options.seed, options.repeat_threshold, options.negatives)
        self.ready_at = {}
        self._images = (None, None)
        self.cache = SampleCache(dataset, options.cache_bytes, config)
        self._warned_of_cut = False
        if len(self) == 0:
            raise ValueError(
                f"A loader needs at least one full batch. Received {len(self.order)} images for "
                f"{argument('batch_size', batch_size)}. Set {argument('batch_size', len(self.order))}."
            )

    def __len__(self):
        """Batches per epoch."""
        count = len(self.order)
        return count // self.batch_size if self.drop_last else -(-count // self.batch_size)

    def __getitem__(self, index):
        """The batch at a position of the current epoch: a dict of numpy arrays (see batch.py)."""
        if not 0 <= index < len(self):
            raise IndexError(f"Batches are numbered 0..{len(self) - 1}. Received {index}.")
        epoch = self.epoch
        images = self._epoch_images(epoch)
        chosen = images[index * self.batch_size : (index + 1) * self.batch_size]
        batch = empty_batch(len(chosen), self.canvas, self.max_instances, self.config)
        for row, (position, repeat) in enumerate(chosen.tolist()):
            self._fill(batch, row, position, np.random.default_rng([self.seed, epoch, position, 1 + repeat]))
        self.ready_at[index] = time.monotonic()
        return batch

    def set_epoch(self, epoch):
        """Choose the epoch that the next batches belong to, as when a run is resumed."""
        self.epoch = int(epoch)

    def _fill(self, batch, row, position, rng):
        sample = dataclasses.replace(self._read(position), draw=self._draw)
        for transform in self.transforms:
            sample = transform(sample, rng)
        shown, num_cut = sample.network_objects(self.max_instances, rng)
        if num_cut and not self._warned_of_cut:
            self._warned_of_cut = True
            warnings.warn(
                f"{num_cut} of {num_cut + len(shown)} objects of image "
                f"{self.dataset[position].image_id} were left out, and so may be others': there "
                f"are {self.max_instances} rows of ground truth. Raise max_instances: "
                f"the fullest image of this dataset has {self.dataset.max_instances} objects."
            )
        fill_row(batch, row, sample.network_image(), ground_truth(shown, self.config))

    def _draw(self, rng):
        """Any image of the dataset, as the record has it, for transforms that mix two."""
        return self._read(int(rng.integers(len(self.dataset))))

    def _read(self, position):
        """The sample at a position, or the next readable one where faults are to be skipped."""
        for step in range(len(self.dataset)):
            current = (position + step) % len(self.dataset)
            try:
                return self.cache.read(current)
            except ImageError as error:
                if self.dataset.on_error == "raise":
                    raise
                record = self.dataset[current]
                self.dataset.add_fault(Fault(f"image {record.image_id}", str(error), "The next image takes its place."))
        raise ImageError(f"No image of {self.dataset.name} can be read. Check the first one's message.")

    def _epoch_images(self, epoch):
        known, images = self._images
        if known != epoch:
            images = self.order.images(epoch)
            self._images = (epoch, images)
        return images

    def _smallest_canvas(self):
        sizes = np.array([bound_after(self.transforms, *size) for size in set(self.dataset.image_sizes)])
        return canvas_size(*(int(side) for side in sizes.max(0)))


def ground_truth(shown, config):
    """The ground-truth rows of objects: class, box and what each branch adds.

    Args:
        shown: list of n VisibleObject, network pixels. config: MaskRCNNConfig.

    Returns:
        dict of gt_boxes float32 (n, [x1, y1, x2, y2]), gt_labels int32 (n,), gt_crowd bool (n,) and the branches'
        arrays (n, ...).
    """
    rows = {
        "gt_boxes": np.array([one.box for one in shown], np.float32).reshape(-1, 4),
        "gt_labels": np.array([one.instance.label for one in shown], np.int32),
        "gt_crowd": np.array([one.crowd for one in shown], bool),
    }
    for branch in config.branches:
        fields = {name: field for name, field in branch.truth(config).items() if not field.optional}
        made = [branch.make_truth(one, config) for one in shown]
        for name, field in fields.items():
            rows[name] = field.empty(len(shown))
            for row, values in zip(rows[name], made):
                row[...] = values[name]
    return rows


def _checked_canvas(canvas):
    if canvas_size(*canvas) != tuple(canvas):
        raise ValueError(
            f"canvas must be (height, width) in multiples of 32. Received {canvas}. "
            f"The next larger one is {canvas_size(*canvas)}."
        )
    return tuple(canvas)
