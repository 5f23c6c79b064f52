"""Worker processes that make batches, seen from the process that trains. Imports no framework.

Each worker is a new Python process and not a fork: a fork would copy the locks of TensorFlow's and JAX's threads, and
`multiprocessing`'s spawn would run the user's main module again. Workers get everything by inherited descriptors: the
dataset in one shared memory (`packing.py`), batches in another one with slots (`shared.py`), requests by a socket.
Called by `batches.py`, from any number of threads.

Grain 0.2.18 was measured before this was written. It spawns; each worker has 52 MB of its own before it reads data, and
a pickled copy of the annotations on top (450 MB for a table of 200 MB; ours: about 30 MB in all). Its workers went on
after `os._exit` of the process that trained.
"""

import collections
import contextlib
import json
import mmap
import os
import pickle
import queue
import signal
import subprocess
import sys
import threading
import time
import warnings
import weakref
from multiprocessing import Pipe

from keras_maskrcnn.data.coco_output import is_file
from keras_maskrcnn.data.loading import start
from keras_maskrcnn.data.loading.packing import pack
from keras_maskrcnn.data.loading.shared import Layout, anonymous_file, mapped
from keras_maskrcnn.host.messages import argument

AHEAD = 8  # finished batches that wait for the model, beside those in the making
_GLANCE = 1.0  # seconds between two looks whether a silent process still lives
_GRACE = 5.0  # seconds that a process takes to end after its pipe was closed
# No accelerator, even if a module of the user imports a framework. The number of BLAS threads stays as it is here: with
# another one sums of many channels could be rounded otherwise.
_ENVIRONMENT = {
    "MALLOC_ARENA_MAX": "1",
    "CUDA_VISIBLE_DEVICES": "-1",
    "JAX_PLATFORMS": "cpu",
    "TF_CPP_MIN_LOG_LEVEL": "3",
}


class WorkerLost(OSError):
    """A worker process crashed, hung or could not start."""


class _Lost(Exception):
    """How a worker was lost, in words."""


class WorkerTraceback(Exception):
    """Where in a worker an error came from; the cause of the error that is raised here."""


class WorkerPool:
    """Processes that make the batches of a RowMaker.

    Args:
        maker: RowMaker. template: a full batch, dict of arrays, for shapes and dtypes.
        count: int, processes. cache_bytes: of decoded images in each.
        timeout: seconds for the start of a process, and for each batch.

    Raises:
        NotSendable: data or transforms cannot be pickled.
    """

    def __init__(self, maker, template, count, cache_bytes, timeout):
        self._maker, self._timeout = maker, timeout
        self._layout = Layout(template)
        self.owner, self.failed, self.interrupted = os.getpid(), None, False
        self._lock = threading.Lock()
        self._told = {}  # warnings that were shown
        parts = (maker.dataset, maker.config, maker.transforms, maker.max_instances, maker.seed, cache_bytes)
        packed = pack(parts)
        try:
            # Mapped here as well: pages that only one worker has read would count as that worker's own.
            self._packed = mapped(packed[0], packed[1], writable=False, populate=True)
            self._slots = _Slots(self._layout, in_the_making=count, lent=count + AHEAD + 2)
            self._workers = self._started(packed, count)
        finally:
            os.close(packed[0])
        self._idle = queue.LifoQueue()
        for worker in self._workers:
            self._idle.put(worker)
        processes = [worker.process for worker in self._workers]
        self._end = weakref.finalize(self, _end_processes, processes, os.getpid())

    def _started(self, packed, count):
        descriptor = self._slots.descriptor
        try:
            workers = [_Worker((packed[0], descriptor)) for _ in range(count)]
        finally:
            os.close(descriptor)
        for worker in workers:
            with contextlib.suppress(OSError):  # one that has ended already: the first request tells how
                worker.connection.send((packed, self._layout, descriptor, self._slots.count))
        return workers

    @property
    def process_ids(self):
        """Of the workers, in order."""
        return [worker.process.pid for worker in self._workers]

    def batch(self, epoch, chosen):
        """Let an idle worker make a batch, and wait for it.

        Args:
            epoch: int. chosen: as `RowMaker.fill` takes it.

        Returns:
            dict of numpy arrays.

        Raises:
            WorkerLost: a worker was lost, now or earlier.
            Exception: what the worker raised.
        """
        worker = self._idle.get()
        slot = self._slots.take()
        try:
            if self.failed:
                raise self.failed
            for answer in self._ask(worker, slot, epoch, chosen):
                self._heed(answer)
            return self._slots.lend(slot, len(chosen))
        except BaseException:
            self._slots.give_back(slot)
            raise
        finally:
            self._idle.put(worker)  # last: so no more slots are in the making than there are workers

    def close(self):
        """End all processes. Threads that wait for a batch get an error."""
        self._fail(WorkerLost("The loader was closed while a batch was asked of its workers. Ask again."))
        self._end()

    def _ask(self, worker, slot, epoch, chosen):
        """Send a request and wait for the answers: that of the request, before it that of the worker's start."""
        answers = []
        try:
            if not worker.ready:
                answers.append(self._reply(worker))
                worker.ready = answers[0][0] is None
            if worker.ready:
                worker.connection.send((slot, epoch, chosen))
                answers.append(self._reply(worker))
        except _Lost as lost:
            raise self._lost(worker, chosen, epoch, str(lost)) from None
        except (EOFError, ConnectionError):
            raise self._lost(worker, chosen, epoch, worker.ending()) from None
        except BaseException:  # Ctrl-C: an answer is still to come, and would be taken for that of the next request
            self.interrupted = True
            self._fail(WorkerLost("The loader's workers were interrupted. Ask again for the batch."))
            self._end()
            raise
        if not worker.ready:
            self._fail(pickle.loads(answers[0][0]))
            self._end()
        return answers

    def _reply(self, worker):
        """The next answer of a worker. Raises _Lost, EOFError or ConnectionError."""
        deadline = time.monotonic() + self._timeout
        while not worker.connection.poll(_GLANCE):
            if worker.process.poll() is not None and not worker.connection.poll():
                raise _Lost(worker.ending())
            if time.monotonic() > deadline:
                worker.process.kill()
                raise _Lost(
                    f"did not {'answer' if worker.ready else 'start'} within worker_timeout={self._timeout:g} seconds"
                )
        return pickle.loads(worker.connection.recv_bytes())

    def _heed(self, answer):
        """Tell here what the worker noted, and raise its error."""
        error, text, notes = answer
        for fault in notes.faults:
            self._maker.dataset.add_fault(fault)
        for message in notes.cuts:
            self._maker.warn_of_cut(message)
        for message, category, *place in notes.warnings:
            warnings.warn_explicit(message, category, *place, registry=self._told)
        if error is not None:
            raise pickle.loads(error) from WorkerTraceback("\n" + text)

    def _lost(self, worker, chosen, epoch, how):
        """The error of a lost worker; from now on each request gets it. All processes end."""
        names = [_name(self._maker.dataset[int(position)]) for position, _ in chosen]
        error = WorkerLost(
            f"Each worker process of the loader must make its batches. Received: process {worker.process.pid} {how}, "
            f"while it made a batch of epoch {epoch} from {', '.join(names)} (transforms may read others). Check these "
            f"files; use fewer workers if memory is short; {argument('worker_type', 'thread')} shows where a crash is."
        )
        error = self._fail(error)
        self._end()
        return error

    def _fail(self, error):
        with self._lock:
            self.failed = self.failed or error
            return self.failed


