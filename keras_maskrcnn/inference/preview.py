"""What augmentation makes of a dataset, before and after, as one picture to look at before training.

Comes in: a dataset, the model's config, an augmentation. Goes out: uint8 RGB. What is drawn is what the
model would be given: the loader's own batches, masks in their cells. Called by the command line.
"""

import numpy as np

from keras_maskrcnn.data import DataLoader
from keras_maskrcnn.inference.visualize import above, beside, draw_batch_row

CAPTIONED = 20  # with more objects than this, names would hide the image


def preview_augmentation(dataset, config, augmentation, count=4, variants=3, seed=0, side=448):
    """A sheet with a row an image: as it is, then as it comes in the first epochs of training.

    With the same seed `DataLoader` gives training these very images.

    Args:
        dataset: a Dataset.
        config: MaskRCNNConfig.
        augmentation: as DataLoader takes it.
        count: int, how many images, taken evenly from the whole dataset.
        variants: int, epochs shown of each.
        seed: int, the loader's.
        side: pixels of the sheet for the longest side in a row.

    Returns:
        uint8 (h, w, 3). Regions to ignore are gray.
    """
    plain = DataLoader(dataset, config, 1)
    changed = DataLoader(dataset, config, 1, augmentation=augmentation, seed=seed)
    rows = []
    for position in np.unique(np.linspace(0, len(dataset) - 1, min(count, len(dataset))).round().astype(int)):
        batches = [plain[position]]
        for epoch in range(variants):
            changed.set_epoch(epoch)
            batches.append(changed[position])
        titles = [f"{_name(dataset[position])}: before", *(f"epoch {k + 1}" for k in range(variants))]
        scale = side / max(batch["image_sizes"].max() for batch in batches)
        rows.append(beside(_tiles([_picture(batch, dataset.class_names, scale) for batch in batches]), titles))
    return above(rows)


def _picture(batch, class_names, scale):
    captions = len(class_names) > 1 and batch["gt_valid"].sum() <= CAPTIONED
    return draw_batch_row(batch, 0, class_names, scale, captions)


def _tiles(pictures):
    """The pictures at the top left of light tiles, as large as the largest of each side."""
    size = np.max([picture.shape for picture in pictures], axis=0)
    tiles = np.full((len(pictures), *size), 225, np.uint8)
    for tile, picture in zip(tiles, pictures, strict=True):
        tile[: picture.shape[0], : picture.shape[1]] = picture
    return tiles


def _name(record):
    text = str(record.image_id)
    return text if len(text) <= 16 else f"{text[:15]}\u2026"
