"""Batches for `model.fit` on any backend, prepared by worker threads.

Comes in: a Dataset and the model's config. Goes out: dicts as `batch.py` describes them. Threads,
not processes: Pillow and most of numpy release the interpreter lock; processes copy every batch.
"""

import dataclasses
import threading
import time
import warnings

import keras
import numpy as np

from keras_maskrcnn.batch import empty_batch, fill_row
from keras_maskrcnn.data.images.reading import RGB, ImageError, is_mapped
from keras_maskrcnn.data.loading.epoch_order import EpochOrder
from keras_maskrcnn.data.records import Fault
from keras_maskrcnn.data.samples.sample import Sample
from keras_maskrcnn.data.transforms.moves import bound_after
from keras_maskrcnn.data.transforms.presets import preset, resize_as
from keras_maskrcnn.geometry.resizing import canvas_size


class DataLoader(keras.utils.PyDataset):
    """Reads, transforms and pads images with their objects; the same seed gives the same batches.

    What an image becomes depends on (seed, epoch, position of the image, how often it was shown before
    in the epoch) alone, whatever the number of workers. Every batch has the same canvas, so that
    compiled steps are compiled once. Objects of which less than a pixel is left are dropped; objects
    beyond `max_instances` are dropped at random with a warning. `fit` shuffles the order of batches
    once more by Python's `random`: pass `shuffle=False` to `fit`, and an `EpochSync` callback, where
    runs must be repeatable to the bit or resumed.

    Args:
        dataset: a Dataset (CocoDataset, DsbDataset, ArrayDataset).
        config: MaskRCNNConfig, for classes, image size, channels, max_instances and gt_mask_size.
        batch_size: images a batch.
        transforms: list of `(sample, rng) -> sample`, in order; None resizes as the config says.
        augmentation: what happens after `transforms`: "light" or "strong" (`data.augmentation.preset`),
            or a list of transforms; None is nothing.
        shuffle: new random order each epoch.
        seed: int, of order and transforms.
        workers: threads.
        canvas: (H, W) network pixels, multiples of 32; None is the smallest that fits every image.
        max_instances: rows of ground truth an image; None takes the config's.
        drop_last: leave out a last batch that is not full. None does so when shuffling, where every
            image still comes up in other epochs.
        cache_bytes: decoded images and masks kept in memory up to this many bytes, so that small
            datasets are decoded once; 0 keeps none.
        repeat_threshold: classes in a smaller share of the images are shown more often (LVIS' repeat
            factors, `epoch_order.repeat_factors`); None shows each image once an epoch.
        negatives: share of images without objects in an epoch, 0 to below 1; None keeps them as they are.

    Attributes:
        ready_at: dict, when the batch at an index was last finished (`time.monotonic`).

    Raises:
        ValueError: classes of dataset and config disagree; the canvas is no multiple of 32; not one
            batch; a share of negatives that the dataset cannot give.
    """

    def __init__(
        self,
        dataset,
        config,
        batch_size,
        transforms=None,
        shuffle=False,
        seed=0,
        workers=2,
        canvas=None,
        max_instances=None,
        drop_last=None,
        cache_bytes=512 * 2**20,
        augmentation=None,
        repeat_threshold=None,
        negatives=None,
    ):
        super().__init__(workers=workers, use_multiprocessing=False, max_queue_size=8)
        _check_classes(dataset, config)
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1. Received {batch_size}.")
        self.dataset = dataset
        self.batch_size = batch_size
        self.transforms = [resize_as(config)] if transforms is None else list(transforms)
        self.transforms += preset(augmentation, config) if isinstance(augmentation, str) else augmentation or []
        self.seed = seed
        self.drop_last = shuffle if drop_last is None else drop_last
        self.max_instances = max_instances or config.max_instances
        self.gt_mask_size = config.gt_mask_size
        self.canvas = _checked_canvas(canvas) if canvas else self._smallest_canvas()
        self.epoch = 0
        self.order = EpochOrder(dataset, shuffle, seed, repeat_threshold, negatives)
        self.ready_at = {}
        self._images = (None, None)
        self.cache = SampleCache(dataset, cache_bytes, config)
        self._warned_of_cut = False
        if len(self) == 0:
            raise ValueError(
                f"A loader needs at least one batch. Received {len(self.order)} images for batch_size="
                f"{batch_size}, drop_last={self.drop_last}. Lower batch_size or set drop_last."
            )

    def __len__(self):
        """Batches an epoch."""
        count = len(self.order)
        return count // self.batch_size if self.drop_last else -(-count // self.batch_size)

    def __getitem__(self, index):
        """The batch at a position of the current epoch: a dict of numpy arrays (see batch.py)."""
        if not 0 <= index < len(self):
            raise IndexError(f"Batches are numbered 0..{len(self) - 1}. Received {index}.")
        epoch = self.epoch
        images = self._epoch_images(epoch)
        chosen = images[index * self.batch_size : (index + 1) * self.batch_size]
        batch = empty_batch(len(chosen), self.canvas, self.max_instances, self.gt_mask_size, *self.cache.pixels)
        for row, (position, repeat) in enumerate(chosen.tolist()):
            self._fill(batch, row, position, np.random.default_rng([self.seed, epoch, position, 1 + repeat]))
        self.ready_at[index] = time.monotonic()
        return batch

    def set_epoch(self, epoch):
        """Choose the epoch that the next batches belong to, as when a run is resumed."""
        self.epoch = int(epoch)

    def on_epoch_end(self):
        """Go on to the next epoch's order and transforms. Called by Keras."""
        self.epoch += 1

    def _fill(self, batch, row, position, rng):
        sample = dataclasses.replace(self._read(position), draw=self._draw)
        for transform in self.transforms:
            sample = transform(sample, rng)
        found = sample.network_instances(self.max_instances, self.gt_mask_size, rng)
        if found.num_cut and not self._warned_of_cut:
            self._warned_of_cut = True
            warnings.warn(
                f"{found.num_cut} of {found.num_cut + len(found.boxes)} objects of image "
                f"{self.dataset[position].image_id} were left out, and so may be others': there "
                f"are {self.max_instances} rows of ground truth. Raise max_instances: "
                f"the fullest image of this dataset has {self.dataset.max_instances} objects."
            )
        image = sample.network_image()
        fill_row(batch, row, image, found.boxes, found.labels, found.masks, found.crowd)

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


