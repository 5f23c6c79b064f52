"""The loader that `model.fit` takes on any backend: batches of `batches.py`, made by worker threads.

Threads, not processes: Pillow and most of numpy release the interpreter lock; processes copy every batch.
"""

import keras

from keras_maskrcnn.data.loading.batches import BatchMaker
from keras_maskrcnn.data.loading.options import LoaderOptions


class DataLoader(BatchMaker, keras.utils.PyDataset):
    """A BatchMaker for `fit`: worker threads make batches ahead.

    `fit` shuffles the order of batches once more by Python's `random`: pass `shuffle=False` to `fit`, and an
    `EpochSync` callback, where runs must be repeatable to the bit or resumed.

    Args, attributes, errors: as BatchMaker. The options are the fields of LoaderOptions, as keywords or as an object:
        `DataLoader(dataset, config, 4, shuffle=True, augmentation="light")`.
    """

    def __init__(self, dataset, config, batch_size, transforms=None, options=None, **fields):
        options = LoaderOptions.of(options, **fields)
        keras.utils.PyDataset.__init__(self, workers=options.workers, use_multiprocessing=False, max_queue_size=8)
        BatchMaker.__init__(self, dataset, config, batch_size, transforms, options)

    def on_epoch_end(self):
        """Go on to the next epoch's order and transforms. Called by Keras."""
        self.epoch += 1


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
