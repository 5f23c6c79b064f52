"""`distribution.py` for TensorFlow: `tf.distribute.MirroredStrategy`, and `MultiWorkerMirroredStrategy` by TF_CONFIG.

Each replica computes the loss of its rows. Their gradients are summed before the optimizer sees them, so that it clips,
accumulates and averages those of the whole batch.
"""

import contextlib
import functools
import os

import keras
import tensorflow as tf

from keras_maskrcnn.backend.team import Team, collector
from keras_maskrcnn.host.processes import place_among_processes, tasks_of

CAN_SHARE_UNEVENLY = True


class OwnShards(tf.distribute.MultiWorkerMirroredStrategy):
    """The strategy for data of which each process loads its own part: TensorFlow does not divide them once more."""

    def experimental_distribute_dataset(self, dataset, options=None):
        """Divide each batch among the devices of this process alone."""
        devices = self.num_replicas_in_sync // team_of_strategy(self).count
        return self.distribute_datasets_from_function(lambda context: divided(dataset, devices), options)


def divided(dataset, parts):
    """A dataset of batches, each in equal parts, one after the other."""
    if parts == 1:
        return dataset

    def divide(batch):
        rows = tf.shape(tf.nest.flatten(batch)[0], out_type=tf.int64)[0]
        return tf.data.Dataset.from_tensor_slices(batch).batch(rows // parts)

    return dataset.flat_map(divide)


def connect():
    """Read TF_CONFIG. Returns the number of processes that it names; `spread` connects them."""
    return place_among_processes()[1]


def leave():
    """Nothing is to be done: a process whose work an error ends does not wait for the others."""


def is_loss(error):
    """Whether an error says that another process is gone: TensorFlow noticed at an operation, or asked in vain."""
    return isinstance(error, tf.errors.OpError) and "collective ops is aborted" in str(error).lower()


def own_devices(wanted=None):
    """Names of this process's devices: GPUs, else CPUs.

    Args:
        wanted: int or None. One CPU counts as so many, if nothing was computed yet and there is no GPU.
    """
    if wanted is not None and not tf.config.list_physical_devices("GPU"):
        with contextlib.suppress(RuntimeError):  # the devices are in use
            parts = [tf.config.LogicalDeviceConfiguration()] * wanted
            tf.config.set_logical_device_configuration(tf.config.list_physical_devices("CPU")[0], parts)
    if os.environ.get("TF_CONFIG"):  # logical devices cannot be listed before the processes are connected
        found = tf.config.list_physical_devices("GPU") or tf.config.list_physical_devices("CPU")
    else:
        found = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
    return [device.name.split("device:")[-1] for device in found]


@contextlib.contextmanager
def spread(names):
    """Make the models of this context for these devices of this process, and for all of each other one.

    Yields:
        Team.
    """
    strategy = OwnShards() if connect() > 1 else tf.distribute.MirroredStrategy(names)
    with strategy.scope():
        yield team_of_strategy(strategy)


def team_of(model):
    """The Team of a model: of its processes and devices."""
    return team_of_strategy(getattr(model, "distribute_strategy", None) or tf.distribute.get_strategy())


def team_of_strategy(strategy):
    """The Team of a `tf.distribute` strategy."""
    resolver, replicas = strategy.cluster_resolver, strategy.num_replicas_in_sync
    several = isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy)
    tasks = tasks_of(resolver.cluster_spec().as_dict()) if several else []
    if len(tasks) < 2:
        return Team(replicas=replicas)
    place = tasks.index((resolver.task_type, resolver.task_id)), len(tasks)
    shard = place if isinstance(strategy, OwnShards) else (0, 1)  # others divide the data themselves
    return Team(*place, replicas, shard, _collector(strategy, replicas // len(tasks)))


@functools.lru_cache(maxsize=1)
def _collector(strategy, devices):
    """A function from bytes to the bytes of all processes, which have so many devices each."""

    @tf.function(input_signature=[tf.TensorSpec((None,), tf.int32)])  # traced once
    def all_of(row):
        def gathered():
            return tf.distribute.get_replica_context().all_gather(row[None], axis=0)

        return strategy.experimental_local_results(strategy.run(gathered))[0][::devices]

    return collector(lambda row: all_of(row).numpy())


def local_prediction(model):
    """A function from a batch to detections that this process's first device computes, without the others.

    None where the model is on one device: Keras' own does it.
    """
    if model.distribute_strategy.num_replicas_in_sync == 1:
        return None
    run = tf.function(lambda batch: model(batch, training=False), reduce_retracing=True)
    return lambda batch: tf.nest.map_structure(lambda tensor: tensor.numpy(), run(batch))


def prepare_optimizer(optimizer, model):
    """Let an optimizer clip, accumulate and average the gradients of the whole batch.

    Keras 3.15 clips those of each replica, and adds them up inside a condition, which replicas cannot meet in
    (keras#20585). Here they meet first. Then each updates its own copy of the variables, all with the same numbers.
    """
    if model.distribute_strategy.num_replicas_in_sync == 1 or hasattr(optimizer, "apply_alone"):
        return
    optimizer.apply_alone = optimizer.apply
    inner = getattr(optimizer, "inner_optimizer", optimizer)  # float16: wrapped by one that scales the loss
    inner._all_reduce_sum_gradients = lambda pairs: pairs
    for variable in (*optimizer.variables, *inner.variables):
        variable.value._aggregation = tf.VariableAggregation.NONE

    def apply(grads, trainable_variables=None):
        context = tf.distribute.get_replica_context()
        known = [gradient for gradient in grads if gradient is not None]
        summed = iter(context.all_reduce(tf.distribute.ReduceOp.SUM, known))
        grads = [gradient if gradient is None else next(summed) for gradient in grads]
        with _no_meeting(context.strategy):
            return optimizer.apply_alone(grads, trainable_variables)

    optimizer.apply = apply


@contextlib.contextmanager
def _no_meeting(strategy):
    """Updates of variables inside this are those of one replica, as TensorFlow has it for XLA on GPUs."""
    strategy.extended._use_merge_call = lambda: False
    try:
        yield
    finally:
        del strategy.extended._use_merge_call


def logs_of_replica(logs):
    """What `fit` takes as the losses of one replica: with several processes it averages along an axis (keras#20329)."""
    strategy = tf.distribute.get_strategy()
    if not isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy) or tf.distribute.in_cross_replica_context():
        return logs
    return keras.tree.map_structure(lambda value: tf.reshape(value, (1,)), logs)
