"""Which of several processes this is, by the environment, before a framework is imported."""

import json
import os


def place_among_processes():
    """(index, count) of this process among those that train one model: (0, 1) where the environment names none.

    TensorFlow reads TF_CONFIG, and Keras on JAX KERAS_DISTRIBUTION_PROCESS_ID and KERAS_DISTRIBUTION_NUM_PROCESSES.

    Raises:
        ValueError: a variable that cannot be read.
    """
    environment, on_jax = os.environ, os.environ.get("KERAS_BACKEND") == "jax"
    if environment.get("TF_CONFIG") and not on_jax:
        return _by_tensorflow(environment["TF_CONFIG"])
    names = ("KERAS_DISTRIBUTION_PROCESS_ID", "KERAS_DISTRIBUTION_NUM_PROCESSES")
    if environment.get("KERAS_BACKEND", "jax") != "jax" or not all(environment.get(name) for name in names):
        return 0, 1
    try:
        index, count = (int(environment[name]) for name in names)
    except ValueError:
        index, count = -1, 0
    if not 0 <= index < count:
        raise ValueError(
            f"{names[0]} is a number from 0 to below {names[1]}. Received {environment[names[0]]!r} and "
            f"{environment[names[1]]!r}. Correct them, or unset both to train in one process."
        )
    return index, count


def tasks_of(cluster):
    """The processes of TensorFlow's cluster that train, in its order: list of (type, number).

    Args:
        cluster: dict from a type of process to the addresses of its processes.
    """
    return [(kind, number) for kind in ("chief", "worker") for number in range(len(cluster.get(kind, ())))]


def _by_tensorflow(text):
    try:
        config = json.loads(text)
        tasks = tasks_of(config.get("cluster", {}))
        task = config.get("task", {})
        own = (task.get("type"), int(task.get("index", 0)))
        return (tasks.index(own), len(tasks)) if tasks else (0, 1)
    except (ValueError, TypeError, AttributeError):
        raise ValueError(
            'TF_CONFIG is JSON such as {"cluster": {"worker": ["host0:1234", "host1:1234"]}, "task": {"type": '
            f'"worker", "index": 0}}}}, and its task is one of the cluster. Received {text[:200]!r}. Correct it, or '
            "unset it to train in one process."
        ) from None
