"""DataLoader in `model.fit` on every backend: dictionaries arrive, threads run, epochs follow."""

import keras
import numpy as np
from keras import ops

from keras_maskrcnn.config import MaskRCNNConfig
from keras_maskrcnn.data import ArrayDataset, DataLoader, EpochSync, RandomFlip


class Brightness(keras.Model):
    """Learns the mean brightness of the valid boxes' images from one weight; reads every key."""

    def __init__(self):
        super().__init__()
        self.guess = self.add_weight(shape=(), initializer="zeros", name="guess")

    def call(self, inputs):
        images = ops.cast(inputs["images"], "float32")
        counted = ops.sum(ops.cast(inputs["gt_valid"], "float32"))
        used = ops.sum(ops.cast(inputs["gt_masks"], "float32")) * 0
        return ops.mean(images) / 255 + 0 * counted + used - self.guess

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        return ops.square(y_pred)


def dataset():
    masks = np.zeros((1, 32, 32), np.uint8)
    masks[0, 4:20, 6:30] = 1
    images = [np.full((32, 32, 3), 51, np.uint8) for _ in range(6)]
    return ArrayDataset(images, [masks] * 6)


def test_fit_trains_from_the_loader_with_threads():
    config = MaskRCNNConfig(num_classes=1, image_scale=1.0, max_instances=4, gt_mask_size=14)
    train = DataLoader(dataset(), config, 2, [RandomFlip()], shuffle=True, workers=2)
    val = DataLoader(dataset(), config, 4, workers=2)  # its last batch holds two images
    model = Brightness()
    model.compile(optimizer=keras.optimizers.SGD(0.25))
    epochs = []
    watch = keras.callbacks.LambdaCallback(on_epoch_begin=lambda e, logs: epochs.append(train.epoch))
    history = model.fit(
        train,
        validation_data=val,
        epochs=8,
        initial_epoch=2,
        verbose=0,
        callbacks=[EpochSync(train), watch],
    )
    # Each step halves the distance to 51 / 255 = 0.2: eighteen steps.
    assert abs(float(ops.convert_to_numpy(model.guess)) - 0.2) < 1e-4
    assert len(history.history["val_loss"]) == 6 and history.history["val_loss"][-1] < 1e-8
    assert epochs == [2, 3, 4, 5, 6, 7]


class Watching(keras.Model):
    """Notes which images it is trained on, by their brightness."""

    def __init__(self):
        super().__init__()
        self.weight = self.add_weight(shape=(), initializer="zeros", name="weight")
        self.built = True
        self.seen = []

    def call(self, inputs, training=None):
        if training:
            self.seen.append(int(ops.convert_to_numpy(inputs["images"])[0, 0, 0, 0]))
        return ops.mean(ops.cast(inputs["images"], "float32")) * self.weight

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        return y_pred


def test_each_epoch_of_fit_sees_every_image_once_in_the_loaders_order():
    images = [np.full((32, 32, 3), k, np.uint8) for k in range(12)]
    config = MaskRCNNConfig(num_classes=1, image_scale=1.0, max_instances=1, gt_mask_size=14)
    train = DataLoader(ArrayDataset(images, [[]] * 12), config, 1, shuffle=True, workers=3)
    model = Watching()
    model.compile(optimizer="sgd", run_eagerly=True)
    model.fit(
        train,
        validation_data=train,
        epochs=3,
        shuffle=False,
        verbose=0,
        callbacks=[EpochSync(train)],
    )
    orders = np.array(model.seen).reshape(3, 12)
    for epoch, order in enumerate(orders):
        train.set_epoch(epoch)
        assert order.tolist() == [int(batch["images"][0, 0, 0, 0]) for batch in train]
        assert sorted(order) == list(range(12))
    assert (orders[0] != orders[1]).any()
