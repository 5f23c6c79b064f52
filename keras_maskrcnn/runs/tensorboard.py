"""Event files for TensorBoard: losses, learning rate, COCO figures, and pictures of predictions beside ground truth.

In: the logs of each epoch and the model. Out: event files. They are written by `tensorboardX` (pip install
'keras-maskrcnn[tensorboard]'), which works on every backend; `keras.callbacks.TensorBoard` needs TensorFlow and writes
no pictures. Called by `experiment.train_model`, and by users in `fit`.
"""

import keras

from keras_maskrcnn.evaluation.figures import main_figure
from keras_maskrcnn.inference.overlays import overlays


class BoardWriter(keras.callbacks.Callback):
    """Writes an epoch's figures, and pictures after each epoch that was evaluated. Steps are epochs, counted from 1.

    Put it after the callbacks that add to the logs. The scalars are named loss/..., coco/bbox/..., coco/segm/...,
    learning_rate and data_wait, the pictures prediction/<image id>.

    Args:
        directory: folder for the event files; show it with `tensorboard --logdir DIRECTORY`.
        val: dataset or DataLoader as in `evaluate_coco`; None draws no pictures.
        num_pictures: int, number of images, taken evenly from the whole dataset.
        purge_after: int, epochs that a resumed run had finished. TensorBoard drops what was written of later ones.

    Raises:
        ImportError: tensorboardX is not installed.
    """

    def __init__(self, directory, val=None, num_pictures=6, purge_after=0):
        super().__init__()
        self.directory, self.val, self.num_pictures = str(directory), val, num_pictures
        self.writer = _summary_writer(self.directory, purge_after + 1)

    def on_epoch_end(self, epoch, logs=None):
        """Write the epoch's figures and pictures."""
        step, logs = epoch + 1, dict(logs or {})
        logs["learning_rate"] = float(keras.ops.convert_to_numpy(self.model.optimizer.learning_rate))
        for name, value in logs.items():
            self.writer.add_scalar(_tag(name), float(value), step)
        if self.val is not None and main_figure(logs) is not None:
            for name, picture in overlays(self.model, self.val, self.num_pictures):
                self.writer.add_image(f"prediction/{name}", picture, step, dataformats="HWC")
        self.writer.flush()  # if the run is killed later, this epoch is complete

    def on_train_end(self, logs=None):
        """Close the file."""
        self.writer.close()


def _tag(name):
    """Name a figure for TensorBoard, which groups names by the part before the last slash."""
    if name.endswith("loss"):
        return f"loss/{name.removesuffix('_loss')}"
    kind, _, figure = name.removeprefix("val_").partition("_")
    return f"coco/{kind}/{figure}" if name.startswith("val_") and figure else name


def _summary_writer(directory, purge_step):
    try:
        from tensorboardX import SummaryWriter
    except ImportError as error:
        raise ImportError(
            "TensorBoard's event files are written by tensorboardX. Received: an environment without it. "
            "Install it: pip install 'keras-maskrcnn[tensorboard]'."
        ) from error
    return SummaryWriter(directory, purge_step=purge_step if purge_step > 1 else None)
