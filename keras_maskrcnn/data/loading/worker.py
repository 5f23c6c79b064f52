"""A worker process: receives dataset and transforms once, then makes batches on demand. Imports no framework.

Messages from the process that trains: `(unpack's arguments, Layout, slots' descriptor, number of slots)`, then
`(slot, epoch, chosen)` for each batch. Answers: `(error or None, traceback, Notes)`.

It ends when its socket is closed, and within a second after the process that started it has gone.
"""

import dataclasses
import os
import pickle
import signal
import sys
import threading
import time
import traceback
import warnings
from multiprocessing.connection import Connection

from keras_maskrcnn.data.loading.packing import send_error, unpack
from keras_maskrcnn.data.loading.rows import RowMaker
from keras_maskrcnn.data.loading.shared import mapped
from keras_maskrcnn.host import memory


@dataclasses.dataclass
class Notes:
    """What happened while a batch was made, to be told in the process that trains.

    Args:
        faults: list of Fault, images that were skipped.
        cuts: list of str, for `RowMaker.warn_of_cut`.
        warnings: list of (message, category, file name, line number).
    """

    faults: list = dataclasses.field(default_factory=list)
    cuts: list = dataclasses.field(default_factory=list)
    warnings: list = dataclasses.field(default_factory=list)


class Job:
    """What a worker works with.

    Args:
        packed: arguments of `unpack`. layout: Layout. slots: int, descriptor of the shared slots. count: int, of slots.
    """

    def __init__(self, packed, layout, slots, count):
        self.maker = RowMaker(*unpack(*packed))
        self.layout = layout
        self.memory = mapped(slots, count * layout.slot_bytes, writable=True)

    def make(self, slot, epoch, chosen, notes):
        """Write a batch into its slot; faults and cuts go into the notes."""
        self.maker.dataset.add_fault, self.maker.warn_of_cut = notes.faults.append, notes.cuts.append
        batch, _ = self.layout.arrays(self.memory, slot, len(chosen))
        for name, array in batch.items():
            if name != "images":
                array[...] = 0
        self.maker.fill(batch, epoch, chosen)
        for image, (height, width) in zip(batch["images"], batch["image_sizes"].tolist(), strict=True):
            image[height:] = 0  # what the slot's last batch has left
            image[:height, width:] = 0


def work(pipe, parent):
    """Answer requests until the other side goes.

    Args:
        pipe: int, descriptor of a socket. parent: int, process id.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the process that trains ends its workers
    if memory.is_wanted():  # each image takes blocks of a few megabytes; mapping them anew is an eighth of the work
        memory.keep_freed_memory()
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    connection = Connection(pipe)
    try:
        message = connection.recv()
        job = _answer(connection, lambda notes: Job(*message))
        while job is not None:
            request = connection.recv()
            _answer(connection, lambda notes, request=request: job.make(*request, notes))
    except (EOFError, OSError):  # closed
        pass
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def _answer(connection, action):
    """Call `action(notes)` and tell how it went. Returns what it returned, None after an error."""
    notes, result, error, text = Notes(), None, None, ""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            result = action(notes)
        except BaseException as problem:  # SystemExit of a transform as well
            error, text = send_error(problem), traceback.format_exc()
    notes.warnings = [(str(one.message), _known(one.category), one.filename, one.lineno) for one in caught]
    connection.send_bytes(pickle.dumps((error, text, notes)))
    return result


def _known(category):
    """A category of warnings that the other process can import."""
    return category if category.__module__ in sys.modules and category.__module__ != "__main__" else UserWarning


def _end_with(parent):
    """End this process when the one that started it has ended, even in the middle of a batch."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)
