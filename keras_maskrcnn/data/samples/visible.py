"""The objects of an image that a View shows: their visible boxes and masks, in network pixels.

Called by `sample.py`. An object that the view's border cuts gets the box of its visible part. Objects thinner than a
pixel are dropped. Objects with too small a visible part become regions to ignore, as COCO's crowds are (`batch.py`):
such a part is no background, and it does not show enough to learn from.
"""

import dataclasses

import numpy as np

from keras_maskrcnn.data.records import Instance, MaskWindow
from keras_maskrcnn.data.samples.resampling import render_mask, resample_mask
from keras_maskrcnn.data.samples.view import View, as_tuples, compose
from keras_maskrcnn.geometry.extents import filled_box

MIN_SIDE = 1.0  # network pixels: objects whose visible part is thinner are dropped


@dataclasses.dataclass(frozen=True)
class VisibleObject:
    """One object as a view shows it.

    Args:
        instance: Instance, image pixels.
        box: float64 [x1, y1, x2, y2], network pixels, of the visible part.
        window: MaskWindow, the whole mask, in the pixels that `view` reads.
        view: View, axis-aligned, from the pixels of `window` to network pixels.
        crowd: whether it is a region to ignore.
        matrix: ((a, b, c), (d, e, f)), from the instance's pixels to network pixels.
    """

    instance: Instance
    box: np.ndarray
    window: MaskWindow
    view: View
    crowd: bool
    matrix: tuple

    def points(self, points):
        """Points of the instance's attributes in network pixels: float (..., [x, y]) -> float64 (..., [x, y])."""
        matrix = compose(self.matrix, self.instance.frame)
        return np.asarray(points, np.float64) @ matrix[:, :2].T + matrix[:, 2]

    def vectors(self, vectors):
        """Differences of points, which no shift changes: float (..., [dx, dy]) -> float64 (..., [dx, dy])."""
        return np.asarray(vectors, np.float64) @ compose(self.matrix, self.instance.frame)[:, :2].T

    @property
    def mirrored(self):
        """Whether the view shows the instance's attributes in a mirror, which exchanges left and right."""
        (a, b, _), (d, e, _) = compose(self.matrix, self.instance.frame)
        return bool(a * e - b * d < 0)

    def cells(self, size):
        """The mask in the frame of the box: uint8 0/1 (size, size)."""
        return self.view.orient(resample_mask(self.window, self.view.box_to_image(self.box.tolist()), size))

    def rendered(self):
        """The object as an Instance in network pixels. Its mask has at least one pixel."""
        window = render_mask(self.window, self.view)
        if not window.pixels.any():  # a small one, nowhere covering half a pixel
            x, y = (min(int(v), side - 1) for v, side in zip(self.box[:2], (self.view.width, self.view.height)))
            window = MaskWindow(np.ones((1, 1), np.uint8), x, y)
        return dataclasses.replace(
            self.instance,
            box=self.box.astype(np.float32),
            mask=window,
            crowd=self.crowd,
            area=None,
            stated_box=None,
            frame=as_tuples(compose(self.matrix, self.instance.frame)),
        )


def look_at(instances, image_size, view, min_visible=0.0):
    """The objects that a view shows.

    Args:
        instances: sequence of Instance, image pixels.
        image_size: (height, width), image pixels.
        view: View of that image.
        min_visible: share of an object's mask; objects that the view's border leaves less of are crowds.

    Returns:
        list of VisibleObject, in the order of the instances.
    """
    if not instances:
        return []
    whole = view.from_image(np.stack([instance.box for instance in instances]))
    clipped = np.clip(whole, 0, (view.width, view.height) * 2)
    large = (clipped[:, 2:] - clipped[:, :2] >= MIN_SIDE).all(-1)
    cut = (np.abs(clipped - whole) > 1e-6).any(-1)
    looks = (_look(instances[i], image_size, view, clipped[i], cut[i], min_visible) for i in np.flatnonzero(large))
    return [seen for seen in looks if seen is not None]


def _look(instance, image_size, view, box, cut, min_visible):
    """VisibleObject, or None where the visible part is thinner than a pixel."""
    window, straight = instance.mask.window(*image_size), view.axis_aligned
    if not window.pixels.any():
        return None
    if straight and not cut:
        return VisibleObject(instance, box, window, view, instance.crowd, view.matrix)
    rendered = render_mask(window, view)
    box = _filled(rendered, box if straight else None)
    if box is None or (box[2:] - box[:2] < MIN_SIDE).any():
        return None
    crowd = instance.crowd or bool(cut and _share(rendered, window, view) < min_visible)
    frame = view if straight else View(view.height, view.width)
    return VisibleObject(instance, box, window if straight else rendered, frame, crowd, view.matrix)


def _filled(rendered, known):
    """Box of a mask in view pixels; its edges are those of `known` where these are the same pixel's.

    The row that a border cuts through can be the widest: only the pixels of the view tell.
    """
    filled = filled_box(rendered.pixels)
    if filled is None:
        return None
    box = np.array(filled, np.float64) + (rendered.x, rendered.y, rendered.x, rendered.y)
    return box if known is None else np.where(np.abs(box - known) <= 0.5 + 1e-6, known, box)


def _share(rendered, window, view):
    """Share of a mask that a view shows."""
    return np.count_nonzero(rendered.pixels) / (np.count_nonzero(window.pixels) * view.zoom**2)
