"""Published weights: downloaded from a server of this test's own, verified, converted, cached."""

import concurrent.futures
import errno
import hashlib
import logging
import shutil
import time

import numpy as np
import pytest
from keras import ops
from tiny import scatter_weights
from web_servers import served

import keras_maskrcnn as km
from keras_maskrcnn.host import downloads
from keras_maskrcnn.host.files import write_json
from keras_maskrcnn.host.locks import locked_file
from keras_maskrcnn.weights import published, zoo

safetensors = pytest.importorskip("safetensors.numpy")


@pytest.fixture
def server(tmp_path, monkeypatch):
    """A folder that is served over HTTP in the place of download.pytorch.org, and the list of requested paths."""
    folder, asked = tmp_path / "served" / "models", []
    folder.mkdir(parents=True)
    with served(folder.parent, asked=asked) as address:
        monkeypatch.setenv(published.MIRROR, f"{address}/models")
        yield folder, asked


def named_by_hash(name, content):
    return f"{name}-{hashlib.sha256(content).hexdigest()[:8]}.pth"


def test_downloads_once_and_verifies(cache_folder, server):
    folder, asked = server
    content = b"weights" * 1000
    file = named_by_hash("resnet", content)
    (folder / file).write_bytes(content)
    path = published.fetch(file)
    assert path == cache_folder / file and path.read_bytes() == content
    assert published.fetch(file) == path and len(asked) == 1
    assert [each.name for each in cache_folder.iterdir()] == [file]


def test_two_that_want_the_same_file_download_it_once(cache_folder, server, caplog):
    folder, asked = server
    caplog.set_level(logging.INFO, "keras_maskrcnn")
    content = b"weights" * 100_000
    file = named_by_hash("resnet", content)
    (folder / file).write_bytes(content)
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        with locked_file(cache_folder / file):  # both begin while a third one is there
            paths = [pool.submit(published.fetch, file) for _ in range(2)]
            while caplog.text.count("waiting for process") < 2:
                time.sleep(0.01)
    assert [path.result().read_bytes() for path in paths] == [content] * 2 and len(asked) == 1
    assert [each.name for each in cache_folder.iterdir()] == [file]


@pytest.mark.parametrize("text", [b"", b'{"sha256": ', b"\xff\x00\x12", b"[]", b"7", b'{"sha256": "0"}', b"null"])
def test_a_damaged_sidecar_is_named_and_its_file_is_converted_again(tmp_path, caplog, text):
    caplog.set_level(logging.INFO, "keras_maskrcnn")
    converted = tmp_path / "resnet18.backbone.weights.h5"
    converted.write_bytes(b"weights")
    account = {"keras_maskrcnn": published.package_version(), "sha256": hashlib.sha256(b"weights").hexdigest()}
    write_json(converted.with_suffix(".json"), account)
    assert published.is_intact(converted) and caplog.text == ""
    converted.with_suffix(".json").write_bytes(text)
    assert not published.is_intact(converted)
    assert f"{converted.with_suffix('.json')} is damaged (" in caplog.text and "converted again" in caplog.text


def test_a_full_disk_is_not_taken_for_a_failed_download(cache_folder, server, monkeypatch):
    folder, _ = server
    file = named_by_hash("resnet", b"good")
    (folder / file).write_bytes(b"good")

    def full(url, path):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(downloads, "_download", full)
    with pytest.raises(OSError, match=f"Writing {cache_folder / file} needs room on its disk"):
        published.fetch(file)
    assert not list(cache_folder.iterdir())


def test_a_damaged_download_is_thrown_away(cache_folder, server):
    folder, _ = server
    file = named_by_hash("resnet", b"good")
    (folder / file).write_bytes(b"bad")
    with pytest.raises(ValueError, match=f"starts with {file[-12:-4]}.*{hashlib.sha256(b'bad').hexdigest()}"):
        published.fetch(file)
    assert not list(cache_folder.iterdir())
    (folder / file).write_bytes(b"good")
    assert published.fetch(file).read_bytes() == b"good"


def test_offline_says_from_where_and_to_where(cache_folder, monkeypatch):
    monkeypatch.setenv(published.MIRROR, "http://127.0.0.1:9/models")  # the discard port: nothing listens
    file = named_by_hash("resnet", b"good")
    with pytest.raises(OSError) as error:
        published.fetch(file)
    assert f"http://127.0.0.1:9/models/{file}" in str(error.value)
    assert str(cache_folder / file) in str(error.value) and published.MIRROR in str(error.value)
    assert not list(cache_folder.iterdir())
    (cache_folder / file).write_bytes(b"good")  # by hand
    assert published.fetch(file).read_bytes() == b"good"
    (cache_folder / file).write_bytes(b"goo")
    with pytest.raises(ValueError, match="Delete"):
        published.fetch(file)


def test_published_names(monkeypatch):
    assert published.URL == "https://download.pytorch.org/models/"
    assert published.find_file("coco", "maskrcnn_resnet50_fpn", "resnet50").endswith("_coco-bf2d0c1e.pth")
    assert published.find_file("imagenet", "anything", "resnet101") == "resnet101-63fe2227.pth"
    with pytest.raises(ValueError, match="for maskrcnn_resnet50_fpn and maskrcnn_resnet50_fpn_v2"):
        km.maskrcnn_resnet18_fpn(weights="coco")
    with pytest.raises(ValueError, match="load_weights"):
        km.maskrcnn_resnet18_fpn(weights="my.pth")
    with pytest.raises(
        ValueError, match="Received 'coco' for maskrcnn_resnet101_fpn with resnet101. For your own file"
    ):
        km.maskrcnn_resnet101_fpn(weights="coco")
    with pytest.raises(
        ValueError, match="Received 'persons' for keypointrcnn_resnet50_fpn with resnet50. For your own"
    ):
        km.keypointrcnn_resnet50_fpn(weights="persons")


