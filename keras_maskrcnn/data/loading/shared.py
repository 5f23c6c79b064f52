"""Memory that processes share, without a name on any disk: nothing is left behind, however they end.

An anonymous file of the kernel (`memfd_create`) holds it, so Docker's limit on /dev/shm does not matter; where there is
none, a temporary file without a name does. Processes that inherit its descriptor map it.
"""

import mmap
import os
import tempfile

import numpy as np

_ALIGNMENT = 64  # bytes: a cache line, and what numpy's and the frameworks' fast paths ask for


def anonymous_file(size=0):
    """The descriptor of a new shared file of so many bytes, all zero. Not inherited unless it is passed on."""
    try:
        descriptor = os.memfd_create("keras_maskrcnn")
    except (AttributeError, OSError):  # not Linux, or a kernel that forbids it
        with tempfile.TemporaryFile() as file:
            descriptor = os.dup(file.fileno())
        if size:
            os.posix_fallocate(descriptor, 0, size)  # a full disk is an error now, not a crash later
    os.ftruncate(descriptor, size)
    return descriptor


def mapped(descriptor, size, writable, populate=False):
    """The file as an `mmap` of the whole; the descriptor may be closed afterwards.

    Args:
        descriptor: int. size: int, bytes. writable: bool.
        populate: whether to enter all pages into this process's table now, where the system can.
    """
    flags = mmap.MAP_SHARED | (getattr(mmap, "MAP_POPULATE", 0) if populate else 0)
    return mmap.mmap(descriptor, size, flags, mmap.PROT_READ | (mmap.PROT_WRITE if writable else 0))


def aligned(offset):
    """The next multiple of the alignment."""
    return -(-offset // _ALIGNMENT) * _ALIGNMENT


class Layout:
    """Where the arrays of a batch lie in a slot of shared memory.

    Args:
        template: dict of numpy arrays, a full batch; only shapes and dtypes count.
    """

    def __init__(self, template):
        self.fields, offset = {}, 0
        for name, array in template.items():
            self.fields[name] = (offset, array.dtype.str, array.shape)
            offset = aligned(offset + array.nbytes)
        self.slot_bytes = -(-max(offset, 1) // mmap.PAGESIZE) * mmap.PAGESIZE

    def arrays(self, memory, slot, rows):
        """The batch in a slot: dict of arrays of the first `rows` rows, and the array that owns their memory.

        The slot may be written again when nothing refers to that owner any more; each array of the batch does.

        Args:
            memory: mmap of all slots. slot: int. rows: int.
        """
        owner = np.frombuffer(memory, np.uint8, self.slot_bytes, slot * self.slot_bytes)
        batch = {}
        for name, (offset, dtype, shape) in self.fields.items():
            size = int(np.prod(shape)) * np.dtype(dtype).itemsize
            batch[name] = owner[offset : offset + size].view(dtype).reshape(shape)[:rows]
        return batch, owner
