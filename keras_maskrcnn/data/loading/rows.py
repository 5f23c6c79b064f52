"""One row of a batch at a time: read an image, transform it, write it with its objects. Only numpy.

Comes in: records of a Dataset and the model's config. Goes out: rows of a batch as `batch.py` describes them. Called by
`batches.py` in the process that trains, and by `worker.py` in worker processes.
"""

import dataclasses
import warnings

import numpy as np

from keras_maskrcnn.batch import fill_row
from keras_maskrcnn.data.images.reading import ImageError
from keras_maskrcnn.data.loading.cache import SampleCache
from keras_maskrcnn.data.records import Fault


class RowMaker:
    """Reads, transforms and pads images with their objects.

    A row depends only on (seed, epoch, position of the image, how often it was shown before in the epoch): not on the
    thread, the process or the order in which rows are made.

    Args:
        dataset: a Dataset with the config's classes.
        config: MaskRCNNConfig.
        transforms: list of `(sample, rng) -> sample`, in order.
        max_instances: rows of ground truth per image.
        seed: int.
        cache_bytes: decoded images and masks kept in memory up to this many bytes.
    """

    def __init__(self, dataset, config, transforms, max_instances, seed, cache_bytes):
        self.dataset = dataset
        self.config = config
        self.transforms = transforms
        self.max_instances = max_instances
        self.seed = seed
        self.cache = SampleCache(dataset, cache_bytes, config)
        self._warned_of_cut = False

    def fill(self, batch, epoch, chosen):
        """Write images and objects into the rows of an empty batch, in place.

        Args:
            batch: from `empty_batch`, with a row for each of `chosen`.
            epoch: int.
            chosen: int (rows, [position in the dataset, how often it was shown before in this epoch]).

        Raises:
            ImageError: an image cannot be read, and the dataset does not skip such images.
        """
        for row, (position, repeat) in enumerate(np.asarray(chosen).tolist()):
            self._fill_row(batch, row, position, np.random.default_rng([self.seed, epoch, position, 1 + repeat]))

    def warn_of_cut(self, message):
        """Warn, once, that an image has more objects than a batch has rows."""
        if not self._warned_of_cut:
            self._warned_of_cut = True
            warnings.warn(message, stacklevel=2)

    def _fill_row(self, batch, row, position, rng):
        sample = dataclasses.replace(self._read(position), draw=self._draw)
        for transform in self.transforms:
            sample = transform(sample, rng)
        shown, num_cut = sample.network_objects(self.max_instances, rng)
        if num_cut:
            self.warn_of_cut(
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
