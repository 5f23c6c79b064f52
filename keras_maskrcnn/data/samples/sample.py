"""One image with its objects on the way into a batch: source pixels, records, and the View of them.

Transforms (`data/transforms`) replace the view. `network_image` and `network_objects` then make pixels, boxes and
masks in network pixels, with one resampling. Called by `data/loading`.
"""

import dataclasses

import numpy as np

from keras_maskrcnn.data.images.reading import check_finite, is_mapped
from keras_maskrcnn.data.samples.view import FILL, View
from keras_maskrcnn.data.samples.visible import look_at
from keras_maskrcnn.data.transforms.effects import Recolor


@dataclasses.dataclass(frozen=True)
class Sample:
    """An image, its objects, and the view of them that a batch shows.

    Args:
        image: (H, W, C), image pixels, uint8, uint16 or float32; perhaps a memory map.
        instances: tuple of Instance, image pixels.
        view: View, from image pixels to network pixels.
        effects: tuple of functions `pixels -> pixels`, (h, w, C), applied to the network pixels in order.
        min_visible: share of an object's mask; an object is ignored if the view shows less of it.
        draw: `rng -> Sample`, another image of the same dataset; None outside of a loader.
        fill: one value, or one per channel: the pixels beyond the image that a free rotation shows.
        std: one per channel, what the model divides by; None takes the image's standard deviation.
    """

    image: np.ndarray
    instances: tuple
    view: View
    effects: tuple = ()
    min_visible: float = 0.0
    draw: object = None
    fill: float | tuple = FILL
    std: tuple | None = None

    @classmethod
    def whole(cls, image, instances, **rest):
        """The image as it is; `rest` are further fields."""
        return cls(image, tuple(instances), View(*image.shape[:2]), **rest)

    def decoded(self):
        """The same with all masks decoded, and the bytes that image and masks take."""
        size = self.image.shape[:2]
        instances = tuple(
            dataclasses.replace(instance, mask=instance.mask.window(*size)) for instance in self.instances
        )
        masks = sum(instance.mask.pixels.nbytes for instance in instances)
        return dataclasses.replace(self, instances=instances), self.image.nbytes + masks

    @property
    def size(self):
        """(height, width) in network pixels."""
        return self.view.height, self.view.width

    def with_view(self, view, min_visible=0.0):
        """The same image and objects through another view.

        Args:
            view: View. min_visible: share of a mask; objects that the view cuts to less of it are ignored.
        """
        return dataclasses.replace(self, view=view, min_visible=max(min_visible, self.min_visible))

    seen = with_view  # its first name, which custom transforms may use

    def affected(self, effect):
        """The same with one more change to its network pixels, after those so far."""
        return dataclasses.replace(self, effects=(*self.effects, effect))

    def recolored(self, matrix):
        """The same with colours `matrix @ [r, g, b, 1]` of those so far (see Recolor); several in a row clip once."""
        if self.effects and isinstance(self.effects[-1], Recolor):
            return dataclasses.replace(self, effects=(*self.effects[:-1], self.effects[-1].then(matrix)))
        return self.affected(Recolor(matrix))

    def objects(self):
        """The objects that the view shows: list of VisibleObject."""
        return look_at(self.instances, self.image.shape[:2], self.view, self.min_visible)

    def rendered(self):
        """The same with all of this done: image and masks in network pixels, looked at as they are.

        For what needs pixels to act on. Masks stay windows of their objects' size.
        """
        instances = tuple(shown.rendered() for shown in self.objects())
        return Sample(self.network_image(), instances, View(*self.size), draw=self.draw, fill=self.fill, std=self.std)

    def channel_std(self):
        """Float (C,): what the model divides each channel by, or else the image's own standard deviation."""
        return some_pixels(self.image).std((0, 1), dtype=np.float64) if self.std is None else np.array(self.std)

    def network_image(self):
        """(height, width, C), network pixels, of the image's dtype.

        Raises:
            ImageError: what the view shows of a float image is not finite.
        """
        effects, recolor = list(self.effects), None
        if effects and isinstance(effects[0], Recolor) and self.image.dtype == np.uint8:
            recolor = effects.pop(0)
        pixels = self.view.pixels(self.image, self.fill, recolor)
        check_finite(pixels, "an image")
        for effect in effects:
            pixels = effect(pixels)
        return pixels

    def network_objects(self, max_instances, rng):
        """The objects that the view shows, for a table of `max_instances` rows.

        Boxes of objects cut by the view's border come from the visible pixels. An object is dropped if its visible
        part is thinner than one pixel or has no mask pixel, and is a crowd region if the part is less than
        `min_visible` of it. If more than `max_instances` remain, crowd regions are kept and the rest is a random
        choice: keeping the largest would teach that small ones are background.

        Args:
            max_instances: int, most objects returned.
            rng: numpy Generator, for that choice.

        Returns:
            (list of VisibleObject, int: objects left out for lack of rows).
        """
        shown = self.objects()
        num_cut = max(0, len(shown) - max_instances)
        if num_cut:
            order = np.lexsort((rng.random(len(shown)), [not one.crowd for one in shown]))
            shown = [shown[k] for k in np.sort(order[:max_instances])]
        return shown, num_cut


def some_pixels(image):
    """One pixel in 64, near enough for means and 60 times faster; of a memory map few enough to leave it unread."""
    step = 8 if not is_mapped(image) else max(8, min(image.shape[:2]) // 32)
    return np.asarray(image[::step, ::step])
