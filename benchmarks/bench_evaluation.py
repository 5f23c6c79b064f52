"""Evaluation in batches beside one image at a time: seconds an image, and the distance between their answers.

    python benchmarks/bench_evaluation.py --data ../shared/data/nuclei/val
    python benchmarks/bench_evaluation.py --data COCO/instances_val2017.json --images COCO/val2017 --count 200
    KERAS_BACKEND=jax python benchmarks/bench_evaluation.py --data COCO/instances_val2017.json --images COCO/val2017 \
        --backbone resnet50 --count 400 --batch-sizes 1 8      # on a GPU

"one at a time" is a loop: read, call the predictor, paste and encode the masks. The others are `Predictor.stream`, as
`evaluate_coco` uses it. All run in turn in one process; the first turn, which compiles, does not count. The model has
random weights and a threshold so low that each image has `--detections` detections, or is that of `--model`.
"""

import argparse
import functools
import statistics
import time

import keras
import numpy as np

import keras_maskrcnn as km
from keras_maskrcnn.runs.folder import find_model


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="annotations or folder of a dataset")
    parser.add_argument("--images", help="folder of the images")
    parser.add_argument("--count", type=int, help="of images; default: all")
    parser.add_argument("--model", help="a .keras file or run folder")
    parser.add_argument("--backbone", default="resnet18")
    parser.add_argument("--min-size", type=int, help="default: the size of the images")
    parser.add_argument("--detections", type=int, default=100)
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--runs", type=int, default=3)
    args = parser.parse_args()
    dataset = km.open_dataset(args.data, args.images)
    if args.model:
        model = keras.saving.load_model(find_model(args.model), compile=False)
    else:
        model = random_model(dataset, args)
    count = min(args.count or len(dataset), len(dataset))
    predictor = km.Predictor(model)
    ways = {"one at a time": functools.partial(alone, predictor, dataset, count)}
    ways |= {f"stream, {size}": functools.partial(stream, predictor, dataset, count, size) for size in args.batch_sizes}
    results, seconds = {name: way() for name, way in ways.items()}, {name: [] for name in ways}
    for _ in range(args.runs):
        for name, way in ways.items():
            began = time.perf_counter()
            way()
            seconds[name].append((time.perf_counter() - began) / count)
            print(f"  {name:15} {seconds[name][-1] * 1e3:8.1f} ms an image", flush=True)
    base = statistics.median(seconds["one at a time"])
    print(f"{count} images, {sum(map(len, results['one at a time']))} detections")
    for name, times in seconds.items():
        own = statistics.median(times)
        apart = distance(results["one at a time"], results[name])
        print(f"{name:15} {own * 1e3:8.1f} ms an image, {base / own:5.2f} times as fast; {apart}", flush=True)


def random_model(dataset, args):
    size = {"image_scale": 1.0} if args.min_size is None else {"min_size": args.min_size}
    config = km.MaskRCNNConfig(
        num_classes=len(dataset.class_names),
        class_names=dataset.class_names,
        category_ids=dataset.category_ids,
        backbone=args.backbone,
        score_threshold=0.0,
        max_detections=args.detections,
        **size,
    )
    return km.MaskRCNN(config)


def alone(predictor, dataset, count):
    """List of the COCO results of each image."""
    pixels = (predictor.config.num_channels, predictor.config.image_dtype)
    return [predictor(dataset.load_image(k, *pixels)).to_coco(k) for k in range(count)]


def stream(predictor, dataset, count, batch_size):
    """The same in batches."""
    pixels = (predictor.config.num_channels, predictor.config.image_dtype)
    sources = [functools.partial(dataset.load_image, k, *pixels) for k in range(count)]
    finish = lambda index, image, found: found.to_coco(index)  # noqa: E731
    sizes = dataset.image_sizes[:count]
    return [answer.result for answer in predictor.stream(sources, finish, batch_size, sizes, window=count)]


def distance(one, other):
    """The largest differences of boxes and scores, and the share of equal masks, in words."""
    pairs = [pair for pair in zip(one, other, strict=True) if len(pair[0]) == len(pair[1])]
    both = [(a, b) for pair in pairs for a, b in zip(*pair)]
    boxes = max((float(np.abs(np.subtract(a["bbox"], b["bbox"])).max()) for a, b in both), default=0.0)
    scores = max((abs(a["score"] - b["score"]) for a, b in both), default=0.0)
    masks = np.mean([a.get("segmentation") == b.get("segmentation") for a, b in both] or [1.0])
    odd = len(one) - len(pairs)
    return f"boxes differ by {boxes:.1e}, scores by {scores:.1e}; equal masks {masks:.4f}; other counts {odd}"


if __name__ == "__main__":
    main()
