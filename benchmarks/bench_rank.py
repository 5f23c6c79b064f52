"""`rank` beside random choice: AP after labelling more images of a dataset, over several seeds.

    python benchmarks/bench_rank.py --train ../shared/data/nuclei/train --val ../shared/data/nuclei/val --seeds 5
    python benchmarks/bench_rank.py --train ... --val ... --seeds 1 --steps 20 --val-count 8     # only: does it run

For each seed a part of the training images (`--initial`) counts as labelled, the rest as not. A small model is trained
on the part. Then as many images as `--add` says are added, either the first ones of `rank` or random ones, and a model
with the same first weights is trained on each of the two sets, for the same number of steps. Both are measured on the
validation images. Reported are the AP of masks of both, and the mean difference with its 95 % interval (Student's t).
"""

import argparse
import math
import time

import keras
import numpy as np
from scipy import stats

import keras_maskrcnn as km
from keras_maskrcnn.data.split import subset


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", required=True, help="annotations or folder of a dataset")
    parser.add_argument("--val", required=True)
    parser.add_argument("--initial", type=float, default=0.1, help="share of the training images that has labels")
    parser.add_argument("--add", type=float, default=0.1, help="share of the training images that is added")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=600, help="of each of the three trainings of a seed")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--crop", type=int, default=256)
    parser.add_argument("--val-count", type=int, help="of validation images, evenly spread; default: all")
    parser.add_argument("--backbone", default="resnet10")
    args = parser.parse_args()
    train, val = km.open_dataset(args.train), km.open_dataset(args.val)
    if args.val_count:
        places = np.unique(np.linspace(0, len(val) - 1, args.val_count).round().astype(int))
        val = subset(val, places.tolist(), "validation")
    rows = [one_seed(train, val, args, seed) for seed in range(args.seeds)]
    report(rows)


def one_seed(train, val, args, seed):
    """(AP before, AP with ranked images, AP with random ones)."""
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(train)).tolist()
    first, more = (max(1, round(share * len(train))) for share in (args.initial, args.add))
    labelled, rest = order[:first], order[first:]
    files = list(train.records.files())
    started = time.perf_counter()
    model, before = trained(train, labelled, val, args, seed)
    ranked, _ = km.rank(model, [files[k] for k in rest], more, [files[k] for k in labelled])
    chosen = [rest[one.position] for one in ranked]
    by_rank = trained(train, labelled + chosen, val, args, seed)[1]
    by_chance = trained(train, labelled + rest[:more], val, args, seed)[1]  # `rest` is in random order
    print(
        f"seed {seed}: {first} images {before:.4f}; {more} more by rank {by_rank:.4f}, at random {by_chance:.4f} "
        f"({time.perf_counter() - started:.0f} s)",
        flush=True,
    )
    return before, by_rank, by_chance


def trained(train, positions, val, args, seed):
    """(model, its AP of masks) after `--steps` on some of the images."""
    keras.utils.set_random_seed(seed)
    data = subset(train, sorted(positions), f"{len(positions)} images")
    model = km.MaskRCNN(config_for(train, args), seed=seed)
    augmentation = km.data.preset("light", model.config, args.crop, True)
    loader = km.DataLoader(
        data, model.config, min(args.batch, len(data)), shuffle=True, seed=seed, augmentation=augmentation
    )
    schedule = keras.optimizers.schedules.CosineDecay(1e-3, args.steps)
    model.compile(keras.optimizers.AdamW(schedule, clipnorm=1.0))
    model.fit(loader, epochs=math.ceil(args.steps / len(loader)), verbose=0)
    return model, km.evaluate_coco(model, val)["segm_AP"]


def config_for(dataset, args):
    """A model that is small enough for two CPU cores, at the images' own scale."""
    most = max(100, dataset.max_instances)
    return km.MaskRCNNConfig(
        num_classes=len(dataset.class_names),
        class_names=dataset.class_names,
        category_ids=dataset.category_ids,
        backbone=args.backbone,
        norm="batch",
        image_scale=1.0,
        fpn_channels=64,
        anchor_sizes=(8, 16, 32, 64, 128),
        train_pre_nms=500,
        train_post_nms=500,
        roi_samples=64,
        mask_samples=16,
        box_features=256,
        mask_convs=2,
        mask_channels=64,
        max_instances=most,
        max_detections=most,
    )


def report(rows):
    before, by_rank, by_chance = np.array(rows).T
    print(f"segm AP before {before.mean():.4f}, by rank {by_rank.mean():.4f}, at random {by_chance.mean():.4f}")
    gains = by_rank - by_chance
    if len(gains) > 1:
        half = stats.t.ppf(0.975, len(gains) - 1) * gains.std(ddof=1) / math.sqrt(len(gains))
        low, high = gains.mean() - half, gains.mean() + half
        print(f"rank beyond random: {gains.mean():+.4f} (95 % interval {low:+.4f} to {high:+.4f})")


if __name__ == "__main__":
    main()
