"""Copy-paste (Ghiasi et al. 2021, "Simple Copy-Paste is a Strong Data Augmentation Method").

Pastes objects of another image of the dataset into this one. The masks of covered objects lose the
covered pixels; an object with too little of its mask left is removed. Called as a transform. The
other image comes from the sample's `draw`, which the loader sets.
"""

import dataclasses

import numpy as np
from PIL import Image, ImageFilter

from keras_maskrcnn.data.records import MaskWindow
from keras_maskrcnn.data.samples.view import as_dtype_of, as_tuples, compose
from keras_maskrcnn.data.transforms.moves import MIN_VISIBLE
from keras_maskrcnn.geometry.extents import filled_box


@dataclasses.dataclass(frozen=True)
class CopyPaste:
    """Paste a random subset of the objects of another random image, each at a random position.

    The paper keeps the position after jittering. Here each object may go anywhere inside the image, so
    images of different sizes mix. Objects larger than this image and crowd regions are not pasted.

    Args:
        transforms: list of transforms for the other image, such as the resizing and jitter that this
            image has had.
        most: int, largest number of objects afterwards: the rows of ground truth.
        min_visible: objects with a smaller visible share of their mask are removed.
        blend: network pixels, standard deviation of the edge blur. The paper found that none is needed.
    """

    transforms: tuple = ()
    most: int = 100
    min_visible: float = MIN_VISIBLE
    blend: float = 0.0

    def __call__(self, sample, rng):
        """Sample -> Sample, whose pixels are now fixed network pixels.

        Raises:
            ValueError: the sample has no `draw`, because it does not come from a loader.
        """
        if sample.draw is None:
            raise ValueError(
                "CopyPaste needs a sample with a function `draw`, which returns another sample. Received one without. "
                "Use CopyPaste in a DataLoader, or set `draw=lambda rng: other_sample`."
            )
        other = sample.draw(rng)
        for transform in self.transforms:
            other = transform(other, rng)
        sample = sample.rendered()
        image, pasted = np.array(sample.image), []
        for instance in self._chosen(sample, other, rng):
            moved = _placed(instance, sample.size, rng)
            _paste(image, other, instance.mask, moved.mask, self.blend)
            pasted.append(moved)
        if not pasted:
            return sample
        instances = _uncovered([*sample.instances, *pasted], sample.size, self.min_visible)
        return dataclasses.replace(sample, image=image, instances=instances)

    def _chosen(self, sample, other, rng):
        """Some objects of `other`, as many as fit under the limit; Instances in its network pixels."""
        limits = sample.size[::-1]
        objects = [shown for shown in other.objects() if not shown.crowd]
        fit = [shown for shown in objects if (shown.box[2:] - shown.box[:2] <= limits).all()]
        room = min(len(fit), self.most - len(sample.instances))
        if room < 1:
            return []
        chosen = [fit[k].rendered() for k in rng.permutation(len(fit))[: rng.integers(1, room + 1)]]
        chosen = [_shrunk(instance, instance.mask.pixels) for instance in chosen]
        # A box with fractional corners can touch one more pixel than its length.
        return [instance for instance in chosen if np.less_equal(instance.mask.pixels.shape, sample.size).all()]


def _placed(instance, size, rng):
    """The object at a random position in an image of `size`."""
    mask = instance.mask
    height, width = mask.pixels.shape
    x, y = (int(rng.integers(side - length + 1)) for side, length in ((size[1], width), (size[0], height)))
    box = np.array([x, y, x + width, y + height], np.float32)
    frame = as_tuples(compose(((1, 0, x - mask.x), (0, 1, y - mask.y)), instance.frame))
    return dataclasses.replace(instance, box=box, mask=MaskWindow(mask.pixels, x, y), frame=frame)


def _paste(image, other, old, new, blend):
    """Copy the pixels of `other` under mask `old` to mask `new` of `image`, in place, without resampling."""
    height, width = old.pixels.shape
    margin = int(np.ceil(3 * blend))
    left, top = min(margin, old.x, new.x), min(margin, old.y, new.y)
    right = min(margin, other.size[1] - old.x - width, image.shape[1] - new.x - width)
    bottom = min(margin, other.size[0] - old.y - height, image.shape[0] - new.y - height)
    view = other.view.cropped(old.x - left, old.y - top, height + top + bottom, width + left + right)
    patch = other.with_view(view).network_image()
    area = image[new.y - top : new.y + height + bottom, new.x - left : new.x + width + right]
    if not blend:
        area[old.pixels != 0] = patch[old.pixels != 0]
        return
    alpha = np.pad(old.pixels * np.uint8(255), margin)
    alpha = np.asarray(Image.fromarray(alpha).filter(ImageFilter.GaussianBlur(blend)), np.float32) / 255
    alpha = alpha[margin - top :, margin - left :][: area.shape[0], : area.shape[1], None]
    area[:] = as_dtype_of(area + (patch.astype(np.float32) - area) * alpha, image)


def _uncovered(instances, size, min_visible):
    """The visible parts of overlapping objects, the last one on top. Boxes are computed from the masks."""
    covered = np.zeros(size, bool)
    left = []
    for instance in reversed(instances):
        mask = instance.mask
        height, width = mask.pixels.shape
        beneath = covered[mask.y : mask.y + height, mask.x : mask.x + width]
        pixels = mask.pixels.astype(bool) & ~beneath
        whole, visible = np.count_nonzero(mask.pixels), np.count_nonzero(pixels)
        if visible == whole:
            left.append(instance)
        elif visible and (instance.crowd or visible >= min_visible * whole):
            left.append(_shrunk(instance, pixels))
        beneath |= mask.pixels.astype(bool)
    return tuple(reversed(left))


def _shrunk(instance, pixels):
    """The object with these mask pixels in its window, and with their box."""
    mask = instance.mask
    x1, y1, x2, y2 = filled_box(pixels)
    box = np.array([mask.x + x1, mask.y + y1, mask.x + x2, mask.y + y2], np.float32)
    window = MaskWindow(np.ascontiguousarray(pixels[y1:y2, x1:x2]).view(np.uint8), mask.x + x1, mask.y + y1)
    return dataclasses.replace(instance, box=box, mask=window)
