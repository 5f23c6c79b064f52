"""Images per second on two cores: 640x480 JPEG and polygons -> flipped, resized, padded to 1024x1024 with masks.

    python benchmarks/bench_loader.py --torch-python VENV/bin/python

Ours is `DataLoader` with two threads, without its cache; theirs torchvision's `CocoDetection` and v2 transforms in a
`DataLoader` with two worker processes. Both give uint8 batches of four. The figures are milliseconds for 64 images.

    python benchmarks/bench_loader.py --workers 1 2 16

compares threads with processes, these many of each, in turns, on images with 8 objects, flipped and colour-jittered. It
prints images per second, the CPU time of an image in all processes, which other load changes less, and the memory that
each worker process has for itself.
"""

import argparse
import json
import os
import pathlib
import statistics
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from pairs import main

FOLDER = pathlib.Path(tempfile.gettempdir()) / "keras_maskrcnn_benchmark_images"
COUNT, HEIGHT, WIDTH, CANVAS, BATCH = 64, 480, 640, 1024, 4
CASES = {f"{COUNT} images, {objects} objects each": {"objects": objects} for objects in (8, 40)}
KINDS = ("thread", "process")


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


def compare_workers():
    """Time threads and processes in turns, and print images per second."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, nargs="+", required=True, help="numbers of threads and of processes")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS, help="of workers")
    parser.add_argument("--runs", type=int, default=5, help="timed runs of each")
    parser.add_argument("--images", type=int, default=256, help="images in a run; take more for many workers")
    args = parser.parse_args()
    register_package()
    cases = [(kind, count) for kind in args.kinds for count in args.workers]
    makers = {case: _maker(*case) for case in cases}
    rates, costs = {case: [] for case in cases}, {case: [] for case in cases}
    for run in range(args.runs + 1):  # the first one starts the workers
        for case, maker in makers.items():
            batches, begun = -(-args.images // BATCH), _cpu_seconds(maker)
            seconds = _seconds(maker, case, batches)
            if run:
                rates[case].append(batches * BATCH / seconds)
                costs[case].append((_cpu_seconds(maker) - begun) / (batches * BATCH) * 1e3)
    columns = f"{'workers':>12} {'images/s':>10} {'CPU ms an image':>16} {'own memory of a worker, MB':>28}"
    print(f"{columns}   medians of {args.runs} in turns")
    for (kind, count), maker in makers.items():
        rate, cost = (statistics.median(values[kind, count]) for values in (rates, costs))
        print(f"{count:4} {kind:>7} {rate:10.1f} {cost:16.1f} {_own_memory(maker):>28}")
        maker.close()


def _maker(kind, count):
    from keras_maskrcnn.config import MaskRCNNConfig
    from keras_maskrcnn.data import CocoDataset, ColorJitter, RandomFlip, Resize
    from keras_maskrcnn.data.loading.batches import BatchMaker

    folder = write_dataset(8)
    return BatchMaker(
        CocoDataset(folder / "annotations.json", folder),
        MaskRCNNConfig(1, min_size=CANVAS, max_size=CANVAS, max_instances=8),
        batch_size=BATCH,
        transforms=[RandomFlip(), Resize(CANVAS, CANVAS), ColorJitter(0.2, 0.2, 0.2, 0.02)],
        canvas=(CANVAS, CANVAS),
        cache_bytes=0,
        workers=count,
        worker_type=kind,
    )


def _seconds(maker, case, batches):
    """Seconds for so many batches, asked for as Keras' threads do."""
    kind, count = case
    started = time.perf_counter()
    with ThreadPoolExecutor(count + (kind == "process")) as threads:
        for batch in threads.map(lambda index: maker[index % len(maker)]["images"].shape, range(batches)):
            assert batch == (BATCH, CANVAS, CANVAS, 3)
    return time.perf_counter() - started


def _cpu_seconds(maker):
    """Of this process and of the maker's workers, where the system has /proc."""
    seconds = time.process_time()
    for number in [] if maker._pool is None else maker._pool.process_ids:
        stat = pathlib.Path(f"/proc/{number}/stat")
        fields = stat.read_text().rpartition(")")[2].split() if stat.exists() else [0] * 13
        seconds += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return seconds


def _own_memory(maker):
    pool = maker._pool
    if pool is None or not pathlib.Path("/proc/self/smaps_rollup").exists():
        return "-"
    texts = [pathlib.Path(f"/proc/{number}/smaps_rollup").read_text() for number in pool.process_ids]
    own = [sum(int(line.split()[1]) for line in text.splitlines() if line.startswith("Private")) for text in texts]
    return f"{min(own) / 1e3:.0f} to {max(own) / 1e3:.0f}"


def register_package():
    """Import the package's modules one by one: the loader needs no framework."""
    sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))
    import keras_maskrcnn_launcher

    keras_maskrcnn_launcher.register_package()


if __name__ == "__main__":
    if "--workers" in sys.argv:
        compare_workers()
    else:
        main(__file__, CASES, ours, theirs, __doc__)
