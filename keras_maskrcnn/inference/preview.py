"""One picture of some images before and after augmentation, to look at before training.

A dataset, the model's config and an augmentation come in, uint8 RGB goes out. It draws the batches that training is
given, with masks as they are stored in a batch. Called by the command line; imports no framework.
"""

import numpy as np

from keras_maskrcnn.data.loading.batches import BatchMaker
from keras_maskrcnn.inference.visualize import above, beside, draw_batch_row

CAPTIONED = 20  # with more objects, names would hide the image


def preview_augmentation(dataset, config, augmentation, count=4, variants=3, seed=0, side=448):
    """Draw a row for each image: the original, then its augmented form in the first epochs of training.

    `DataLoader` gives training the same images if its seed is the same.

    Args:
        dataset: a Dataset.
        config: MaskRCNNConfig.
        augmentation: as in DataLoader.
        count: int, number of images, taken at equal distances from the whole dataset.
        variants: int, number of epochs to show of each image.
        seed: int, the loader's.
        side: length of the longest side in a row, pixels of the sheet.

    Returns:
        uint8 (h, w, 3). Regions that training ignores are gray.
    """
    plain = BatchMaker(dataset, config, 1)
    changed = BatchMaker(dataset, config, 1, augmentation=augmentation, seed=seed)
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
    """Put each picture at the top left of a light tile; all tiles have the height and width of the largest."""
    size = np.max([picture.shape for picture in pictures], axis=0)
    tiles = np.full((len(pictures), *size), 225, np.uint8)
    for tile, picture in zip(tiles, pictures, strict=True):
        tile[: picture.shape[0], : picture.shape[1]] = picture
    return tiles


def _name(record):
    text = str(record.image_id)
    return text if len(text) <= 16 else f"{text[:15]}\u2026"
