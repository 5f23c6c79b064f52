"""How far an export differs from its model, on images: `verify` runs both, `Comparison` holds the figures.

Detections of both are paired: the same label, and boxes that overlap by at least half; the nearest boxes first. What
has no partner counts, unless its score is so near to the score at which the other one stops that the difference of the
scores explains it. Called by `keras-maskrcnn verify` and by users.
"""

import dataclasses
import typing

import numpy as np

from keras_maskrcnn.data.images.reading import read_image
from keras_maskrcnn.geometry.resizing import resize_bilinear
from keras_maskrcnn.host.tables import text_table
from keras_maskrcnn.inference.arguments import thresholds_of

LEAST_OVERLAP = 0.5  # IoU of the boxes of a pair


class Limits(typing.NamedTuple):
    """The largest differences that pass.

    Args:
        boxes: of a coordinate, image pixels. scores: of a score. masks: least share of equal mask pixels.
        unpaired: number of detections without a partner, apart from those near the threshold.
    """

    boxes: float = 0.05
    scores: float = 1e-3
    masks: float = 0.999
    unpaired: int = 0


DEFAULT_LIMITS = Limits()


class Unpaired(typing.NamedTuple):
    """A detection without a partner.

    Args:
        image: str, its image. owner: "model" or "export". label: str. score: float.
        margin: how far its score lies above the score at which the other one stops; 0 or less: below it.
    """

    image: str
    owner: str
    label: str
    score: float
    margin: float


@dataclasses.dataclass
class Comparison:
    """Differences between an export and its model.

    Args:
        images: number of images. found, expected: number of detections of the export, and of the model.
        boxes: list of the largest difference of a coordinate of each pair, image pixels. scores: of its scores.
        equal, pixels: lists, for each pair: equal mask pixels, and all in the box around both masks. Empty if the model
            has no masks.
        unpaired: list of Unpaired.
    """

    images: int = 0
    found: int = 0
    expected: int = 0
    boxes: list = dataclasses.field(default_factory=list)
    scores: list = dataclasses.field(default_factory=list)
    equal: list = dataclasses.field(default_factory=list)
    pixels: list = dataclasses.field(default_factory=list)
    unpaired: list = dataclasses.field(default_factory=list)

    @property
    def share_of_equal_pixels(self):
        """Of all pairs together; 1 if they have no pixels."""
        return sum(self.equal) / max(sum(self.pixels), 1) if sum(self.pixels) else 1.0

    def checks(self, limits=DEFAULT_LIMITS):
        """Each figure and whether it passes: list of (name, largest, mean, limit, bool)."""
        shares = [one / max(other, 1) for one, other in zip(self.equal, self.pixels, strict=True) if other]
        share = self.share_of_equal_pixels
        far = sum(one.margin > limits.scores for one in self.unpaired)
        return [
            ("boxes, pixels", *_figures(self.boxes), limits.boxes, max(self.boxes, default=0) <= limits.boxes),
            ("scores", *_figures(self.scores), limits.scores, max(self.scores, default=0) <= limits.scores),
            ("mask pixels equal", _percent(min(shares, default=1)), _percent(share), _percent(limits.masks),
             share >= limits.masks),
            ("without a partner", far, "", limits.unpaired, far <= limits.unpaired),
        ]  # fmt: skip

    def passes(self, limits=DEFAULT_LIMITS):
        """Whether all figures are within the limits."""
        return all(check[-1] for check in self.checks(limits))

    def report(self, limits=DEFAULT_LIMITS):
        """The figures as text."""
        head = f"{self.images} images: {self.expected} detections of the model, {self.found} of the export; "
        rows = [("", "worst", "mean", "limit", "")]
        rows += [(*row[:-1], "ok" if row[-1] else "FAIL") for row in self.checks(limits)]
        return f"{head}{len(self.boxes)} pairs\n{text_table(rows)}{self._unpaired_lines()}"

    def _unpaired_lines(self, most=10):
        """The detections without a partner, the farthest from the threshold first."""
        if not self.unpaired:
            return ""
        farthest = sorted(self.unpaired, key=lambda one: -one.margin)
        lines = [
            f"  {one.image}: {one.label} {one.score:.4f} of the {one.owner}, "
            f"{abs(one.margin):.1e} {'above' if one.margin > 0 else 'below'} the score at which the other one stops"
            for one in farthest[:most]
        ]
        more = [f"  and {len(farthest) - most} more"] if len(farthest) > most else []
        return "\n".join(["\ndetections without a partner:", *lines, *more])

    def add(self, name, found, expected):
        """Add an image.

        Args:
            name: str. found, expected: FoundInstances of the export, and of the model.
        """
        self.images += 1
        self.found += len(found)
        self.expected += len(expected)
        pairs = pair_instances(found, expected)
        for one, other in pairs:
            self.boxes.append(float(np.abs(found.boxes[one] - expected.boxes[other]).max()))
            self.scores.append(float(abs(found.scores[one] - expected.scores[other])))
        if hasattr(found, "mask_windows") and hasattr(expected, "mask_windows"):
            for one, other in pairs:
                equal, pixels = equal_pixels(found.mask_windows[one], expected.mask_windows[other])
                self.equal.append(equal)
                self.pixels.append(pixels)
        for owner, mine, theirs, column in (("export", found, expected, 0), ("model", expected, found, 1)):
            paired = {pair[column] for pair in pairs}
            lowest = _stops_at(theirs)
            for row in (row for row in range(len(mine)) if row not in paired):
                number, score = int(mine.labels[row]), float(mine.scores[row])
                self.unpaired.append(Unpaired(name, owner, mine.class_names[number], score, score - lowest[number]))


