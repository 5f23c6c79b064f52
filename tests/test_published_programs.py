"""Other programs' published weights by name: downloaded from a server of this test's own, checked, loaded."""

import hashlib
import logging
import pickle
import re

import numpy as np
import pytest
from detectron2_parts import SMALL, faults, random_state, small_model
from web_servers import served

import keras_maskrcnn as km
from keras_maskrcnn import cli
from keras_maskrcnn.families import detectron2 as recipe
from keras_maskrcnn.families import tensorpack
from keras_maskrcnn.weights import catalogue, published, zoo
from keras_maskrcnn.weights.models import load_model

NAME = "detectron2/mask_rcnn_R_50_FPN_3x"
DIGITS = "f10217"


@pytest.fixture
def server(tmp_path, monkeypatch):
    """A folder that is served in the place of the programs' own servers, and the list of requested paths."""
    folder, asked = tmp_path / "served", []
    folder.mkdir()
    with served(folder, cut="cut.npz", asked=asked) as address:
        monkeypatch.setenv(published.MIRROR, address)
        yield folder, asked


def test_every_model_of_the_zoos_has_an_address():
    assert {f"detectron2/{name}" for name in recipe.CONFIGS} <= set(catalogue.FILES)
    assert {f"tensorpack/{name}" for name in tensorpack.CONFIGS} <= set(catalogue.FILES)
    for name, entry in catalogue.FILES.items():
        config = entry.make_config()
        assert catalogue.find(name) is entry and catalogue.of_file(entry.file) is entry
        counts = {"LVIS": 1230, "ityscapes": 8, "keypoint": 1, "": 80}
        assert config.num_classes == next(count for part, count in counts.items() if part in entry.url)
        assert entry.url.startswith("http")
    zoo = "https://dl.fbaipublicfiles.com/detectron2/"
    urls = {name: entry.url for name, entry in catalogue.FILES.items()}
    assert urls[NAME] == f"{zoo}COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_3x/137849600/model_final_f10217.pkl"
    pointrend = f"{zoo}PointRend/InstanceSegmentation/pointrend_rcnn_R_50_FPN_3x_coco/164955410/model_final_edd263.pkl"
    assert urls["detectron2/pointrend_rcnn_R_50_FPN_3x"] == pointrend
    lvis = "LVISv0.5-InstanceSegmentation/mask_rcnn_R_50_FPN_1x"
    assert urls[f"detectron2/{lvis}"] == f"{zoo}{lvis}/144219072/model_final_571f7c.pkl"
    assert urls["matterport/mask_rcnn_coco"].endswith("releases/download/v2.0/mask_rcnn_coco.h5")
    assert urls["tensorpack/COCO-MaskRCNN-R50FPN2x"].endswith("/FasterRCNN/COCO-MaskRCNN-R50FPN2x.npz")
    assert catalogue.FILES["mmdetection/mask_rcnn_r50_fpn_1x_coco"].sha256 == "d4b0c5d6"
    assert len({entry.file for entry in catalogue.FILES.values()}) == len(catalogue.FILES)


def test_names_as_users_write_them(tmp_path, monkeypatch):
    assert catalogue.find("detectron2/COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_3x.yaml").name == NAME
    assert catalogue.find("coco") is None and catalogue.find("runs/best") is None
    with pytest.raises(ValueError, match="must be one of mask_rcnn_R_50_FPN_1x.*Received: 'retinanet_R_50_FPN_3x'"):
        catalogue.find("detectron2/retinanet_R_50_FPN_3x")
    with pytest.raises(ValueError, match="published weights of matterport are matterport/mask_rcnn_coco. Received: "):
        catalogue.find("matterport/balloon")
    monkeypatch.chdir(tmp_path)
    assert str(published.local_path("detectron2/model_final.pth")) == "detectron2/model_final.pth"  # a path
    (tmp_path / "matterport").mkdir()
    (tmp_path / "matterport" / "mask_rcnn_coco").write_text("mine")
    assert published.local_path("matterport/mask_rcnn_coco").read_text() == "mine"


def test_downloads_once_and_compares_the_digits(cache_folder, server, caplog):
    folder, asked = server
    entry = catalogue.FILES[NAME]
    (folder / entry.file).write_bytes(b"weights")
    path = published.local_path(NAME)
    assert path == cache_folder / entry.file and published.local_path(NAME) == path and asked == [f"/{entry.file}"]
    digits = hashlib.md5(b"weights").hexdigest()[:6]
    assert f"{entry.file} starts with {digits}, not with {DIGITS} as in its name" in caplog.text
    entry = catalogue.FILES["mmdetection/mask_rcnn_r50_fpn_1x_coco"]
    (folder / entry.file).write_bytes(b"weights")
    with pytest.raises(ValueError, match="must have a SHA-256 that starts with d4b0c5d6"):
        published.local_path("mmdetection/mask_rcnn_r50_fpn_1x_coco")
    assert [each.name for each in cache_folder.iterdir()] == ["model_final_f10217.pkl"]


