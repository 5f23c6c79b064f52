"""Sends objects to processes once: large arrays into shared memory that all of them map, the rest beside it by pickle.

So workers share the annotations; a copy is made only of what is no array (names, ids, options).
"""

import os
import pickle
import types

import numpy as np

from keras_maskrcnn.data.loading.shared import aligned, anonymous_file, mapped
from keras_maskrcnn.host.messages import argument

_SMALL = 1024  # bytes; smaller arrays travel within the pickle


class NotSendable(ValueError):
    """Worker processes cannot receive the dataset, its config or its transforms."""


def pack(content):
    """Write an object into a new shared file.

    Returns:
        (descriptor, size, length of the pickle, offset of the table of arrays), for `unpack`.

    Raises:
        NotSendable: a part of it cannot be pickled, or worker processes could not import it.
    """
    descriptor = anonymous_file()
    try:
        with os.fdopen(os.dup(descriptor), "wb", buffering=2**20) as file:
            return descriptor, *_write(content, file)
    except BaseException:
        os.close(descriptor)
        raise


def unpack(descriptor, size, length, table):
    """The object that `pack` wrote; its large arrays are read-only views of the shared memory."""
    memory = memoryview(mapped(descriptor, size, writable=False))
    places = pickle.loads(memory[table:])
    return pickle.loads(memory[:length], buffers=[memory[start : start + count] for start, count in places])


def _write(content, file):
    buffers = []
    pickler = _Pickler(file, buffers)
    try:
        pickler.dump(content)
    except NotSendable:
        raise
    except (pickle.PicklingError, TypeError, AttributeError, RecursionError) as error:
        raise NotSendable(_message(f"{type(error).__name__}: {error}")) from error
    length = end = file.tell()
    places = []
    for buffer in buffers:
        raw = buffer.raw()
        file.write(bytes(aligned(end) - end))
        places.append((aligned(end), raw.nbytes))
        file.write(raw)
        end = aligned(end) + raw.nbytes
    return end + file.write(pickle.dumps(places)), length, end


class _Pickler(pickle.Pickler):
    """Keeps large arrays out of the stream, and refuses what only this process knows."""

    def __init__(self, file, buffers):
        super().__init__(file, protocol=5, buffer_callback=lambda buffer: self._keep(buffer, buffers))

    def reducer_override(self, value):
        """Called by pickle for each object."""
        if isinstance(value, np.ndarray):
            return self._reduce_array(value)
        if isinstance(value, (type, types.FunctionType)) and _is_local(value):
            raise NotSendable(_message(f"{value.__qualname__} of the module {value.__module__}"))
        return NotImplemented

    @staticmethod
    def _reduce_array(array):
        """Let memory maps and arrays that are not contiguous go out of the stream as others do."""
        plain = type(array) in (np.ndarray, np.memmap) and array.dtype.kind != "O" and array.nbytes >= _SMALL
        if plain and not (type(array) is np.ndarray and array.flags.c_contiguous):
            return np.ascontiguousarray(array.view(np.ndarray)).__reduce_ex__(5)
        return NotImplemented

    @staticmethod
    def _keep(buffer, buffers):
        small = buffer.raw().nbytes < _SMALL
        if not small:
            buffers.append(buffer)
        return small  # true: pickle writes it into the stream


def _is_local(value):
    return value.__module__ == "__main__" or "<" in value.__qualname__


def _message(received):
    return (
        "Worker processes get dataset and transforms by pickle, and import the functions and classes in them. "
        f"Received: {received}. Move it into a module that can be imported and make it a function or class of that "
        f"module, or use threads: {argument('worker_type', 'thread')}."
    )


def send_error(error):
    """An exception as bytes; one that cannot be sent, or would end a thread without a word, as a RuntimeError."""
    try:
        sent = pickle.dumps(error)
        if isinstance(error, Exception) and str(pickle.loads(sent)) == str(error):
            return sent
    except Exception:  # noqa: S110  any exception's own code may fail here
        pass
    return pickle.dumps(RuntimeError(f"{type(error).__name__}: {error}"))
