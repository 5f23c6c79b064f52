"""The processes that train or measure one model together, and how they agree. `distribution.py` makes Teams."""

import dataclasses
import pickle
from collections.abc import Callable

import numpy as np


@dataclasses.dataclass(frozen=True)
class Team:
    """Processes that do the same in step. All of them must make the same calls, in the same order.

    Args:
        index: int, this process among them. count: int, how many there are.
        replicas: int, devices of all processes together; each computes its part of a batch.
        shard: (index, count) for `DataLoader(shard=...)`: the part of each batch that this process loads.
        collect: function from bytes to the bytes of all processes, a list in order; None for a single process.
    """

    index: int = 0
    count: int = 1
    replicas: int = 1
    shard: tuple = (0, 1)
    collect: Callable | None = None

    @property
    def first(self):
        """Whether this process writes the files and the messages."""
        return self.index == 0

    def gather(self, value):
        """The values of all processes, in order; each must be one that pickle takes."""
        if self.collect is None:
            return [value]
        return [pickle.loads(data) for data in self.collect(pickle.dumps(value))]

    def everyone(self, action):
        """What `action()` returns in each process, a list in order. An error of one is raised in all."""
        if self.collect is None:
            return [action()]
        error = result = None
        try:
            result = action()
        except Exception as problem:  # the others would wait for this process
            error = problem
        outcomes = self.gather((result, _sendable(error)))
        raised = error or next((other for _, other in outcomes if other is not None), None)
        if raised is not None:
            raise raised
        return [result for result, _ in outcomes]

    def agree(self, action):
        """Wait for all, call `action()` in the first process, and return its result, or raise its error, in all."""
        self.gather(None)
        return self.everyone(lambda: action() if self.first else None)[0]


def collector(all_of):
    """A Team's `collect`, made of a framework's collective operation.

    Args:
        all_of: function from this process's row, int32 (N,), to the rows of all, (count, N). All have the same length.
    """

    def collect(data):
        lengths = all_of(np.array([len(data)], np.int32)).ravel()
        padded = np.zeros(-(-lengths.max() // 4) * 4, np.uint8)
        padded[: len(data)] = np.frombuffer(data, np.uint8)
        rows = all_of(padded.view(np.int32))
        return [row.tobytes()[:length] for row, length in zip(rows, lengths, strict=True)]

    return collect


def _sendable(error):
    """The error itself, or one that says the same where pickle does not bring it back."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # of any kind: constructors of errors take what they like
        return RuntimeError(f"Another process failed. Received {type(error).__name__}: {error}. See its messages.")
    return error
