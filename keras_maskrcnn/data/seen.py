"""What a View shows of the objects of an image: their boxes, masks, and whether enough of them is left.

Called by `data.sample`. Objects that a view cuts get the box of what is left; thinner ones than a
pixel are dropped; ones of which too little is left become regions to ignore, as COCO's crowds are
(`batch.py`): such a rest is no background, and nothing to learn from either.
"""

import dataclasses

import numpy as np

from keras_maskrcnn.data.geometry import View
from keras_maskrcnn.data.records import Instance, MaskWindow
from keras_maskrcnn.data.resampling import filled_box, render_mask, resample_mask

MIN_SIDE = 1.0  # network pixels: objects whose visible part is thinner are dropped


@dataclasses.dataclass(frozen=True)
class Seen:
    """One object as a view shows it.

    Args:
        instance: Instance, image pixels.
        box: float64 [x1, y1, x2, y2], network pixels, of the part that is visible.
        window: MaskWindow, the whole mask, in pixels that `view` looks at.
        view: View, axis-aligned, from the pixels of `window` to network pixels.
        crowd: whether it is a region to ignore.
    """

    instance: Instance
    box: np.ndarray
    window: MaskWindow
    view: View
    crowd: bool

    def cells(self, size):
        """The mask in the frame of the box: uint8 0/1 (size, size)."""
        return self.view.orient(resample_mask(self.window, self.view.to_image(self.box)[0], size))

    def rendered(self):
        """The object as an Instance in network pixels. Its mask has at least one pixel."""
        window = render_mask(self.window, self.view)
        if not window.pixels.any():  # a small one, nowhere covering half a pixel
            x, y = (min(int(v), side - 1) for v, side in zip(self.box[:2], (self.view.width, self.view.height)))
            window = MaskWindow(np.ones((1, 1), np.uint8), x, y)
        return dataclasses.replace(
            self.instance, box=self.box.astype(np.float32), mask=window, crowd=self.crowd, area=None, stated_box=None
        )


def look_at(instances, image_size, view, min_visible=0.0):
    """The objects that a view shows.

    Args:
        instances: sequence of Instance, image pixels.
        image_size: (height, width), image pixels.
        view: View of that image.
        min_visible: share of an object's mask; objects that the view's border leaves less of are crowds.

    Returns:
        list of Seen, in the order of the instances.
    """
    if not instances:
        return []
    whole = view.from_image(np.stack([instance.box for instance in instances]))
    clipped = np.clip(whole, 0, (view.width, view.height) * 2)
    large = (clipped[:, 2:] - clipped[:, :2] >= MIN_SIDE).all(-1)
    cut = (np.abs(clipped - whole) > 1e-6).any(-1)
    look = _look_straight if view.axis_aligned else _look_turned
    found = []
    for i in np.flatnonzero(large):
        window = instances[i].mask.window(*image_size)
        box, share, window, frame = look(window, view, clipped[i], cut[i])
        if box is not None and (box[2:] - box[:2] >= MIN_SIDE).all():
            crowd = instances[i].crowd or share < min_visible
            found.append(Seen(instances[i], box, window, frame, crowd))
    return found


def _look_straight(window, view, box, cut):
    """(visible box or None, visible share, mask, view of that mask) through an axis-aligned view."""
    if not cut:
        return (box if window.pixels.any() else None), 1.0, window, view
    visible = view.to_image(box)[0] - (window.x, window.y, window.x, window.y)
    height, width = window.pixels.shape
    x1, y1 = np.maximum(np.floor(visible[:2] + 1e-6), 0).astype(int)
    x2, y2 = np.minimum(np.ceil(visible[2:] - 1e-6), (width, height)).astype(int)
    part = window.pixels[y1:y2, x1:x2]
    filled = filled_box(part)
    if filled is None:
        return None, 0.0, window, view
    left, top = window.x + x1, window.y + y1
    filled = view.from_image([np.array(filled) + (left, top, left, top)])[0]
    shrunk = np.concatenate([np.maximum(box[:2], filled[:2]), np.minimum(box[2:], filled[2:])])
    return shrunk, np.count_nonzero(part) / np.count_nonzero(window.pixels), window, view


def _look_turned(window, view, box, cut):
    """The same through a view with a free turn: the mask itself is turned, its pixels give the box."""
    del box
    area = np.count_nonzero(window.pixels) * view.zoom**2
    window = render_mask(window, view)
    filled = filled_box(window.pixels)
    if filled is None:
        return None, 0.0, window, view
    share = np.count_nonzero(window.pixels) / area if cut else 1.0
    shown = np.array(filled, np.float64) + (window.x, window.y, window.x, window.y)
    return shown, share, window, View(view.height, view.width)
