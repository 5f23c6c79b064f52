"""Images per second on two cores: 640x480 JPEG and polygons -> flipped, resized, padded to 1024x1024 with masks.

    python benchmarks/bench_loader.py --torch-python VENV/bin/python

Ours is `DataLoader` with two threads, without its cache; theirs torchvision's `CocoDetection` and v2 transforms in a
`DataLoader` with two worker processes. Both give uint8 batches of four. The figures are milliseconds for 64 images.
"""

import json
import pathlib
import tempfile

import numpy as np
from pairs import main

FOLDER = pathlib.Path(tempfile.gettempdir()) / "keras_maskrcnn_benchmark_images"
COUNT, HEIGHT, WIDTH, CANVAS, BATCH = 64, 480, 640, 1024, 4
CASES = {f"{COUNT} images, {objects} objects each": {"objects": objects} for objects in (8, 40)}


def write_dataset(objects):
    """Write JPEG pictures with textures and COCO polygons of 24 points, once; the folder."""
    from PIL import Image

    folder = FOLDER / str(objects)
    if (folder / "annotations.json").exists():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    images, annotations = [], []
    turns = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    for number in range(COUNT):
        coarse = rng.integers(0, 256, (HEIGHT // 16, WIDTH // 16, 3), dtype=np.uint8)
        picture = Image.fromarray(coarse).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC)
        noise = rng.integers(-12, 13, (HEIGHT, WIDTH, 3))
        pixels = (np.asarray(picture).astype(int) + noise).clip(0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.jpg", quality=90)
        images.append({"id": number, "file_name": f"{number}.jpg", "height": HEIGHT, "width": WIDTH})
        for _ in range(objects):
            centre = rng.uniform([40, 40], [WIDTH - 40, HEIGHT - 40])
            radii = rng.uniform(10, 40) * rng.uniform(0.7, 1.0, 24)
            points = centre + np.stack([radii * np.cos(turns), radii * np.sin(turns)], axis=1)
            low, high = points.min(0), points.max(0)
            annotation = {"id": len(annotations) + 1, "image_id": number, "category_id": 1, "iscrowd": 0}
            annotation["segmentation"] = [points.round(2).ravel().tolist()]
            annotation["bbox"] = [*low.tolist(), *(high - low).tolist()]
            annotation["area"] = float((high - low).prod())
            annotations.append(annotation)
    text = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "blob"}]}
    (folder / "annotations.json").write_text(json.dumps(text))
    return folder


def ours(case):
    """All batches of an epoch, with two threads as in Keras."""
    from concurrent.futures import ThreadPoolExecutor

    import keras_maskrcnn as km
    from keras_maskrcnn.data.transforms.moves import RandomFlip, Resize

    folder = write_dataset(case["objects"])
    dataset = km.CocoDataset(folder / "annotations.json", folder)
    config = km.MaskRCNNConfig(1, min_size=CANVAS, max_size=CANVAS, max_instances=case["objects"])
    loader = km.DataLoader(
        dataset,
        config,
        batch_size=BATCH,
        transforms=[RandomFlip(), Resize(CANVAS, CANVAS)],
        canvas=(CANVAS, CANVAS),
        cache_bytes=0,
    )
    pool = ThreadPoolExecutor(2)

    def epoch():
        for batch in pool.map(loader.__getitem__, range(len(loader))):
            assert batch["images"].shape == (BATCH, CANVAS, CANVAS, 3)

    return epoch


def theirs(case):
    """The same with torchvision. Workers persist, so their start is not timed."""
    import torch
    from torchvision import tv_tensors
    from torchvision.datasets import CocoDetection, wrap_dataset_for_transforms_v2
    from torchvision.transforms import v2

    folder = FOLDER / str(case["objects"])
    transforms = v2.Compose(
        [v2.ToImage(), v2.RandomHorizontalFlip(0.5), v2.Resize(None, max_size=CANVAS), v2.SanitizeBoundingBoxes()]
    )
    dataset = CocoDetection(folder, folder / "annotations.json", transforms=transforms)
    dataset = wrap_dataset_for_transforms_v2(dataset, target_keys=["boxes", "labels", "masks"])

    def collate(samples):
        canvas = torch.zeros((len(samples), 3, CANVAS, CANVAS), dtype=torch.uint8)
        for row, (image, _) in enumerate(samples):
            canvas[row, :, : image.shape[1], : image.shape[2]] = image
        return canvas, [target for _, target in samples]

    loader = torch.utils.data.DataLoader(
        dataset, batch_size=BATCH, num_workers=2, collate_fn=collate, persistent_workers=True
    )

    def epoch():
        for images, targets in loader:
            assert images.shape == (BATCH, 3, CANVAS, CANVAS)
            assert isinstance(targets[0]["masks"], tv_tensors.Mask)

    return epoch


if __name__ == "__main__":
    main(__file__, CASES, ours, theirs, __doc__)