class SampleCache:
    """Samples in image pixels, decoded; the first that fit into a number of bytes are kept.

    Nothing is thrown out again: in a shuffled epoch every image is needed once, so that replacing
    some by others would gain nothing.

    Args:
        dataset: a Dataset.
        max_bytes: int.
        config: MaskRCNNConfig, for channels and dtype of the images.
    """

    def __init__(self, dataset, max_bytes, config):
        self.dataset = dataset
        self.max_bytes = max_bytes
        self.pixels = (config.num_channels, config.image_dtype)
        self._sample = {} if self.pixels == RGB else {"fill": config.pixel_mean, "std": config.pixel_std}
        self.num_bytes = 0
        self._samples = {}
        self._lock = threading.Lock()

    def read(self, index):
        """The Sample at a position of the dataset. ImageError if it cannot be read."""
        sample = self._samples.get(index)
        if sample is not None:
            return sample
        image = self.dataset.load_image(index, *self.pixels)
        sample = Sample.whole(image, self.dataset[index].instances, **self._sample)
        if self.num_bytes >= self.max_bytes or is_mapped(image):
            return sample
        sample, size = sample.decoded()
        with self._lock:
            if index not in self._samples and self.num_bytes + size <= self.max_bytes:
                self._samples[index] = sample
                self.num_bytes += size
        return sample


class EpochSync(keras.callbacks.Callback):
    """Tells a DataLoader the epoch `fit` is in, so that a resumed run goes on with the same data.

    Args:
        loader: DataLoader given to `fit`.
    """

    def __init__(self, loader):
        super().__init__()
        self.loader = loader

    def on_epoch_begin(self, epoch, logs=None):
        """Keras calls this before it asks for the first batch of an epoch."""
        self.loader.set_epoch(epoch)


def _check_classes(dataset, config):
    count = len(dataset.class_names)
    if config.num_classes != count:
        raise ValueError(
            f"num_classes must be the dataset's number of classes without background: {count}. "
            f"Received num_classes={config.num_classes} for {dataset.name} with "
            f"{_short(dataset.class_names)}. Set num_classes={count} in the config, or read the "
            "data with the category_ids of the training set."
        )
    default = tuple(f"class {k}" for k in range(count))
    if config.class_names != default and tuple(config.class_names) != dataset.class_names:
        raise ValueError(
            "class_names of config and dataset must agree in order. "
            f"Received {_short(config.class_names)} and {_short(dataset.class_names)} "
            f"of {dataset.name}. "
            "Take the config's from the dataset: class_names=dataset.class_names."
        )
    if tuple(config.category_ids) not in (tuple(range(1, count + 1)), dataset.category_ids):
        raise ValueError(
            "category_ids of config and dataset must agree in order. "
            f"Received {_short(config.category_ids)} and {_short(dataset.category_ids)} "
            f"of {dataset.name}. Read the data with category_ids=config.category_ids."
        )


def _short(names):
    return f"{tuple(names[:5])}{'...' if len(names) > 5 else ''}"


def _checked_canvas(canvas):
    if canvas_size(*canvas) != tuple(canvas):
        raise ValueError(
            f"canvas must be (height, width) in multiples of 32. Received {canvas}. "
            f"The next larger one is {canvas_size(*canvas)}."
        )
    return tuple(canvas)
