"""Many images through a predictor, without anybody waiting: answers in the order of the images, in bounded memory.

    sizes   of files from their headers, in threads, a window ahead     planning.py puts images of one canvas together
    read    decode, resize, write into the batch: threads               while the model works on earlier batches
    run     the model, in the thread of the caller                      Keras' models are called from one thread
    finish  boxes to image pixels, masks, run lengths: threads          while the model works on later batches

`Streaming` is the base class of what predicts: `Predictor`, and `SavedModelPredictor` for exports. Called by users, by
`evaluation/` and by the command line.
"""

import collections
import concurrent.futures
import contextlib
import dataclasses
import numbers
import os
import threading

from PIL import Image

from keras_maskrcnn import backend
from keras_maskrcnn.data.images.reading import ImageError, image_size
from keras_maskrcnn.host.messages import argument
from keras_maskrcnn.inference.planning import Member, plan_batches

UNREADABLE = (ValueError, MemoryError)  # what reading an image may raise; the other images go on
_LOADING = threading.Lock()
_MOST_THREADS = 16
_WINDOW = 4  # batches: how far images may be moved forward to fill one


@dataclasses.dataclass(frozen=True)
class Answer:
    """What came of one source.

    Args:
        index: int, position of the source.
        source: the source as it was given.
        result: FoundInstances, or what `finish` made of it; None if the image cannot be read.
        error: the ValueError or MemoryError of an image that cannot be read, else None.
    """

    index: int
    source: object
    result: object = None
    error: Exception | None = None


class Streaming:
    """Adds `stream` to a predictor.

    The predictor defines

        _read(source)            the pixels of a source, (H, W, C); raises one of UNREADABLE
        _group(size)             (group, canvas) of an image of (height, width) image pixels: those of an equal group
                                 may share a batch, best those of an equal canvas. None: it is alone
        _new_batch(sizes, batch_size, alone)
                                 a batch for images of these sizes, of which there are at most `batch_size`. It has
                                 `fill(row, image)`, which may be called in several threads; then `run()`, which
                                 detects; then `found(row, image)`, in any thread. `alone`: it is for one image only

    and may define `_default_batch_size()`.
    """

    def stream(self, sources, finish=None, batch_size=None, sizes=None, window=None):
        """Detect in many images: reading and what comes after detecting goes on while the model works.

        Answers are those of one image at a time. Images of one canvas share a batch; where the padding of a canvas does
        not show in the answer (`mask_padding` in the config, with a backbone that follows it), so do images of similar
        ones.

        Args:
            sources: iterable of images, each as for a call of the predictor, or a function of no argument that returns
                one. It is read as far ahead as the window is wide.
            finish: None, or a function (index, image (H, W, C), FoundInstances) whose result takes the instances'
                place. It is called in threads, not in order: what it does with masks costs the model no time.
            batch_size: int, most images that the model sees at once. None: 8 on a GPU or TPU, 1 on CPUs.
            sizes: list of (height, width), image pixels, by position, where they are known. None reads them from the
                headers of files. An image of another size goes through the model alone.
            window: int, images: how far ahead an image may be taken to fill a batch. None: four batches.

        Yields:
            Answer of each source, in order. Few images are in memory at a time: about four batches, or four for each
            thread. Errors of the model and of `finish` are raised at once; those of an image that cannot be read are in
            its answer. No thread is left when the iterator ends, is closed or raises.

        Raises:
            ValueError: batch_size or window is below 1, or sources is one image.
        """
        if batch_size is None:
            batch_size = self._default_batch_size()
        check_count("batch_size", batch_size)
        check_count("window", window)
        if isinstance(sources, (str, bytes, os.PathLike)) or not hasattr(sources, "__iter__"):
            raise ValueError(
                "stream takes many images: a list, or another iterable. "
                f"Received {type(sources).__name__}. Call the predictor for one image, or put it into a list."
            )
        if hasattr(sources, "__len__"):
            batch_size = min(batch_size, max(1, len(sources)))
        return _Flow(self, sources, finish, batch_size, sizes, window or _WINDOW * batch_size).answers()

    def _default_batch_size(self):
        return 1 if all(name.lower().startswith("cpu") for name in backend.devices()) else 8


def check_count(name, value):
    """Raise ValueError unless a number of images is a whole one of at least 1, or None. `name`: of the argument."""
    if value is not None and (not isinstance(value, numbers.Integral) or isinstance(value, bool) or value < 1):
        raise ValueError(
            f"{argument(name)} must be a whole number of images, at least 1. Received: {value!r}. "
            "Leave it out for the default."
        )


