"""Event files for TensorBoard: losses, learning rate, COCO figures, and pictures of predictions beside ground truth.

Comes in: the logs of each epoch and the model. Goes out: event files. `keras.callbacks.TensorBoard` needs TensorFlow
and knows no pictures; `tensorboardX` (pip install 'keras-maskrcnn[tensorboard]') writes such files on every backend.
Called by `experiment.train_model`, and by users in `fit`.
"""

import keras

from keras_maskrcnn.inference.overlays import overlays


class BoardWriter(keras.callbacks.Callback):
    """Writes an epoch's figures, and pictures after each epoch that was evaluated. Steps are epochs, counted from 1.

    Put it after the callbacks that add to the logs. Scalars are called loss/..., coco/bbox/..., coco/segm/...,
    learning_rate and data_wait; pictures prediction/<image id>.

    Args:
        directory: folder for the event files; show it with `tensorboard --logdir DIRECTORY`.
        val: dataset or DataLoader as in `evaluate_coco`; None draws no pictures.
        num_pictures: int, taken evenly from the whole dataset.
        purge_after: int, epochs that a resumed run had finished; what was written of later ones is withdrawn.

    Raises:
        ImportError: tensorboardX is not installed; says how to.
    """

    def __init__(self, directory, val=None, num_pictures=6, purge_after=0):
        super().__init__()
        self.directory, self.val, self.num_pictures = str(directory), val, num_pictures
        self.writer = _summary_writer(self.directory, purge_after + 1)

    def on_epoch_end(self, epoch, logs=None):
        """Write what the epoch brought."""
        step, logs = epoch + 1, dict(logs or {})
        logs["learning_rate"] = float(keras.ops.convert_to_numpy(self.model.optimizer.learning_rate))
        for name, value in logs.items():
            self.writer.add_scalar(_tag(name), float(value), step)
        if self.val is not None and "val_segm_AP" in logs:
            for name, picture in overlays(self.model, self.val, self.num_pictures):
                self.writer.add_image(f"prediction/{name}", picture, step, dataformats="HWC")
        self.writer.flush()  # a run killed later leaves whole epochs

    def on_train_end(self, logs=None):
        """Close the file."""
        self.writer.close()


def _tag(name):
    """Where TensorBoard shows a figure: what stands before the last slash makes a group."""
    if name.endswith("loss"):
        return f"loss/{name.removesuffix('_loss')}"
    for kind in ("bbox", "segm"):
        if name.startswith(f"val_{kind}_"):
            return f"coco/{kind}/{name.removeprefix(f'val_{kind}_')}"
    return name


def _summary_writer(directory, purge_step):
    try:
        from tensorboardX import SummaryWriter
    except ImportError as error:
        raise ImportError(
            "Event files for TensorBoard are written by tensorboardX. Received a Python without it. "
            "Install it: pip install 'keras-maskrcnn[tensorboard]'."
        ) from error
    return SummaryWriter(directory, purge_step=purge_step if purge_step > 1 else None)
