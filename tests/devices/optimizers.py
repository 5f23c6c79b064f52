"""A process of test_devices.py: every kind of optimizer under MirroredStrategy on two logical CPUs, and on one device.

    python optimizers.py OUTPUT.json

The model is a dense layer, which compiles at once: without TensorFlow's graph optimiser, which takes longer than six
steps. Writes by how much the weights differ after them.
"""

import contextlib
import json
import sys

import keras
import numpy as np
import tensorflow as tf

from keras_maskrcnn import backend

ADAMW = {"weight_decay": 0.1, "epsilon": 0.01}
CASES = {
    "sgd": lambda: keras.optimizers.SGD(0.1, momentum=0.9),
    "clipped": lambda: keras.optimizers.SGD(0.1, global_clipnorm=0.5),
    "accumulated": lambda: keras.optimizers.AdamW(0.1, gradient_accumulation_steps=3, global_clipnorm=0.5, **ADAMW),
    "averaged": lambda: keras.optimizers.AdamW(0.1, use_ema=True, ema_momentum=0.9, ema_overwrite_frequency=3, **ADAMW),
    "scaled": lambda: keras.optimizers.LossScaleOptimizer(
        keras.optimizers.AdamW(0.1, gradient_accumulation_steps=3, global_clipnorm=0.5, **ADAMW)
    ),
}


def train(strategy, make):
    """Weights after six steps of two rows."""
    keras.utils.set_random_seed(0)
    rng = np.random.default_rng(0)
    data = rng.normal(size=(12, 4)).astype("float32"), 3 * rng.normal(size=(12, 1)).astype("float32")
    with strategy.scope() if strategy else contextlib.nullcontext():
        model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
        model.compile(make(), "mse", run_eagerly=strategy is None)
        model.optimizer.build(model.trainable_variables)
        backend.prepare_optimizer(model.optimizer, model)
    model.fit(tf.data.Dataset.from_tensor_slices(data).batch(2), epochs=1, verbose=0)
    return model.get_weights()


def main(output):
    """Train both ways and write the differences, and how far training moved the weights."""
    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})
    names = backend.own_devices(2)
    result = {}
    for case, make in CASES.items():
        alone, shared = train(None, make), train(tf.distribute.MirroredStrategy(names), make)
        differences = [float(np.abs(a - b).max()) for a, b in zip(alone, shared, strict=True)]
        result[case] = {"difference": max(differences), "size": float(np.abs(alone[0]).max())}
    with open(output, "w", encoding="utf-8") as file:
        json.dump(result, file)


if __name__ == "__main__":
    main(*sys.argv[1:])
