"""A model on several devices and in several processes, by Keras' own means. The version for JAX.

On JAX one program computes the whole batch, and `keras.distribution.DataParallel` divides its rows among the devices of
all processes. `distribution_tensorflow.py` does the same by `tf.distribute`. Called by `runs/` and `model.py`.
"""

import atexit
import contextlib
import os
import re
import sys

import keras
import numpy as np

from keras_maskrcnn.backend.team import Team, collector

_PLACES = ("KERAS_DISTRIBUTION_JOB_ADDRESSES", "KERAS_DISTRIBUTION_NUM_PROCESSES")  # `keras.distribution.initialize`
_LOST = re.compile(r"\b(gloo|nccl|connection (closed|reset|refused)|coordination service)\b", re.IGNORECASE)
_ENDS = {"alone": False}
CAN_SHARE_UNEVENLY = False  # whether a batch may have more rows on one device than on another


def connect():
    """Join the other processes, if the environment names some. Returns the number of processes."""
    if keras.backend.backend() != "jax":
        return 1
    import jax

    if not jax.distributed.is_initialized():
        if not any(name in os.environ for name in _PLACES):
            return 1  # without a look at the devices, after which no CPU can be divided
        # On CPUs programs run side by side, and those in which processes meet began in another order here and there.
        jax.config.update("jax_cpu_enable_async_dispatch", False)
        keras.distribution.initialize()
        atexit.register(_end_without_the_others)  # before JAX's own, which waits for them
    return jax.process_count()


def leave():
    """Let this process end at once when it ends, though the others have not come as far: an error ends its work.

    JAX would wait for them for five minutes, while they wait for this one, and then abort. If this process ends, they
    notice.
    """
    _ENDS["alone"] = True


def _end_without_the_others():
    if _ENDS["alone"]:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(1)


def is_loss(error):
    """Whether an error says that another process is gone. JAX has no class for it."""
    return keras.backend.backend() == "jax" and _LOST.search(f"{type(error).__name__}: {error}") is not None


def own_devices(wanted=None):
    """Names of this process's devices: accelerators, else CPUs.

    Args:
        wanted: int or None. One CPU counts as so many, if nothing was computed yet and there is no accelerator.
    """
    if keras.backend.backend() != "jax":
        return keras.distribution.list_devices()
    import jax

    with contextlib.suppress(RuntimeError):  # the devices are in use
        if wanted is not None and "device_count" not in os.environ.get("XLA_FLAGS", ""):
            jax.config.update("jax_num_cpu_devices", wanted)
    return [f"{device.platform}:{device.id}" for device in jax.local_devices()]


@contextlib.contextmanager
def spread(names):
    """Make the models of this context for these devices of this process, and for as many of each other one.

    Yields:
        Team.
    """
    if keras.backend.backend() != "jax":
        raise ValueError(
            f"Several devices need the backends jax or tensorflow. Received {keras.backend.backend()}. "
            "Set KERAS_BACKEND, or leave the devices out."
        )
    import jax

    places = {index for index, device in enumerate(jax.local_devices()) if f"{device.platform}:{device.id}" in names}
    count = {}  # process -> its devices so far
    chosen = []
    for device in jax.devices():
        number = count.setdefault(device.process_index, 0)
        count[device.process_index] += 1
        if number in places:
            chosen.append(f"{device.platform}:{device.id}")
    distribution = keras.distribution.DataParallel(devices=chosen, auto_shard_dataset=False)
    with distribution.scope():
        yield team_of(None)


def team_of(model):
    """The Team of a model: of its processes and devices. One process and one device where none were named."""
    distribution = keras.distribution.distribution()
    if distribution is None or keras.backend.backend() != "jax":
        return Team()
    import jax

    place, replicas = (jax.process_index(), jax.process_count()), distribution.device_mesh.devices.size
    return Team(*place, replicas, place, collector(_rows_of_all) if place[1] > 1 else None)


def _rows_of_all(row):
    from jax.experimental import multihost_utils

    return np.asarray(multihost_utils.process_allgather(row))


def local_prediction(model):
    """A function from a batch to detections that this process's first device computes, without the others.

    None where the model is on one device: Keras' own does it.
    """
    if keras.backend.backend() != "jax" or keras.distribution.distribution() is None:
        return None
    import jax

    run = jax.jit(lambda *arrays: model.stateless_call(*arrays, training=False)[0])

    def predict(batch):
        own = [[variable.value.addressable_data(0) for variable in group] for group in _variables(model)]
        return jax.tree.map(np.asarray, run(*own, batch))

    return predict


def _variables(model):
    return model.trainable_variables, model.non_trainable_variables


def uses_average(optimizer):
    """Whether an optimizer keeps averaged weights, also if it is wrapped by one that scales the loss (float16)."""
    return getattr(getattr(optimizer, "inner_optimizer", optimizer), "use_ema", False)


def prepare_optimizer(optimizer, model):
    """Let an optimizer clip, accumulate and average the gradients of the whole batch. On JAX it does.

    At the end of `fit` Keras 3.15 gives the model's variables the very arrays of their averages (`use_ema`). The next
    prediction hands them over to XLA, and the averages are lost: neither `save` nor `fit` works any more. So the model
    gets copies.
    """
    if keras.backend.backend() != "jax" or not uses_average(optimizer):
        return

    def finalize(variables):
        type(optimizer).finalize_variable_values(optimizer, variables)
        for variable in variables:
            variable.assign(variable.value.copy())

    optimizer.finalize_variable_values = finalize


def logs_of_replica(logs):
    """What `fit` takes as the losses of one replica."""
    return logs
