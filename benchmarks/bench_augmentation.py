"""Cost of augmentation per image in the loader, compared with no augmentation.

    python benchmarks/bench_augmentation.py --runs 5

640x480 JPEGs with 8 objects each become 768x1024 network pixels on a 1024 canvas, 28x28 masks. One thread, no
cache. Prints milliseconds of processor time per image, medians of alternating runs.
"""

import argparse
import json
import pathlib
import statistics
import tempfile
import time

import numpy as np
from PIL import Image

from keras_maskrcnn.config import MaskRCNNConfig
from keras_maskrcnn.data import (
    CocoDataset,
    ColorJitter,
    CopyPaste,
    DataLoader,
    LargeScaleJitter,
    RandomBlur,
    RandomFlip,
    RandomJpeg,
    RandomNoise,
    RandomRotate90,
    RandomRotation,
    Resize,
)

NUM_IMAGES, NUM_OBJECTS = 16, 8
RESIZE = Resize(768, 1024)
CASES = {
    "none": [],
    "RandomFlip": [RandomFlip()],
    "RandomRotate90": [RandomRotate90()],
    "RandomRotation(30)": [RandomRotation(30)],
    "LargeScaleJitter()": [LargeScaleJitter()],
    "ColorJitter(hue=0.05)": [ColorJitter(0.4, 0.4, 0.4, 0.05)],
    "RandomBlur": [RandomBlur()],
    "RandomNoise": [RandomNoise()],
    "RandomJpeg": [RandomJpeg()],
    "CopyPaste (reads a second image)": [CopyPaste((RESIZE,))],
    '"light"': "light",
    '"strong"': "strong",
}


def write_dataset(folder):
    """Smooth random pictures as JPEG, with 12-cornered polygons on them."""
    rng = np.random.default_rng(0)
    images, annotations = [], []
    for number in range(1, NUM_IMAGES + 1):
        small = Image.fromarray(rng.integers(0, 256, (30, 40, 3), np.uint8))
        small.resize((640, 480), Image.Resampling.BICUBIC).save(folder / f"{number}.jpg", quality=90)
        images.append({"id": number, "file_name": f"{number}.jpg", "height": 480, "width": 640})
        for _ in range(NUM_OBJECTS):
            radius, angles = rng.uniform(15, 110), np.arange(12) * (np.pi / 6)
            middle = rng.uniform(radius, [640 - radius, 480 - radius])
            points = middle + radius * rng.uniform(0.6, 1, (12, 1)) * np.stack([np.cos(angles), np.sin(angles)], 1)
            annotation = {"image_id": number, "category_id": 1, "iscrowd": 0, "segmentation": [points.ravel().tolist()]}
            annotations.append(annotation | {"id": len(annotations) + 1})
    content = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "thing"}]}
    (folder / "annotations.json").write_text(json.dumps(content))
    return CocoDataset(folder / "annotations.json", folder)


def milliseconds(loader):
    """One pass over the dataset, milliseconds of processor time per image."""
    started = time.thread_time()
    for index in range(len(loader)):
        loader[index]
    loader.on_epoch_end()
    return (time.thread_time() - started) * 1000 / NUM_IMAGES


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=5)
    runs = parser.parse_args().runs
    with tempfile.TemporaryDirectory() as folder:
        dataset = write_dataset(pathlib.Path(folder))
        config = MaskRCNNConfig(
            num_classes=1, class_names=("thing",), min_size=768, max_size=1024, max_instances=50, gt_mask_size=28
        )
        loaders = {
            name: DataLoader(dataset, config, 1, canvas=(1024, 1024), augmentation=case, cache_bytes=0)
            for name, case in CASES.items()
        }
        times = {name: [] for name in CASES}
        for _ in range(runs):
            for name, loader in loaders.items():
                times[name].append(milliseconds(loader))
    base = statistics.median(times["none"])
    print("| augmentation | ms an image | more than none |\n|---|---|---|")
    for name, values in times.items():
        print(f"| {name} | {statistics.median(values):.1f} | {statistics.median(values) - base:+.1f} |")


if __name__ == "__main__":
    main()
