"""Which images to label next: those that a model is unsure about, and that are unlike each other.

Comes in: a model and images without labels. Goes out: a list of `RankedImage`. Called by users (`km.rank`) and by
`keras-maskrcnn rank`. `docs/rank.md` gives the rules.
"""

import dataclasses

import keras
import numpy as np
from keras import ops

from keras_maskrcnn.data.images.reading import read_image
from keras_maskrcnn.geometry.strides import PYRAMID_STRIDES
from keras_maskrcnn.inference.predictor import NetworkBatch, Predictor
from keras_maskrcnn.network.padding import valid_cells

_LEVELS = slice(1, 4)  # P3 to P5: what is in an image, neither its finest texture nor a few cells of it
_SUREST, _UNSUREST = 100, 10  # detections of an image that are looked at, and that count


@dataclasses.dataclass(frozen=True)
class RankedImage:
    """An image in the order in which to label.

    Args:
        position: int, among the given images. source: the image as it was given.
        uncertainty: float in 0..1. distance: float, to the nearest image that is labelled or comes before; infinite for
            the first of all.
        size: (height, width), image pixels. results: list of COCO results with the position as image id.
    """

    position: int
    source: object
    uncertainty: float
    distance: float
    size: tuple
    results: list


def rank(model, images, count=None, labelled=(), batch_size=None, progress=None):
    """Order images by what their labels would teach: uncertainty times distance from what is labelled already.

    Args:
        model: MaskRCNN.
        images: list of images, each as for `Predictor`.
        count: int, how many are wanted; None: all.
        labelled: list of images that have labels: what is like them comes later.
        batch_size: as for `Predictor.stream`.
        progress: None, or a function of the number of images done so far, of twice the number of all.

    Returns:
        (list of RankedImage, list of (source, error) of images that cannot be read).

    Raises:
        ValueError: no image can be read; count is below 1.
    """
    if count is not None and count < 1:
        raise ValueError(f"count must be at least 1. Received: {count}. Leave it out to rank all images.")
    tell = progress or (lambda done: None)
    looked, failures = _look(model, images, batch_size, tell)
    if not looked:
        raise ValueError(
            f"rank needs at least one image that can be read. Received {len(images)}, of which {len(failures)} cannot "
            f"be read{f': {failures[0][1]}' if failures else ''}. Check the paths."
        )
    describe = _Describer(model)
    features = []
    for done, one in enumerate(looked, start=len(images) + 1):
        features.append(describe(one.source))
        tell(done)
    known = [describe(image) for image in labelled]
    order = order_of(np.array([one.uncertainty for one in looked]), np.stack(features), known, count)
    return [dataclasses.replace(looked[place], distance=distance) for place, distance in order], failures


def _look(model, images, batch_size, tell):
    """([RankedImage] in the given order, [(source, error)])."""
    predictor = Predictor(model, model.config.lowest_score)
    looked, failures = [], []

    def finish(position, image, found):
        return uncertainty_of(found), image.shape[:2], found.to_coco(position)

    for answer in predictor.stream(images, finish, batch_size):
        if answer.error is None:
            uncertainty, size, results = answer.result
            source = images[answer.index]
            looked.append(RankedImage(answer.index, source, uncertainty, np.inf, tuple(size), results))
        else:
            failures.append((images[answer.index], answer.error))
        tell(answer.index + 1)
    return looked, failures


def uncertainty_of(found):
    """How unsure a model is about an image: the mean of its ten most uncertain detections, from 0 to 1.

    The score of a detection is unsure by 1 - |2 score - 1|: 1 where it is 0.5. Its mask is unsure by the mean of the
    same of all cells that are more likely inside than not, times the score. The two count half each. Images without
    detections have 0.

    Args:
        found: FoundInstances.
    """
    scores = np.asarray(found.scores, np.float64)[:_SUREST]
    if not len(scores):
        return 0.0
    unsure = _unsure(scores)
    masks = found.values.get("masks")
    if masks is not None:
        masks = np.asarray(masks, np.float64)[:_SUREST]
        inside = masks >= 0.5
        outlines = (_unsure(masks) * inside).sum(axis=(1, 2)) / np.maximum(inside.sum(axis=(1, 2)), 1)
        unsure = (unsure + scores * outlines) / 2
    return float(np.sort(unsure)[-_UNSUREST:].mean())


def _unsure(probabilities):
    return 1 - np.abs(2 * probabilities - 1)


def order_of(uncertainty, features, known=(), count=None):
    """Greedy order: each next image has the highest uncertainty times distance to those before it.

    k-centre greedy (Sener and Savarese, Active learning for convolutional neural networks: a core-set approach, 2018),
    weighted. Distances are divided by the largest one, so that both factors lie in 0..1. The first image is the most
    uncertain one if none is known.

    Args:
        uncertainty: float (N,). features: float (N, F). known: list of float (F,), of labelled images.
        count: int, or None for all.

    Returns:
        List of (position, distance to the nearest image known or before).
    """
    every = np.concatenate([features, np.reshape(known, (-1, features.shape[1]))])
    every = (every - every.mean(axis=0)) / np.maximum(every.std(axis=0), 1e-6)
    points, centres = every[: len(features)], every[len(features) :]
    nearest = np.full(len(points), np.inf)
    for centre in centres:
        nearest = np.minimum(nearest, _distances(points, centre))
    left, order = np.ones(len(points), bool), []
    for _ in range(min(count or len(points), len(points))):
        far = nearest[left].max()
        spread = np.ones(len(points)) if not np.isfinite(far) or far == 0 else nearest / far
        place = int(np.where(left, (uncertainty + 1e-3) * spread, -1.0).argmax())
        order.append((place, float(nearest[place])))
        left[place] = False
        nearest = np.minimum(nearest, _distances(points, points[place]))
    return order


def _distances(points, centre):
    return np.sqrt(((points - centre) ** 2).mean(axis=1))


class _Describer:
    """A vector for each image: the mean of each channel of P3 to P5 over the image."""

    def __init__(self, model):
        self.predictor, self.means = Predictor(model), _Means(model)

    def __call__(self, image):
        config = self.predictor.config
        pixels = read_image(image, config.num_channels, config.image_dtype)
        batch = NetworkBatch(self.predictor, [pixels.shape[:2]])
        batch.fill(0, pixels)
        inputs = {name: batch.inputs[name] for name in ("images", "image_sizes")}
        return np.asarray(self.means.predict_on_batch(inputs))[0]


class _Means(keras.Model):
    """(B, 3 * channels): means of pyramid levels over the cells of each image."""

    def __init__(self, model):
        super().__init__(name="pyramid_means", dtype=model.dtype_policy, autocast=False)
        self.detector = model
        self.built = True

    def call(self, inputs, training=None):
        sizes = ops.cast(inputs["image_sizes"], "int32")
        features = self.detector.extract_features(inputs["images"], sizes, training)
        means = []
        for level, stride in zip(features["pyramid"][_LEVELS], PYRAMID_STRIDES[_LEVELS], strict=True):
            level = ops.cast(level, "float32")
            cells = ops.cast(valid_cells(ops.shape(level)[1:3], sizes, stride), "float32")[..., None]
            means.append(ops.sum(level * cells, axis=(1, 2)) / ops.sum(cells, axis=(1, 2)))
        return ops.concatenate(means, axis=-1)