class _Worker:
    """One process and the socket to it."""

    def __init__(self, descriptors):
        self.connection, other = Pipe()
        self.ready = False
        order = {"path": [str(path) or os.getcwd() for path in sys.path], "pipe": other.fileno(), "parent": os.getpid()}
        with other:
            self.process = subprocess.Popen(
                [sys.executable, start.__file__, json.dumps(order)],
                stdin=subprocess.DEVNULL,
                pass_fds=(other.fileno(), *descriptors),
                env=os.environ | _ENVIRONMENT,
                start_new_session=True,  # Ctrl-C goes to the process that trains, which ends its workers
            )

    def ending(self):
        """How the process ended, in words."""
        try:
            status = self.process.wait(_GRACE)
        except subprocess.TimeoutExpired:
            return "closed its pipe"
        if status >= 0:
            return f"ended with exit code {status}"
        name = signal.Signals(-status).name if -status in set(signal.Signals) else f"signal {-status}"
        return f"was ended by {name}" + (", as the system does when memory is short" if name == "SIGKILL" else "")


class _Slots:
    """Shared memory for batches: slots that workers write and whose arrays go to the model without a copy.

    A slot is free again when no array of its batch is left. If too many are kept, further batches are copied out.
    Lists and their counters change by single appends and pops, which are safe in the finalizers of any thread.
    """

    def __init__(self, layout, in_the_making, lent):
        self.layout, self.count = layout, in_the_making + lent
        size = self.count * layout.slot_bytes
        self.descriptor = anonymous_file(size)
        self._memory = mapped(self.descriptor, size, writable=True)
        self._free = collections.deque(range(self.count))
        self._permits = collections.deque(range(lent))
        self._seen = set()

    def take(self):
        return self._free.pop()

    def give_back(self, slot):
        self._free.append(slot)

    def lend(self, slot, rows):
        """The batch in a slot. The slot comes back when the last of its arrays is gone."""
        batch, owner = self.layout.arrays(self._memory, slot, rows)
        if slot not in self._seen:  # mapped here at once: else its pages would count as those of the worker alone
            self._seen.add(slot)
            owner[:: mmap.PAGESIZE].max()
        try:
            permit = self._permits.pop()
        except IndexError:
            batch = {name: array.copy() for name, array in batch.items()}
            self._free.append(slot)
            return batch
        weakref.finalize(owner, _return_slot, self._free, slot, self._permits, permit).atexit = False
        return batch


def _return_slot(free, slot, permits, permit):
    free.append(slot)
    permits.append(permit)


def _end_processes(processes, owner):
    """Kill and bury the workers; they hold nothing that must be saved."""
    if os.getpid() != owner:  # a fork of the process that they belong to
        return
    for process in processes:
        process.kill()
    for process in processes:
        with contextlib.suppress(subprocess.TimeoutExpired):  # one that a dead file server holds
            process.wait(_GRACE)


def _name(record):
    return str(record.source) if is_file(record) else f"image {record.image_id}"
