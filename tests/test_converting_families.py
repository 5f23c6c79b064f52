"""Other programs' files to models of this package: `convert_file`, the command, and what the saved model keeps."""

import dataclasses
import pickle
import sys

import numpy as np
import pytest
from backend_tools import to_numpy
from detectron2_parts import SMALL, faults, random_state, small_model
from matterport_parts import write_h5

import keras_maskrcnn as km
from keras_maskrcnn import cli
from keras_maskrcnn.serving.folding import optimize_for_inference
from keras_maskrcnn.weights.convert import convert_file
from keras_maskrcnn.weights.loading import read_state
from keras_maskrcnn.weights.models import load_model

IMAGE = np.random.default_rng(3).integers(0, 256, (50, 70, 3), np.uint8)


def same_answers(one, other):
    found, again = (km.Predictor(model)(IMAGE) for model in (one, other))
    assert len(found) == len(again) > 0
    np.testing.assert_allclose(found.boxes, again.boxes, atol=1e-3)
    np.testing.assert_allclose(found.scores, again.scores, atol=1e-5)


@pytest.mark.slow
def test_a_zoo_file_becomes_a_model_with_its_origin(tmp_path, capsys):
    model = small_model(backbone="resnet50")
    state = random_state(model)
    km.load_weights(model, state)
    source, target = tmp_path / "model_final_f10217.pkl", tmp_path / "model.keras"
    source.write_bytes(pickle.dumps({"model": state, "__author__": "someone"}))
    options = ["--min-size", str(SMALL["min_size"]), "--max-size", str(SMALL["max_size"])]
    assert cli.main(["convert", str(source), str(target), *options]) == cli.SUCCESS
    told = capsys.readouterr().out
    for words in ("CC-BY-SA 3.0", "SHA-256", "by the digits in the name", "it is not the published"):
        assert words in told
    converted = load_model(target)
    assert faults(converted, state) == [] and converted.config.stride_in_1x1 and converted.config.resize == "pillow"
    assert converted.origin["family"] == "Detectron2" and converted.origin["file"] == source.name
    assert len(converted.origin["sha256"]) == 64 and "CC-BY-SA" in converted.origin["licence"]
    fields = {name: getattr(model.config, name) for name in ("test_pre_nms", "test_post_nms", "score_threshold")}
    converted.config = dataclasses.replace(converted.config, max_detections=10, **fields)
    same_answers(model, converted)


@pytest.mark.slow
def test_a_warm_start_has_this_packages_arithmetic(tmp_path):
    from test_matterport import random_state as layers
    from test_matterport import small_config

    model = km.MaskRCNN(small_config())
    source, target = write_h5(tmp_path / "mine.h5", layers(model)), tmp_path / "warm.keras"
    sizes = {"rpn_channels": 24, "fpn_channels": 16, "box_features": 20, "mask_channels": 12}
    receipt = convert_file(source, target, warm_start=True, **sizes)
    assert "the numbers are not those of matterport" in str(receipt)
    config = load_model(target).config
    assert (config.roi_sampling, config.canvas, config.resize) == ("align", "tight", "bilinear")
    assert (config.anchor_ratios, config.rpn_box_weights) == ((2.0, 1.0, 0.5), (10.0, 10.0, 5.0, 5.0))


def test_options_of_other_programs_files_are_refused_elsewhere(tmp_path):
    for options, words in (({"architecture": "x"}, 'architecture="x"'), ({"warm_start": True}, "warm_start=True")):
        with pytest.raises(ValueError, match=f"converted as it is. Received {words}"):
            convert_file("model.keras", tmp_path / "a.safetensors", **options)


def test_files_that_are_not_converted(tmp_path):
    target, keras_3 = tmp_path / "a.keras", write_h5(tmp_path / "ours.weights.h5", {"conv/vars/0": np.zeros(2)})
    with pytest.raises(FileNotFoundError, match="a file of weights at .*none.pth. There is none. Check its path"):
        convert_file(tmp_path / "none.pth", target)
    (tmp_path / "page.weights.h5").write_text("<html>404")
    for source in (keras_3, tmp_path / "page.weights.h5"):
        for name in (target, tmp_path / "a.safetensors"):  # whatever it shall become
            with pytest.raises(
                ValueError, match=f"from its .keras file or run.*Received: {source}, which holds weights"
            ):
                convert_file(source, name)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ours.weights.h5", "page.weights.h5"]


def test_without_safetensors_the_package_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "safetensors", None)
    words = "needs the package safetensors. Received: it is not.*pip install 'keras-maskrcnn\\[safetensors\\]'"
    with pytest.raises(ImportError, match=words):
        read_state(tmp_path / "a.safetensors")
    with pytest.raises(ImportError, match=words):  # before the model is looked for
        convert_file(tmp_path / "none.keras", tmp_path / "a.safetensors")


@pytest.mark.slow
def test_a_square_canvas_survives_saving_and_folding():
    from test_matterport import random_state as layers
    from test_matterport import small_config

    config = dataclasses.replace(
        small_config(), backbone="resnet10", score_threshold=0.0, test_pre_nms=60, test_post_nms=20, max_detections=10
    )
    model = km.MaskRCNN(config)
    state = layers(model)
    km.load_weights(model, {name: array * (0.1 if "class_logits" in name else 1) for name, array in state.items()})
    assert km.MaskRCNNConfig.from_dict(config.to_dict()) == config
    folded = optimize_for_inference(model)
    assert folded.config.fpn_norm == "none" and folded.config.head_norm is None
    batch = {"images": IMAGE[None].astype("float32"), "image_sizes": np.array([[50, 70]], np.int32)}
    ours, theirs = ({name: to_numpy(value) for name, value in each(batch).items()} for each in (model, folded))
    np.testing.assert_allclose(ours["boxes"], theirs["boxes"], atol=2e-2)
    np.testing.assert_allclose(ours["masks"], theirs["masks"], atol=1e-3)
    larger = {**batch, "images": np.pad(batch["images"], [(0, 0), (0, 14), (0, 26), (0, 0)])}  # another canvas outside
    np.testing.assert_array_equal(ours["boxes"], to_numpy(model(larger)["boxes"]))
    assert (ours["boxes"][0] >= 0).all() and (ours["boxes"][0, :, 2] <= 70).all() and ours["valid"].any()
