"""Datasets of matterport's kind, in a module that worker processes can import. No framework, and no `mrcnn`."""

import pathlib
import sys

import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "samples" / "from_matterport"))
from mrcnn_dataset import Dataset  # noqa: E402

HEIGHT, WIDTH = 40, 60


class Boxes(Dataset):
    """Images of noise with rectangles, drawn when they are asked for; counts how often that is.

    Args:
        scenes: for each image a list of (class id, x1, y1, x2, y2).
        stated: whether image_info has the sizes.
    """

    def __init__(self, scenes, stated=True):
        super().__init__()
        self.images_loaded, self.masks_loaded = 0, 0
        for number, name in enumerate(("cat", "dog", "bird"), start=1):
            self.add_class("boxes", number, name)
        size = {"height": HEIGHT, "width": WIDTH} if stated else {}
        for number, scene in enumerate(scenes):
            self.add_image("boxes", f"scene-{number}", None, scene=scene, **size)

    def load_image(self, image_id):
        """uint8 (H, W, 3)."""
        self.images_loaded += 1
        return np.random.default_rng(image_id).integers(0, 255, (HEIGHT, WIDTH, 3), np.uint8)

    def load_mask(self, image_id):
        """(bool (H, W, N), class ids)."""
        self.masks_loaded += 1
        scene = self.image_info[image_id]["scene"]
        if not scene:
            return super().load_mask(image_id)
        masks = np.zeros((HEIGHT, WIDTH, len(scene)), bool)
        for number, (_, x1, y1, x2, y2) in enumerate(scene):
            masks[y1:y2, x1:x2, number] = True
        return masks, np.array([one[0] for one in scene], np.int32)


class Changed(Boxes):
    """Boxes whose images or masks are what a function makes of them.

    Args:
        scenes, stated: as of Boxes. image, masks: function of what `load_image` or `load_mask` returns, or None.
    """

    def __init__(self, scenes, stated=True, image=None, masks=None):
        super().__init__(scenes, stated)
        self.image, self.masks = image, masks

    def load_image(self, image_id):
        """What the function makes of the image."""
        image = super().load_image(image_id)
        return image if self.image is None else self.image(image)

    def load_mask(self, image_id):
        """What the function makes of masks and class ids."""
        masks, class_ids = super().load_mask(image_id)
        return (masks, class_ids) if self.masks is None else self.masks(masks, class_ids)