class _Flow:
    """One call of `stream`. `answers` is its iterator; the arguments are those of `stream`, none of them None."""

    def __init__(self, predictor, sources, finish, batch_size, sizes, window):
        self.predictor = predictor
        self.sources = sources
        self.finish = finish
        self.batch_size = batch_size
        self.sizes = sizes
        self.window = window
        self.num_threads = max(2, min(_MOST_THREADS, os.cpu_count() or 1))
        self.ahead = max(2 * batch_size, self.num_threads)  # images that are read, and that are finished, at a time
        self.unfinished = collections.deque()  # futures
        self.results = {}  # index -> (Member, future), or an Answer with an error
        self.next = 0

    def answers(self):
        """The iterator of `Streaming.stream`."""
        self.pool = concurrent.futures.ThreadPoolExecutor(self.num_threads, "stream")
        try:
            for reads in self._batches_read():
                self._run(reads)
                del reads  # not in memory while the caller works
                self._raise_and_wait()
                yield from self._in_order(wait=False)
            yield from self._in_order(wait=True)
        finally:
            self.pool.shutdown(wait=True, cancel_futures=True)

    # Reading ---------------------------------------------------------------------------------------------------

    def _members(self):
        """Members in order; with batches of one image nothing needs to be known of them."""
        if self.batch_size == 1:
            yield from (Member(index, source) for index, source in enumerate(self.sources))
        elif self.sizes is not None:
            for index, source in enumerate(self.sources):
                yield self._member(index, source, self.sizes[index])
        else:
            ahead = _in_threads(self.pool, _header_size, self.sources, self.window)
            for index, (source, size) in enumerate(ahead):
                yield self._member(index, source, size)

    def _member(self, index, source, size):
        try:
            place = None if size is None else self.predictor._group(size)
        except UNREADABLE:  # an impossible size: the image itself will tell
            place = None
        return Member(index, source) if place is None else Member(index, source, tuple(size), *place)

    def _batches_read(self):
        """Lists of (Member, future of what `_read` returns), one for each batch, some images ahead of the model."""
        waiting, count = collections.deque(), 0
        for members in plan_batches(self._members(), self.batch_size, self.window):
            waiting.append(self._start_reading(members))
            count += len(members)
            while count - len(waiting[0]) >= self.ahead:
                count -= len(waiting[0])
                yield waiting.popleft()
        while waiting:
            yield waiting.popleft()

    def _start_reading(self, members):
        batch = None
        if members[0].group is not None:
            sizes = [member.size for member in members]
            with contextlib.suppress(MemoryError):  # then each is alone
                batch = self.predictor._new_batch(sizes, self.batch_size, alone=False)
        return [(member, self.pool.submit(self._read, member, batch, row)) for row, member in enumerate(members)]

    def _read(self, member, batch, row):
        """(image, its batch, its row), or the error of an image that cannot be read."""
        try:
            image = self.predictor._read(_loaded(member.source))
            if batch is None or image.shape[:2] != member.size:
                batch, row = self.predictor._new_batch([image.shape[:2]], self.batch_size, alone=True), 0
            batch.fill(row, image)
        except UNREADABLE as error:
            return error
        return image, batch, row

    # The model -------------------------------------------------------------------------------------------------

    def _run(self, reads):
        """Detect in a batch when all of its images are read, and have it finished."""
        batches = {}  # id -> batch and its images: more than one where sizes were other than expected
        for member, future in reads:
            read = future.result()
            if isinstance(read, Exception):
                self.results[member.index] = Answer(member.index, member.source, error=read)
            else:
                image, batch, row = read
                batches.setdefault(id(batch), (batch, []))[1].append((member, row, image))
        for batch, images in batches.values():
            try:
                batch.run()
            except ImageError as error:  # of a tile: an image that is not in memory is read while the model works
                self.results |= {each.index: Answer(each.index, each.source, error=error) for each, _, _ in images}
                continue
            for member, row, image in images:
                future = self.pool.submit(self._finish, member.index, batch, row, image)
                self.unfinished.append(future)
                self.results[member.index] = member, future

    # Afterwards ------------------------------------------------------------------------------------------------

    def _finish(self, index, batch, row, image):
        found = batch.found(row, image)
        return found if self.finish is None else self.finish(index, image, found)

    def _raise_and_wait(self):
        """Raise what a thread raised, and wait while too many images are unfinished."""
        while len(self.unfinished) > self.ahead:
            self.unfinished.popleft().result()
        done = {future for future in self.unfinished if future.done()}
        for future in done:
            future.result()
        self.unfinished = collections.deque(future for future in self.unfinished if future not in done)

    def _in_order(self, wait):
        """The answers that are next, as far as they are there, or all if they are to be waited for."""
        while self.next in self.results:
            result = self.results[self.next]
            if not isinstance(result, Answer):
                member, future = result
                if not (wait or future.done()):
                    return
                result = Answer(member.index, member.source, future.result())
            del self.results[self.next]
            self.next += 1
            yield result


def _in_threads(pool, function, items, ahead):
    """Pairs (item, function(item)) in order, computed in threads for so many items ahead."""
    waiting = collections.deque()
    for item in items:
        waiting.append((item, pool.submit(function, item)))
        if len(waiting) > ahead:
            item, future = waiting.popleft()
            yield item, future.result()
    while waiting:
        item, future = waiting.popleft()
        yield item, future.result()


def _loaded(source):
    """What a source stands for. A PIL image is decoded: it does that itself, once, and not in two threads at a time."""
    source = source() if callable(source) else source
    if isinstance(source, Image.Image):
        with _LOADING, contextlib.suppress(Exception):  # reading it will say what is wrong
            source.load()
    return source


def _header_size(source):
    """(height, width) of an image. None: only reading it can tell, or will say what is wrong."""
    if callable(source):
        return None
    try:
        return tuple(image_size(_loaded(source)))
    except UNREADABLE:
        return None
