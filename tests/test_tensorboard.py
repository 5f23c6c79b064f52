"""What the event files hold, read back record by record: figures and pictures of each epoch."""

import builtins
import io
import struct

import keras
import numpy as np
import pytest
from known_answers import KnownDataset, KnownModel, answers_from, small_config
from PIL import Image

from keras_maskrcnn.inference.overlays import overlays
from keras_maskrcnn.runs.tensorboard import BoardWriter


def events(directory):
    """Events of all files in order; a record is length, its checksum, data, its checksum (little endian)."""
    from tensorboardX.proto.event_pb2 import Event

    found = []
    for file in sorted(directory.iterdir()):
        data, at = file.read_bytes(), 0
        while at < len(data):
            (length,) = struct.unpack("<Q", data[at : at + 8])
            found.append(Event.FromString(data[at + 12 : at + 12 + length]))
            at += 12 + length + 4
    return found


def values(directory):
    return {(value.tag, event.step): value for event in events(directory) for value in event.summary.value}


def board(directory, **options):
    dataset = KnownDataset([[(10, 10, 30, 30, 0)], [(50, 50, 90, 80, 0), (5, 5, 20, 20, 0)]])
    writer = BoardWriter(directory, dataset, **options)
    model = KnownModel(small_config(), answers_from(dataset) * 2)
    model.optimizer = keras.optimizers.SGD(0.25)
    writer.set_model(model)
    return writer


def test_scalars_and_pictures_can_be_read_back(tmp_path):
    pytest.importorskip("tensorboardX")
    writer = board(tmp_path)
    writer.on_epoch_end(0, {"loss": 3.5, "mask_loss": 0.625, "data_wait": 0.125})
    writer.on_epoch_end(1, {"loss": 2.5, "val_segm_AP": 0.75, "val_bbox_AP50": 0.5})
    writer.on_train_end()
    found = values(tmp_path)
    scalars = {key: value.simple_value for key, value in found.items() if value.HasField("simple_value")}
    assert scalars == {
        ("loss/loss", 1): 3.5,
        ("loss/mask", 1): 0.625,
        ("data_wait", 1): 0.125,
        ("learning_rate", 1): 0.25,
        ("loss/loss", 2): 2.5,
        ("coco/segm/AP", 2): 0.75,
        ("coco/bbox/AP50", 2): 0.5,
        ("learning_rate", 2): 0.25,
    }
    pictures = {key: value.image for key, value in found.items() if value.HasField("image")}
    assert set(pictures) == {("prediction/100", 2), ("prediction/101", 2)}  # where AP was measured
    dataset = writer.val
    drawn = dict(overlays(KnownModel(small_config(), answers_from(dataset)), dataset, 2))
    for (tag, _), image in pictures.items():
        # 200 pixels, enlarged twice, two side by side with 8 between, below 24 of titles.
        assert (image.height, image.width) == (424, 808)
        pixels = np.asarray(Image.open(io.BytesIO(image.encoded_image_string)))
        np.testing.assert_array_equal(pixels, drawn[tag.split("/")[1]])


def test_a_resumed_run_withdraws_what_it_will_write_again(tmp_path):
    pytest.importorskip("tensorboardX")
    writer = board(tmp_path, purge_after=3)
    writer.on_epoch_end(3, {"loss": 1.0})
    writer.on_train_end()
    starts = [event.step for event in events(tmp_path) if event.HasField("session_log")]
    assert starts == [4] and ("loss/loss", 4) in values(tmp_path)


def test_without_tensorboardx_the_extra_is_named(tmp_path, monkeypatch):
    real = builtins.__import__

    def missing(name, *args, **kwargs):
        if name == "tensorboardX":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(ImportError, match=r"pip install 'keras-maskrcnn\[tensorboard\]'"):
        board(tmp_path)
