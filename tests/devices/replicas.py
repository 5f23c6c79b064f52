"""A process of test_replicas.py: trains under tf.distribute.MirroredStrategy on two logical CPUs, and on one device.

    python replicas.py CASE OUTPUT.json

Sampling takes every anchor and RoI, so that no random choice differs. Writes the losses of both, and by how much the
weights differ after five steps.
"""

import contextlib
import json
import sys

import numpy as np
import tensorflow as tf

tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
)

import keras  # noqa: E402
from tiny import random_batch, tiny_config  # noqa: E402
from torchvision_golden import sample_all  # noqa: E402

import keras_maskrcnn as km  # noqa: E402

CASES = {
    "uneven": {"images": 9},
    "averaged": {"optimizer": {"use_ema": True, "ema_momentum": 0.9}},
    "bfloat16": {"dtype": "mixed_bfloat16"},
}


def train(strategy, images=10, optimizer=None, dtype=None):
    """(history, weights) of five steps of two images, the last of which may have one."""
    sizes = [(64, 96), (64, 64), (48, 96), (64, 80), (40, 40)] * 2
    batch = random_batch(sizes[:images], (64, 96))
    keras.utils.set_random_seed(0)
    with strategy.scope() if strategy else contextlib.nullcontext():
        model = km.MaskRCNN(sample_all(tiny_config()), seed=0, dtype=dtype)
        model.compile(keras.optimizers.SGD(1e-3, momentum=0.9, **optimizer or {}))
    options = tf.data.Options()
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.DATA
    data = tf.data.Dataset.from_tensor_slices(batch).batch(2).with_options(options)
    history = model.fit(data, epochs=1, shuffle=False, verbose=0).history
    return history, model.get_weights()


def main(case, output):
    """Train both ways and write the comparison."""
    alone, expected = train(None, **CASES[case])
    shared, weights = train(tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]), **CASES[case])
    result = {
        "alone": {name: values[0] for name, values in alone.items()},
        "shared": {name: values[0] for name, values in shared.items()},
        "difference": float(max(np.abs(a - b).max() for a, b in zip(weights, expected, strict=True))),
    }
    with open(output, "w", encoding="utf-8") as file:
        json.dump(result, file)


if __name__ == "__main__":
    main(*sys.argv[1:])