def serve_state(folder, state, monkeypatch, table, key):
    """Serve a state dict under a name with its true hash, as the published file of `key`."""
    made = folder / "made"
    safetensors.save_file(state, made)
    file = named_by_hash(key, made.read_bytes())
    shutil.move(made, folder / file)
    monkeypatch.setitem(table, key, file)
    # torch writes .pth; what reads it has tests of its own (test_pth.py).
    monkeypatch.setattr(published, "read_pth", safetensors.load_file)
    return file


@pytest.fixture
def narrow(monkeypatch):
    """The published models with few and narrow layers: files of a fraction of the size."""
    few = {"backbone": "resnet18", "fpn_channels": 32, "box_features": 32, "mask_convs": 1, "mask_channels": 16}
    real = zoo.MaskRCNNConfig
    monkeypatch.setattr(zoo, "MaskRCNNConfig", lambda **fields: real(**(fields | few)))


def test_coco_in_one_line(cache_folder, server, monkeypatch, capsys, caplog, narrow):
    caplog.set_level(logging.INFO, "keras_maskrcnn")
    folder, asked = server
    state = km.torchvision_state_dict(scatter_weights(km.maskrcnn_resnet50_fpn(90)))
    file = serve_state(folder, state, monkeypatch, published.COCO_FILES, "maskrcnn_resnet50_fpn")
    monkeypatch.setitem(published.NORM_EPSILONS, file, 0.0)

    model = km.maskrcnn_resnet50_fpn(weights="coco")
    assert model.weights_receipt.complete and "tensors used" in caplog.text
    assert model.config.class_names[17] == "horse" and model.config.category_ids[79] == 90
    assert model.config.norm_epsilon == 0.0 and model.config.trainable_layers == 3
    kernel = ops.convert_to_numpy(model.box_head.classes.kernel)
    theirs = state["roi_heads.box_predictor.cls_score.weight"]
    np.testing.assert_array_equal(kernel[:, 17], theirs[19])  # horse is category 19
    np.testing.assert_array_equal(kernel[:, 80], theirs[0])

    # For classes of one's own: from the cache, without the last layers.
    caplog.clear()
    mine = km.maskrcnn_resnet50_fpn(3, weights="coco", class_names=("a", "b", "c"), trainable_layers=5)
    assert len(asked) == 1 and len(mine.weights_receipt.missing) == 6
    assert "unchanged: box_head/classes" in caplog.text
    assert capsys.readouterr().out == ""
    assert mine.config.class_names == ("a", "b", "c") and mine.config.trainable_layers == 5
    np.testing.assert_array_equal(mine.box_head.fcs[1].kernel, model.box_head.fcs[1].kernel)

    # A cached file that was cut short is noticed, and made again from the download.
    converted = next(cache_folder.glob("*.80.weights.h5"))
    assert published.is_intact(converted)
    converted.write_bytes(converted.read_bytes()[:-1000])
    assert not published.is_intact(converted)
    again = km.maskrcnn_resnet50_fpn(weights="coco")
    assert again.weights_receipt.complete and published.is_intact(converted) and len(asked) == 1
    np.testing.assert_array_equal(again.rpn.deltas.kernel, model.rpn.deltas.kernel)


def test_imagenet_backbone(cache_folder, server, monkeypatch, narrow):
    folder, asked = server
    source = km.torchvision_state_dict(km.maskrcnn_resnet18_fpn(1, seed=5))
    prefix = "backbone.body."
    state = {n.removeprefix(prefix): a for n, a in source.items() if n.startswith(prefix)}
    state["fc.weight"] = np.ones((1000, 512), "float32")
    serve_state(folder, state, monkeypatch, published.IMAGENET_FILES, "resnet18")
    model = km.maskrcnn_resnet18_fpn(2, weights="imagenet", norm="batch")
    stem = ops.convert_to_numpy(model.backbone.stem.conv.kernel)
    np.testing.assert_array_equal(stem, state["conv1.weight"].transpose(2, 3, 1, 0))
    assert len(model.weights_receipt.used) == 20 * 5 and model.config.trainable_layers == 3
    km.maskrcnn_resnet18_fpn(2, weights="imagenet")
    assert len(asked) == 1 and len(list(cache_folder.glob("*.backbone.weights.h5"))) == 1


def test_a_home_that_cannot_be_written_to_is_named_with_the_variable_that_moves_it(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")  # a folder inside a file cannot be made, whoever asks
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "file"))
    with pytest.raises(OSError, match=r"file/keras_maskrcnn: it cannot be created. Set .* KERAS_HOME"):
        published.fetch(published.IMAGENET_FILES["resnet18"])
    monkeypatch.delenv("KERAS_HOME")
    monkeypatch.setattr(published.os.path, "expanduser", lambda path: path)
    with pytest.raises(OSError, match="no home folder. Set .* KERAS_HOME"):
        published.cache_folder()