def test_a_download_that_ends_early_is_thrown_away(cache_folder, server, tmp_path):
    folder, _ = server
    (folder / "cut.npz").write_bytes(b"weights")
    entry = catalogue.PublishedFile("tensorpack/cut", "http://nowhere/cut.npz", None)
    with pytest.raises(OSError, match=r"cut.npz could not be downloaded: .*7 of 107 bytes|IncompleteRead"):
        published.fetch_published(entry)
    assert not list(cache_folder.iterdir())


def test_offline_says_from_where_and_to_where(cache_folder, monkeypatch):
    monkeypatch.setenv(published.MIRROR, "http://127.0.0.1:9/models")  # the discard port: nothing listens
    with pytest.raises(OSError) as error:
        published.local_path("tensorpack/COCO-MaskRCNN-R50FPN2x")
    text = str(error.value)
    assert "http://127.0.0.1:9/models/COCO-MaskRCNN-R50FPN2x.npz could not be downloaded" in text
    assert str(cache_folder / "COCO-MaskRCNN-R50FPN2x.npz") in text and published.MIRROR in text


@pytest.mark.slow_on_jax
def test_weights_by_name_in_python(cache_folder, server, caplog, monkeypatch):
    caplog.set_level(logging.INFO, "keras_maskrcnn")
    folder, _ = server
    model = small_model()
    state = random_state(model)
    (folder / f"model_final_{DIGITS}.pkl").write_bytes(pickle.dumps({"model": state, "__author__": "someone"}))
    receipt = km.load_weights(model, NAME)
    assert faults(model, state) == [] and receipt.family == "Detectron2" and "CC-BY-SA 3.0" in str(receipt)
    with pytest.raises(ValueError, match="maskrcnn_resnet50_fpn takes weights.*of one with backbone='resnet101'"):
        km.maskrcnn_resnet50_fpn(weights="detectron2/mask_rcnn_R_101_FPN_3x")
    with pytest.raises(ValueError, match=r"of one with branches=\['keypoints'\]"):
        km.maskrcnn_resnet50_fpn(weights="detectron2/keypoint_rcnn_R_50_FPN_3x")
    wanted = (
        r"model with {'branches': \['keypoints'\], 'backbone': 'resnet50'}. Received .* one with branches=\['mask'\]"
    )
    with pytest.raises(ValueError, match=f"keypointrcnn_resnet50_fpn takes weights of a {wanted}"):
        km.keypointrcnn_resnet50_fpn(weights=NAME)
    # A builder, of the small model: its own classes leave the last layers as they were drawn.
    monkeypatch.setitem(zoo.RESNET50, "backbone", SMALL["backbone"])
    built = km.maskrcnn_resnet50_fpn(3, weights=NAME, **SMALL)
    heads = r"roi_heads\.(box_predictor|mask_head\.predictor)\..*"
    assert (
        set(faults(built, state)) == {name for name in state if re.fullmatch(heads, name)}
        and built.config.resize == "pillow"
    )
    assert built.origin["url"].endswith("137849600/model_final_f10217.pkl") and "CC-BY-SA" in built.origin["licence"]
    assert built.origin["family"] == "Detectron2" and built.origin["sha256"] == receipt.sha256
    assert str(built.weights_receipt) in caplog.text


@pytest.mark.slow
def test_builders_and_the_command_line_take_the_names(cache_folder, server, tmp_path, capsys):
    folder, asked = server
    small = {"fpn_channels": 16, "box_features": 24, "mask_channels": 8}
    model = small_model(num_classes=80, backbone="resnet50", **small)
    state = random_state(model)
    (folder / f"model_final_{DIGITS}.pkl").write_bytes(pickle.dumps({"model": state}))
    built = km.maskrcnn_resnet50_fpn(weights=NAME, **small)
    assert faults(built, state) == [] and built.config.resize == "pillow" and built.config.class_names[0] == "person"
    assert built.origin["url"].endswith("model_final_f10217.pkl") and "CC-BY-SA" in built.origin["licence"]
    mine = km.maskrcnn_resnet50_fpn(3, weights=NAME, **small)
    assert mine.config.num_classes == 3 and len(mine.weights_receipt.missing) == 6
    np.testing.assert_array_equal(mine.box_head.fcs[1].kernel, built.box_head.fcs[1].kernel)
    assert cli.main(["convert", NAME, str(tmp_path / "zoo.keras")]) == cli.SUCCESS
    assert "CC-BY-SA 3.0" in capsys.readouterr().out
    converted = load_model(tmp_path / "zoo.keras")
    assert faults(converted, state) == [] and converted.origin == built.origin
    assert len(asked) == 1
