"""The loader that `model.fit` takes on any backend: batches of `batches.py`, asked for ahead by Keras' threads.

A thread makes a batch itself, or waits for a worker process: so order, prefetching and errors are Keras' own in both
cases. Pillow and most of numpy release the interpreter lock, so that two threads are as fast as two processes and need
no memory of their own; more cores need processes (`choosing.py`, benchmarks/README.md).
"""

import keras

from keras_maskrcnn.data.loading.batches import BatchMaker
from keras_maskrcnn.data.loading.choosing import PROCESS
from keras_maskrcnn.data.loading.options import LoaderOptions
from keras_maskrcnn.data.loading.pool import AHEAD


class DataLoader(BatchMaker, keras.utils.PyDataset):
    """A BatchMaker for `fit`: worker threads or processes make batches ahead.

    `fit` shuffles the order of batches once more by Python's `random`: pass `shuffle=False` to `fit`, and an
    `EpochSync` callback, where runs must be repeatable to the bit or resumed.

    Args, attributes, errors: as BatchMaker. The options are the fields of LoaderOptions, as keywords or as an object:
        `DataLoader(dataset, config, 4, shuffle=True, augmentation="light", workers="auto")`.
        failure: the error of the last batch that could not be made, or None.
    """

    def __init__(self, dataset, config, batch_size, transforms=None, options=None, **fields):
        options = LoaderOptions.of(options, **fields)
        BatchMaker.__init__(self, dataset, config, batch_size, transforms, options)
        chosen = self.workers_chosen
        # With a thread more than processes each of them has its next request as soon as it is idle.
        threads, ahead = (chosen.count + 1, chosen.count) if chosen.kind == PROCESS else (chosen.count, 0)
        keras.utils.PyDataset.__init__(self, workers=threads, use_multiprocessing=False, max_queue_size=ahead + AHEAD)
        self.failure = None
        self.skipped = 0
        self._begin_at = (0, 0)

    @property
    def num_batches(self):
        """Batches that Keras asks for in this epoch: all, or the rest of an epoch that is resumed."""
        return len(self) - self.skipped

    def start_at(self, epoch, batch):
        """Go on within an epoch: its batches before this one are skipped when `set_epoch` comes to it.

        Args:
            epoch: int, from 0. batch: int, number of batches that were trained on.
        """
        if not 0 <= batch < len(self):
            raise ValueError(
                f"A run goes on at a batch of its epoch, from 0 to {len(self) - 1}. Received {batch}. "
                "Resume with the data and the batch_size that the run began with."
            )
        self._begin_at = (epoch, batch)

    def set_epoch(self, epoch):
        """Choose the epoch that the next batches belong to; `start_at` says where in it they begin."""
        super().set_epoch(epoch)
        self.skipped = self._begin_at[1] if self.epoch == self._begin_at[0] else 0
        self.failure = None

    def __getitem__(self, index):
        """The batch at a position among those that Keras asks for in this epoch."""
        try:
            return super().__getitem__(self.skipped + index)
        except SystemExit as stop:  # of a transform: it would end Keras' thread, and `fit` would wait for ever
            self.failure = RuntimeError(f"A transform or dataset called sys.exit. Received: {stop}. Raise an error.")
            raise self.failure from stop
        except Exception as error:
            self.failure = error  # Keras on TensorFlow raises one of TensorFlow's in its place
            raise

    def on_epoch_end(self):
        """Go on to the next epoch's order and transforms. Called by Keras."""
        self.epoch += 1
        self.skipped = 0


class EpochSync(keras.callbacks.Callback):
    """Tells a DataLoader the epoch `fit` is in, so that a resumed run goes on with the same data.

    Args:
        loader: DataLoader given to `fit`.
    """

    def __init__(self, loader):
        super().__init__()
        self.loader = loader

    def on_epoch_begin(self, epoch, logs=None):
        """Keras calls this before it asks for the first batch of an epoch."""
        self.loader.set_epoch(epoch)
