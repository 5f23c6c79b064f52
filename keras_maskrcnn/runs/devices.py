"""`use_devices`: train one model on several devices, and in several processes.

In: which devices. Out: a `Team`, which says what this process loads and whether it writes the files. Called by the
command line and by users; `experiment.py` finds the Team of a model by itself.
"""

import contextlib
import io
import logging

from keras_maskrcnn import backend
from keras_maskrcnn.data import DataLoader
from keras_maskrcnn.host.messages import argument
from keras_maskrcnn.host.processes import place_among_processes

ALL = "all"

_LOG = logging.getLogger(__name__)


@contextlib.contextmanager
def use_devices(devices=ALL):
    """Spread the models that are made inside this over several devices. Make, compile and train them there.

    TensorFlow: `tf.distribute.MirroredStrategy`; with several processes, which TF_CONFIG names,
    `MultiWorkerMirroredStrategy`. JAX: `keras.distribution.DataParallel`; several processes join by
    `keras.distribution.initialize`, which reads KERAS_DISTRIBUTION_JOB_ADDRESSES, KERAS_DISTRIBUTION_NUM_PROCESSES
    and KERAS_DISTRIBUTION_PROCESS_ID. Several processes must come here before anything is computed.

        with km.use_devices(2) as team:
            model = km.maskrcnn_resnet50_fpn(num_classes=3)
            model.compile(km.sgd(0.02))
            loader = km.DataLoader(dataset, model.config, batch_size=8, shuffle=True, shard=team.shard)
            km.train_model(model, loader, val, "run", epochs=10)

    Args:
        devices: "all" devices of each process, a number of them, or None: one, or all where there are several
            processes. A number on a machine without accelerators divides its CPU, to try things out: it gets no
            faster.

    Yields:
        backend.team.Team, whose `shard` the DataLoader takes.

    Raises:
        ValueError: another number of devices than there are; a number, where there are several processes; an
            environment that cannot be read.
        ConnectionError: another process ended before the work was done.
    """
    _check(devices)
    index, expected = place_among_processes()  # its errors are clearer than those of the frameworks
    if expected > 1:
        _LOG.info("process %d of %d, which waits for the others", index + 1, expected)
    count = backend.connect()
    if devices is None:
        devices = ALL if count > 1 else 1
    if devices != ALL and count > 1:
        raise ValueError(
            f"Several processes train on all devices of each. Received {argument('devices', devices)} and {count} "
            f"processes. Leave it out; CUDA_VISIBLE_DEVICES hides a process's devices."
        )
    if devices == count == 1:
        yield backend.team_of(None)
        return
    names = backend.own_devices(None if devices == ALL else devices)
    if devices != ALL and len(names) < devices:
        raise ValueError(
            f"A model is spread over devices that are there. Received {argument('devices', devices)}, and there are "
            f"{len(names)}: {', '.join(names)}. Ask for fewer"
            + (", before anything is computed: a CPU is divided first." if _are_cpus(names) else ".")
        )
    names = names if devices == ALL else names[:devices]
    if len(names) == count == 1:
        yield backend.team_of(None)
        return
    with _ending_with_the_others(count), backend.spread(names) as team:
        yield team


@contextlib.contextmanager
def _ending_with_the_others(count):
    """An error ends this one of several processes at once, and the others with it. Say so if another one was first."""
    try:
        yield
    except (Exception, KeyboardInterrupt) as error:
        if count == 1:
            raise
        backend.leave()
        if not backend.is_loss(error):
            raise
        raise ConnectionError(
            f"{count} processes work together, and none goes on without the others. Received the loss of another one: "
            f"{' '.join(str(error).split())[:300]}. Its messages say why it ended. Start all of them again; a run that "
            f"was begun goes on with {argument('resume', True)}."
        ) from error


@contextlib.contextmanager
def first_tells(team):
    """Of several processes only the first prints inside this."""
    with contextlib.nullcontext() if team.first else contextlib.redirect_stdout(io.StringIO()):
        yield


def _check(devices):
    number = isinstance(devices, int) and not isinstance(devices, bool) and devices >= 1
    if not (devices is None or devices == ALL or number):
        raise ValueError(
            f'{argument("devices")} is "all" or a number of devices, at least 1. Received {devices!r}. Try "all".'
        )


def _are_cpus(names):
    return all(name.lower().startswith("cpu") for name in names)


def check_shares(team, loader, options):
    """Refuse data that the devices of a Team cannot share, and a clock that its processes do not.

    Args:
        team: Team of the model. loader: what `fit` takes. options: RunOptions.
    """
    if team.count > 1 and options.minutes is not None:
        raise ValueError(
            f"Processes that train together end after the same step, and each has a clock of its own. Received "
            f"{argument('minutes', options.minutes)} and {team.count} processes. Give {argument('epochs')}."
        )
    if not isinstance(loader, DataLoader):
        return
    if tuple(loader.shard) != tuple(team.shard):
        raise ValueError(
            f"Each process loads its own part of a batch: here shard={team.shard}. Received a DataLoader with shard="
            f"{loader.shard}. Pass shard=team.shard of `with km.use_devices() as team`."
        )
    if loader.batch_size % team.replicas:
        raise ValueError(
            f"A batch is divided among the devices in equal parts. Received {argument('batch_size', loader.batch_size)}"
            f" for {team.replicas} devices. Make it a multiple of {team.replicas}."
        )
    rest = 0 if loader.drop_last or loader.options.fill_last else len(loader.order) % loader.batch_size
    if rest % team.replicas and not (backend.CAN_SHARE_UNEVENLY and team.count == 1):
        raise ValueError(
            f"A batch is divided among the devices in equal parts. Received a last batch of {rest} images for "
            f"{team.replicas} devices. Pass fill_last=True to DataLoader, or drop_last=True."
        )
