"""Decoded images and masks in memory, as many as fit."""

import threading

from keras_maskrcnn.data.images.reading import RGB, is_mapped
from keras_maskrcnn.data.samples.sample import Sample


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