def verify(export, model, images, progress=lambda done: None):
    """Run an export and its model on images, and compare what they find.

    Args:
        export, model: predictors, such as of `keras_maskrcnn.scale.models.open_predictor`, of the same classes.
        images: list of paths. If the export takes one size only (LiteRT), both see the images resized to it.
        progress: function of the number of images that are done.

    Returns:
        Comparison.

    Raises:
        ValueError: the two have other classes or images, nothing was found in any image, or an image cannot be read.
    """
    _check_same_task(export.config, model.config)
    compared = Comparison()
    for done, path in enumerate(images, 1):
        image = _fitted(read_image(path, model.config.num_channels, model.config.image_dtype), export)
        compared.add(str(path), export(image), model(image))
        progress(done)
    if not compared.found + compared.expected:
        raise ValueError(
            "The images must contain something that the model finds. Received: "
            f"{compared.images} images, without a detection. Choose images like those of its training."
        )
    return compared


def pair_instances(found, expected):
    """Pair the instances of an export with those of its model, the nearest boxes first.

    Args:
        found, expected: FoundInstances of one image.

    Returns:
        list of (row of found, row of expected). Each row is in at most one pair.
    """
    if not len(found) or not len(expected):
        return []
    one, other = found.boxes[:, None].astype(np.float64), expected.boxes[None].astype(np.float64)
    sides = np.minimum(one[..., 2:], other[..., 2:]) - np.maximum(one[..., :2], other[..., :2])
    common = np.clip(sides, 0, None).prod(-1)
    areas = [(boxes[..., 2:] - boxes[..., :2]).prod(-1) for boxes in (one, other)]
    close = common >= LEAST_OVERLAP * (areas[0] + areas[1] - common)
    close &= found.labels[:, None] == expected.labels[None]
    rows, columns = np.nonzero(close)
    nearest = np.argsort(np.abs(one - other).max(-1)[rows, columns], kind="stable")
    pairs, used = [], (set(), set())
    for row, column in zip(rows[nearest].tolist(), columns[nearest].tolist(), strict=True):
        if row not in used[0] and column not in used[1]:
            pairs.append((row, column))
            used[0].add(row)
            used[1].add(column)
    return pairs


def equal_pixels(one, other):
    """(equal pixels, all pixels) of the smallest box around two mask windows (bool (h, w), x0, y0)."""
    places = [(y, x, y + window.shape[0], x + window.shape[1]) for window, x, y in (one, other) if window.size]
    if not places:
        return 0, 0
    top, left, bottom, right = (pick(sides) for pick, sides in zip((min, min, max, max), zip(*places), strict=True))
    planes = np.zeros((2, bottom - top, right - left), bool)
    for plane, (window, x, y) in zip(planes, (one, other), strict=True):
        if window.size:
            plane[y - top : y - top + window.shape[0], x - left : x - left + window.shape[1]] = window
    return int((planes[0] == planes[1]).sum()), planes[0].size


def _stops_at(found):
    """Float (K,): scores below which nothing is returned, by the thresholds and the last one there is room for."""
    full = len(found) >= found.config.max_detections
    return np.maximum(thresholds_of(found.config), float(found.scores.min()) if full else 0.0)


def _fitted(image, export):
    """The image, resized if the export takes one size only."""
    size = getattr(export, "image_size", None)
    if size is None or image.shape[:2] == size:
        return image
    resized = resize_bilinear(image, size)
    return (resized if image.dtype == np.float32 else np.round(resized)).astype(image.dtype)


def _check_same_task(export, model):
    for name in ("class_names", "num_channels", "image_dtype"):
        one, other = getattr(export, name), getattr(model, name)
        if one != other:
            raise ValueError(
                f"An export and its model have the same {name}. Received: {one} for the export, {other} for the model. "
                "Name the model that was exported."
            )


def _figures(values):
    return (f"{max(values):.1e}", f"{np.mean(values):.1e}") if values else ("-", "-")


def _percent(share):
    return f"{100 * share:.4g} %" if share < 1 else "100 %"
