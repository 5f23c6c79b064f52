"""The dataset class of `before.py`, moved into a module of its own: so worker processes can import it.

Nothing else has changed but the base class, which is `mrcnn.utils.Dataset` where that can be imported.
"""

import json
import os

import numpy as np
import skimage.draw
import skimage.io

try:
    from mrcnn.utils import Dataset
except ImportError:
    from mrcnn_dataset import Dataset


class BalloonDataset(Dataset):
    """Photos with outlines of VGG Image Annotator 1."""

    def load_balloon(self, folder, subset):
        """Add the photos of a part that have outlines."""
        self.add_class("balloon", 1, "balloon")
        folder = os.path.join(folder, subset)
        with open(os.path.join(folder, "via_region_data.json")) as file:
            entries = json.load(file).values()
        for entry in entries:
            regions = entry["regions"]
            regions = list(regions.values()) if isinstance(regions, dict) else regions
            if not regions:
                continue
            path = os.path.join(folder, entry["filename"])
            height, width = skimage.io.imread(path).shape[:2]
            outlines = [region["shape_attributes"] for region in regions]
            self.add_image("balloon", entry["filename"], path, height=height, width=width, polygons=outlines)

    def load_mask(self, image_id):
        """Bool (H, W, N), and N class ids."""
        info = self.image_info[image_id]
        if info["source"] != "balloon":
            return super().load_mask(image_id)
        shape = info["height"], info["width"]
        masks = np.zeros((*shape, len(info["polygons"])), bool)
        for number, outline in enumerate(info["polygons"]):
            rows, columns = skimage.draw.polygon(outline["all_points_y"], outline["all_points_x"], shape)
            masks[rows, columns, number] = True
        return masks, np.ones(masks.shape[2], np.int32)

    def image_reference(self, image_id):
        """The photo's path."""
        return self.image_info[image_id]["path"]


def read(folder, subset):
    """A part of the data, prepared."""
    dataset = BalloonDataset()
    dataset.load_balloon(folder, subset)
    dataset.prepare()
    return dataset
