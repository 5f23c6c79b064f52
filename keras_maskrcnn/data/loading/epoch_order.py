"""Which images an epoch shows, how often, and in what order: repeat factors for rare classes, a share of negatives.

Comes in: a Dataset. Goes out: positions of images, one row for each time an image is shown. Called by the loader.
Every epoch has the same length, because `fit`, learning-rate schedules and resuming count on it.
"""

import numpy as np

from keras_maskrcnn.host.messages import argument


def repeat_factors(labels, threshold):
    """How often each image is shown so that rare classes come up more often (Gupta, Dollár and Girshick 2019, LVIS).

    With f(c) the share of the images that hold class c, r(c) = max(1, sqrt(threshold / f(c))), and an image takes the
    largest r of its classes.

    Args:
        labels: for each image the labels of its objects; crowds and ignored regions left out.
        threshold: float in (0, 1], the share of images below which a class is rare. LVIS: 0.001, of 100 000 images;
            in a dataset of hundreds no class is that rare, and 0.1 means classes in less than a tenth of the images.

    Returns:
        float64 (images,), at least 1; 1 for images without objects.
    """
    if not 0 < threshold <= 1:
        raise ValueError(
            f"{argument('repeat_threshold')} is the share of images below which a class counts as rare, above 0 and at "
            f"most 1. Received {threshold}. Try 0.1: classes in less than a tenth of the images are shown more often."
        )
    classes = [np.unique(np.asarray(each, int)) for each in labels]
    frequency = np.bincount(np.concatenate([*classes, np.zeros(0, int)])) / max(len(classes), 1)
    with np.errstate(divide="ignore"):
        by_class = np.maximum(1.0, np.sqrt(threshold / frequency))
    return np.array([by_class[each].max(initial=1.0) for each in classes])


def with_negatives(factors, negative, share):
    """Factors that make images without objects a given share of an epoch, by leaving out or repeating some.

    Args:
        factors: float (images,), how often each is shown.
        negative: bool (images,), which hold no object.
        share: float, 0 <= share < 1.

    Returns:
        float64 (images,); those of images with objects unchanged.
    """
    if not 0 <= share < 1:
        raise ValueError(
            f"{argument('negatives')} is the share of images without objects in an epoch, from 0 to below 1. "
            f"Received {share}. Leave it out to keep every image as the dataset has it."
        )
    if negative.all() or (share and not negative.any()):
        raise ValueError(
            "A share of negatives needs images with objects and images without. "
            f"Received {argument('negatives', share)} for {len(negative)} images, "
            f"{int(negative.sum())} of them without objects. Leave it out."
        )
    factors = np.array(factors, float)
    wanted = share / (1 - share) * factors[~negative].sum()
    factors[negative] = wanted / max(negative.sum(), 1)
    return factors


class EpochOrder:
    """The images of each epoch; the same seed gives the same epochs, whichever is asked for first.

    Fractions of factors are rounded at random, anew each epoch, as Detectron2's RepeatFactorTrainingSampler does.
    Unlike there the draws are systematic (one random offset for the running sum of all factors): an image still comes
    up floor or ceil of its factor times, its factor on average, but the epoch's length and its number of negatives do
    not vary.

    Args:
        dataset: a Dataset.
        shuffle: whether the order is random; else by position.
        seed: int.
        repeat_threshold: see `repeat_factors`; None shows every image once.
        negatives: share of images without objects in an epoch; None keeps them as they are. Crowds are no objects.
    """

    def __init__(self, dataset, shuffle, seed, repeat_threshold=None, negatives=None):
        self.shuffle, self.seed = shuffle, seed
        labels = dataset.records.labels_by_image()
        self.negative = np.array([not each for each in labels])
        self.factors = np.ones(len(labels)) if repeat_threshold is None else repeat_factors(labels, repeat_threshold)
        if negatives is not None:
            self.factors = with_negatives(self.factors, self.negative, negatives)
        # Rounded up: the factors grow by less than one image in all, so that none of 1 or more is ever left out.
        self.length = int(np.ceil(self.factors.sum() - 1e-9))

    def __len__(self):
        """Images per epoch, repeats counted."""
        return self.length

    def images(self, epoch):
        """The images of an epoch in order.

        Args:
            epoch: int, from 0.

        Returns:
            int (length, [position in the dataset, how often it was shown before in this epoch]).
        """
        rng = np.random.default_rng([self.seed, epoch])
        if (self.factors == 1).all():
            counts = np.ones(len(self.factors), int)
        else:
            counts = self._draw_counts(rng)
        positions = np.repeat(np.arange(len(counts)), counts)
        firsts = np.repeat(np.cumsum(counts) - counts, counts)
        shown = np.stack([positions, np.arange(len(positions)) - firsts], axis=1)
        return shown[rng.permutation(len(shown))] if self.shuffle else shown

    def _draw_counts(self, rng):
        """Times each image is shown. Images with objects stand first in the sum, so that the kinds' numbers stay."""
        order = rng.permutation(len(self.factors))
        order = order[np.argsort(self.negative[order], kind="stable")]
        reached = np.cumsum(self.factors[order])
        reached *= self.length / reached[-1]
        reached[-1] = self.length
        counts = np.empty(len(order), int)
        counts[order] = np.diff(np.floor(reached + rng.random()).astype(int), prepend=0)
        return counts
