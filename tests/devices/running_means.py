"""A process of test_devices.py: what is read from a metric of several replicas on TensorFlow, and given back to it.

    python running_means.py DEVICES

Prints the sum and the weight of a mean after each replica has seen the value 3 with weight 2: as `running_means`
reads it, and after `RestOfEpoch` has put that back.
"""

import sys
import types

import keras
import tensorflow as tf

import keras_maskrcnn as km
from keras_maskrcnn.runs.callbacks import RestOfEpoch, running_means


def main(devices):
    """Update, read, restore, read."""
    with km.use_devices(None if devices == "none" else int(devices)):
        mean = keras.metrics.Mean()
        model = types.SimpleNamespace(metrics_variables=mean.variables)
        tf.function(lambda: tf.distribute.get_strategy().run(lambda: mean.update_state(3.0, sample_weight=2.0)))()
        before = running_means(model)
        loader = types.SimpleNamespace(start_at=lambda epoch, batches: None)
        rest = RestOfEpoch(loader, 0, {"metrics": before, "batches": 1})
        rest.set_model(model)
        mean.reset_state()
        rest.on_epoch_begin(0)
        print(f"read {before}, then {running_means(model)}")


if __name__ == "__main__":
    main(*sys.argv[1:])
