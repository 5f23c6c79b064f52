"""A process of test_devices.py: trains the smallest model for five steps, on one device or on several.

    python five_steps.py DEVICES OUTPUT CASE...

DEVICES is a number, "all", or "none" for what the environment says. Sampling takes every anchor and RoI, so that no
random choice differs. The first process writes the weights and losses of each case to OUTPUT, and the weights that
training began with.

Two devices add the gradients of their images in another order than one does, so that gradients differ by 1e-7 of their
summands. SGD passes this on times its rate. AdamW divides each gradient by its own size: where a gradient is 0 but for
its rounding, the step has the full rate and a random sign, and the next losses differ. So `adamw_once` takes one step
with the usual epsilon, and `adamw` five steps with one that is larger than the rounding. In bfloat16 each device rounds
its gradients to 8 bits before they are added, so that sums differ by 1/256 of their summands: `bfloat16` has a low
rate.
"""

import json
import sys
import warnings

import keras
import numpy as np
from tiny import tiny_config
from torchvision_golden import sample_all

import keras_maskrcnn as km

CASES = {
    "plain": {},
    "uneven": {"images": 9},  # the last batch has one image
    "clipped": {"rate": 1e-2, "optimizer": {"gradient_accumulation_steps": 2, "global_clipnorm": 0.5, "use_ema": True}},
    "adamw": {"kind": keras.optimizers.AdamW, "optimizer": {"weight_decay": 0.01, "epsilon": 1e-2}},
    "adamw_once": {"images": 2, "kind": keras.optimizers.AdamW, "optimizer": {"weight_decay": 0.01}},
    "bfloat16": {"dtype": "mixed_bfloat16", "rate": 3e-5},
}


def dataset_of(count):
    """Noise images of one size, each with an object that fills it and a small one."""
    rng = np.random.default_rng(0)
    images, masks, labels = [], [], []
    for _ in range(count):
        images.append(rng.integers(0, 256, (64, 96, 3), np.uint8))
        masks.append(np.zeros((2, 64, 96), bool))
        masks[-1][0] = True
        y, x = rng.integers(0, 30, 2)
        masks[-1][1, y : y + 25, x : x + 35] = True
        labels.append(rng.integers(0, 3, 2).tolist())
    return km.data.ArrayDataset(images, masks, labels, class_names=("one", "two", "three"))


def train(team, images=10, kind=keras.optimizers.SGD, rate=1e-3, optimizer=None, dtype=None):
    """Steps of two images. Returns the weights before, a dict of arrays after, and one of figures."""
    keras.utils.set_random_seed(0)
    config = sample_all(tiny_config(class_names=("one", "two", "three")))
    model = km.MaskRCNN(config, seed=0, dtype=dtype)
    model.compile(kind(rate, **optimizer or {}))
    start = [keras.ops.convert_to_numpy(variable) for variable in model.weights]
    dataset = dataset_of(images)
    loader = km.DataLoader(dataset, config, 2, drop_last=False, fill_last=True, shard=team.shard)
    history = model.fit(loader, epochs=1, shuffle=False, verbose=0).history
    figures = {name: float(values[0]) for name, values in history.items()}
    averages = getattr(model.optimizer, "_model_variables_moving_average", ())
    arrays = {str(place): variable for place, variable in enumerate((*model.weights, *averages))}
    places = [str(list(map(id, model.weights)).index(id(variable))) for variable in model.trainable_variables]
    for name in ("momentums", "velocities"):  # AdamW's means of the gradients and of their squares
        found = getattr(model.optimizer, f"_{name}", ()) if kind is keras.optimizers.AdamW else ()
        arrays |= {f"{name}/{place}": variable for place, variable in zip(places, found, strict=False)}
    return start, {name: keras.ops.convert_to_numpy(variable) for name, variable in arrays.items()}, figures


def main(devices, output, *cases):
    """Train each case."""
    warnings.simplefilter("ignore")
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})  # graphs run five times
    arrays, figures = {}, {}
    devices = {"none": None, "all": "all"}.get(devices, devices)
    devices = int(devices) if devices and devices.isdigit() else devices
    with km.use_devices(devices) as team:
        for case in cases:
            start, own, figures[case] = train(team, **CASES[case])
            arrays |= {f"start/{place}": array for place, array in enumerate(start)}  # those of all cases
            arrays |= {f"{case}/{name}": array for name, array in own.items()}
        if team.first:
            np.savez(output, figures=json.dumps(figures), replicas=team.replicas, **arrays)
        team.agree(lambda: None)  # no process ends while another needs it


if __name__ == "__main__":
    main(*sys.argv[1:])
