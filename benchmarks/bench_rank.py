"""`rank` beside random choice: AP after labelling more images of a dataset, over several seeds.

    python benchmarks/bench_rank.py --train ../shared/data/nuclei/train --val ../shared/data/nuclei/val --seeds 5
    python benchmarks/bench_rank.py --train ... --val ... --seeds 1 --steps 20 --val-count 8     # does it run?

For each seed a part of the training images (`--initial`) counts as labelled, the rest as not. A small model is trained
on the part for `--steps`. Then as many images as `--add` says are added, either the first ones of `rank` or random
ones. With each of the two sets training is done again from `--more-steps` before its end. All are measured on the
validation images. Reported are the AP of masks of both, and the mean difference with its 95 % interval (Student's t).

One model is compiled once for all trainings; its variables are put back in between.
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
    parser.add_argument("--pool", type=int, help="of images to choose from, random ones of the rest; default: all")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first-seed", type=int, default=0, help="to go on where another run ended")
    parser.add_argument("--steps", type=int, default=400, help="of the training on the first images")
    parser.add_argument("--more-steps", type=int, help="of each training with added images; default: half of --steps")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--size", type=int, default=256, help="shorter side of the images for the network, pixels")
    parser.add_argument("--crop", type=int, default=192, help="of the windows that are trained on, network pixels")
    parser.add_argument("--val-count", type=int, help="of validation images, evenly spread; default: all")
    parser.add_argument("--backbone", default="resnet10")
    args = parser.parse_args()
    args.more_steps = args.more_steps or max(1, args.steps // 2)
    train, val = km.open_dataset(args.train), km.open_dataset(args.val)
    if args.val_count:
        places = np.unique(np.linspace(0, len(val) - 1, args.val_count).round().astype(int))
        val = subset(val, places.tolist(), "validation")
    trainer = Trainer(train, val, args)
    report([one_seed(trainer, train, args, seed) for seed in range(args.first_seed, args.first_seed + args.seeds)])


def one_seed(trainer, train, args, seed):
    """(AP before, AP with ranked images, AP with random ones)."""
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(train)).tolist()
    first, more = (max(1, round(share * len(train))) for share in (args.initial, args.add))
    labelled, rest = order[:first], order[first:][: args.pool]
    files = list(train.records.files())
    started = time.perf_counter()
    trainer.restart(seed)
    trainer.fit(labelled, args.steps - args.more_steps, seed)
    middle = trainer.state()
    trainer.fit(labelled, args.more_steps, seed + 100)
    before = trainer.measure()
    ranked, _ = km.rank(trainer.model, [files[k] for k in rest], more, [files[k] for k in labelled])
    chosen = [rest[one.position] for one in ranked]
    results = []
    for added in (chosen, rest[:more]):  # `rest` is in random order
        trainer.set_state(middle)
        trainer.fit(labelled + added, args.more_steps, seed + 100)
        results.append(trainer.measure())
    print(
        f"seed {seed}: {first} images {before:.4f}; {more} more by rank {results[0]:.4f}, at random {results[1]:.4f} "
        f"({time.perf_counter() - started:.0f} s)",
        flush=True,
    )
    return before, *results


class Trainer:
    """A model that is compiled once and trained many times."""

    def __init__(self, train, val, args):
        self.train, self.val, self.args = train, val, args
        self.model = km.MaskRCNN(config_for(train, args))
        schedule = keras.optimizers.schedules.CosineDecay(1e-3, args.steps)
        self.model.compile(keras.optimizers.AdamW(schedule, clipnorm=1.0))
        self.first = self.state()

    def state(self):
        """Arrays of all variables: weights, moments, steps, and the state of sampling."""
        return [np.copy(keras.ops.convert_to_numpy(variable)) for variable in self._variables()]

    def set_state(self, values):
        """Put the arrays of `state` back."""
        for variable, value in zip(self._variables(), values, strict=True):
            variable.assign(value)

    def _variables(self):
        return [*self.model.variables, *self.model.optimizer.variables]

    def restart(self, seed):
        """The first state, with weights that the seed draws."""
        self.set_state(self.first)
        keras.utils.set_random_seed(seed)
        self.model.set_weights(km.MaskRCNN(self.model.config, seed=seed).get_weights())

    def fit(self, positions, steps, seed):
        """Train on some of the images, whole epochs: the schedule ends at a rate of 0."""
        data = subset(self.train, sorted(positions), f"{len(positions)} images")
        config, args = self.model.config, self.args
        loader = km.DataLoader(
            data,
            config,
            min(args.batch, len(data)),
            shuffle=True,
            seed=seed,
            augmentation=km.data.preset("light", config, args.crop, True),
        )
        self.model.fit(loader, epochs=math.ceil(steps / len(loader)), verbose=0)

    def measure(self):
        """AP of masks on the validation images."""
        return km.evaluate_coco(self.model, self.val)["segm_AP"]


def config_for(dataset, args):
    """A model that is small enough for two CPU cores."""
    most = max(100, dataset.max_instances)
    return km.MaskRCNNConfig(
        num_classes=len(dataset.class_names),
        class_names=dataset.class_names,
        category_ids=dataset.category_ids,
        backbone=args.backbone,
        norm="batch",
        min_size=args.size,
        max_size=args.size * 3 // 2,
        fpn_channels=64,
        anchor_sizes=(8, 16, 32, 64, 128),
        train_pre_nms=500,
        train_post_nms=500,
        test_pre_nms=500,
        test_post_nms=500,
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
