"""The way from matterport's Mask_RCNN: docs/from_matterport.md against the code, and the sample's scripts."""

import ast
import dataclasses
import importlib
import pathlib
import re
import runpy
import sys
import types

import keras
import numpy as np
import pytest
from known_answers import KnownModel, small_config
from matterport_datasets import Boxes
from PIL import Image
from test_matterport import random_state
from test_matterport import small_config as matterport_config
from test_samples import SIDE, SMALL, check_run, discs, load_sample, write_balloons

import keras_maskrcnn as km
from keras_maskrcnn.weights import zoo

ROOT = pathlib.Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "from_matterport.md").read_text(encoding="utf-8")
THEIRS = """
    NAME GPU_COUNT IMAGES_PER_GPU STEPS_PER_EPOCH VALIDATION_STEPS BACKBONE COMPUTE_BACKBONE_SHAPE BACKBONE_STRIDES
    FPN_CLASSIF_FC_LAYERS_SIZE TOP_DOWN_PYRAMID_SIZE NUM_CLASSES RPN_ANCHOR_SCALES RPN_ANCHOR_RATIOS RPN_ANCHOR_STRIDE
    RPN_NMS_THRESHOLD RPN_TRAIN_ANCHORS_PER_IMAGE PRE_NMS_LIMIT POST_NMS_ROIS_TRAINING POST_NMS_ROIS_INFERENCE
    USE_MINI_MASK MINI_MASK_SHAPE IMAGE_RESIZE_MODE IMAGE_MIN_DIM IMAGE_MAX_DIM IMAGE_MIN_SCALE IMAGE_CHANNEL_COUNT
    MEAN_PIXEL TRAIN_ROIS_PER_IMAGE ROI_POSITIVE_RATIO POOL_SIZE MASK_POOL_SIZE MASK_SHAPE MAX_GT_INSTANCES
    RPN_BBOX_STD_DEV BBOX_STD_DEV DETECTION_MAX_INSTANCES DETECTION_MIN_CONFIDENCE DETECTION_NMS_THRESHOLD LEARNING_RATE
    LEARNING_MOMENTUM WEIGHT_DECAY LOSS_WEIGHTS USE_RPN_ROIS TRAIN_BN GRADIENT_CLIP_NORM
""".split()  # the fields of mrcnn/config.py, in order

pytestmark = pytest.mark.tensorflow


# The page ----------------------------------------------------------------------------------------------------


def table_of_fields():
    """[[theirs, default, field, matterport(), MaskRCNNConfig(), note]]."""
    section = PAGE.split("## The config")[1].split("## The script")[0]
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in section.splitlines() if line.startswith("|")]
    return rows[2:]


def test_the_table_has_each_field_and_the_values_of_the_code():
    rows, known = table_of_fields(), {field.name for field in dataclasses.fields(km.MaskRCNNConfig)}
    assert [row[0].strip("`") for row in rows if row[0]] == THEIRS
    assert all(len(row) == 6 for row in rows) and sum(bool(row[2]) for row in rows) == 31
    configs = km.MaskRCNNConfig.matterport("resnet101"), km.MaskRCNNConfig(num_classes=1)
    for _, _, field, *values, _ in rows:
        name = field.strip("`")
        assert not field or name in known, field
        for stated, config in zip(values, configs, strict=True):
            assert not stated or ast.literal_eval(stated) == getattr(config, name), (name, stated)


def test_the_page_names_what_there_is():
    for name in {*re.findall(r"\bkm\.([A-Za-z_0-9.]+[A-Za-z_0-9])", PAGE)}:
        found = km
        for part in name.split("."):
            found = getattr(found, part)
    table = PAGE.split("| imgaug |")[1].split("Any other change")[0]
    calls = [call for row in table.splitlines()[2:] if row for call in re.findall(r"`([^`]+)`", row.split("|")[2])]
    x, y = km.data.RandomFlip(), km.data.RandomNoise()
    scope = vars(km.data) | {name: getattr(km.data, name) for name in km.data.__all__}
    scope |= {"x": x, "y": y, "brightness": 0.1, "contrast": 0.1, "saturation": 0.1, "hue": 0.1}
    made = [part for call in calls for part in _listed(eval(call, scope))]  # noqa: S307  our own page
    assert len(made) == 13 and all(callable(one) for one in made)
    assert {path for path in re.findall(r"\]\(([a-z_0-9]+\.md)\)", PAGE)} <= {p.name for p in (ROOT / "docs").iterdir()}


def _listed(value):
    return value if isinstance(value, list) else [value]


def test_a_function_of_pixels_is_an_augmentation():
    code = PAGE.split("is a function of yours:")[1].split("```python")[1].split("```")[0]
    images, masks = [np.full((SIDE, SIDE, 3), 200, np.uint8)] * 4, [[np.eye(SIDE)[::-1] + 1]] * 4
    config = km.MaskRCNNConfig(num_classes=1, min_size=SIDE, max_size=SIDE)
    scope = {"km": km, "data": km.data.ArrayDataset(images, masks), "config": config}
    exec(code, scope)  # noqa: S102  our own page
    batch = scope["loader"][0]
    assert len(scope["loader"]) == 2 and batch["images"].max() <= 200 and 100 <= batch["images"][0].min() < 200


# Weights and evaluation ----------------------------------------------------------------------------------------


def test_a_perfect_model_is_measured_as_one():
    scenes = [[(1, 2, 3, 10, 20), (-3, 5, 5, 40, 30)], [], [(2, 0, 0, 60, 40)], [(2, 1, 1, 50, 40), (1, 2, 2, 9, 9)]]
    answers = [
        (
            [one[1:] for one in scene if one[0] > 0],
            [0.9 for one in scene if one[0] > 0],
            [k - 1 for k, *_ in scene if k > 0],
        )
        for scene in scenes
    ]
    model = KnownModel(small_config(3, class_names=("cat", "dog", "bird")), answers)
    metrics = km.evaluate_coco(model, km.data.from_matterport(Boxes(scenes)))
    assert metrics["segm_AP"] == metrics["bbox_AP"] == 1.0
    assert metrics["segm_AP/bird"] == -1  # a crowd region alone


@pytest.mark.slow  # a ResNet-50, twice
def test_weights_of_other_classes_load_but_for_the_last_layers():
    state = random_state(km.MaskRCNN(matterport_config(80)))
    model = km.MaskRCNN(matterport_config(1))
    before = keras.ops.convert_to_numpy(model.box_head.classes.kernel).copy()
    km.load_weights(model, state, heads=False)
    kernel = state["fpn_c2p2/fpn_c2p2/kernel:0"]
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(model.fpn.laterals[0].conv.kernel), kernel)
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(model.box_head.classes.kernel), before)
    with pytest.raises(ValueError, match="mrcnn_class_logits"):
        km.load_weights(model, state)


# The sample --------------------------------------------------------------------------------------------------


@pytest.fixture
def sample_path(monkeypatch):
    """The sample's folder among those that are imported from, and none of its modules left behind."""
    monkeypatch.syspath_prepend(str(ROOT / "samples" / "from_matterport"))
    for name in ("balloon_dataset", "mrcnn_dataset", "mrcnn"):
        monkeypatch.delitem(sys.modules, name, raising=False)


def stand_in(monkeypatch, **parts):
    """Modules that stand for `mrcnn`, with the base class of the sample, and what else the test needs."""
    base = importlib.import_module("mrcnn_dataset").Dataset
    modules = {"config": {"Config": object}, "utils": {"Dataset": base}, "model": {}, "visualize": {}}
    package = types.ModuleType("mrcnn")
    monkeypatch.setitem(sys.modules, "mrcnn", package)
    for name, content in modules.items():
        module = types.ModuleType(f"mrcnn.{name}")
        vars(module).update(content | parts.get(name, {}))
        monkeypatch.setitem(sys.modules, f"mrcnn.{name}", module)
        setattr(package, name, module)


def test_the_old_script_its_class_and_the_reader_have_the_same_objects(tmp_path, monkeypatch, sample_path):
    for part, count in (("train", 3), ("val", 1)):
        write_balloons(tmp_path / "balloon" / part, count, dict)
    stand_in(monkeypatch)
    before = load_sample("from_matterport/before.py")
    old = before.read(str(tmp_path / "balloon"), "train")
    after = load_sample("from_matterport/after.py").read(str(tmp_path / "balloon"), "train")
    reader = km.open_dataset(tmp_path / "balloon" / "train", class_names=["balloon"])
    assert after.class_names == reader.class_names == ("balloon",) and len(after) == len(reader) == 3
    assert km.data.from_matterport(old).to_coco() == after.to_coco()
    for position, image_id in enumerate(after.image_ids):
        masks, class_ids = old.load_mask(image_id)
        assert class_ids.tolist() == [1, 1]
        windows = [one.mask.window(SIDE, SIDE) for one in after[position].instances]
        for mask, window, ours in zip(np.moveaxis(masks, 2, 0), windows, reader[position].instances, strict=True):
            height, width = window.pixels.shape
            np.testing.assert_array_equal(
                window.pixels, mask[window.y : window.y + height, window.x : window.x + width]
            )
            assert window.pixels.sum() == mask.sum()
            other = ours.mask.window(SIDE, SIDE)  # skimage and COCO fill outlines by different rules
            assert other.pixels.sum() / mask.sum() == pytest.approx(1, abs=0.15)
        np.testing.assert_array_equal(after.load_image(position), reader.load_image(position))


def test_the_old_script_calls_what_it_called(tmp_path, monkeypatch, sample_path):
    calls = []

    class Model:
        def __init__(self, mode, config, model_dir):
            calls.append((mode, config.NUM_CLASSES))

        def load_weights(self, path, by_name, exclude=()):
            calls.append((path, len(exclude)))

        def train(self, train, val, learning_rate, epochs, layers):
            calls.append((train.num_images, val.num_images, learning_rate, epochs, layers))

    write_balloons(tmp_path / "train", 2, dict)
    write_balloons(tmp_path / "val", 1, list)
    stand_in(monkeypatch, model={"MaskRCNN": Model}, config={"Config": type("Config", (), {"LEARNING_RATE": 0.001})})
    load_sample("from_matterport/before.py").train(str(tmp_path), "mask_rcnn_coco.h5")
    assert calls == [("training", 2), ("mask_rcnn_coco.h5", 4), (2, 1, 0.001, 30, "heads")]


def test_what_is_found_as_the_old_script_had_it(tmp_path, monkeypatch, sample_path):
    sample = load_sample("from_matterport/after.py")
    x, y, radius = discs(0)[1][0]
    box = (x - radius, y - radius, x + radius, y + radius)
    model = KnownModel(small_config(class_names=("balloon",)), [([box], [0.95], [0])])
    monkeypatch.chdir(tmp_path)
    Image.fromarray(discs(0)[0]).save("photo.png")
    found = km.Predictor(model, score_threshold=0.9)(km.data.read_image("photo.png"))
    monkeypatch.setattr(km, "Predictor", lambda run, score_threshold: lambda image: found)
    old = sample.detect("photo.png")
    assert old["rois"].tolist() == [[box[1], box[0], box[3], box[2]]] and old["rois"].dtype == np.int32
    assert old["class_ids"].tolist() == [1] and old["scores"].tolist() == pytest.approx([0.95])
    assert old["masks"].shape == (SIDE, SIDE, 1) and old["masks"].dtype == bool
    np.testing.assert_array_equal(old["masks"][..., 0], found.masks[0])
    assert Image.open("found.png").size == (SIDE, SIDE)


@pytest.mark.slow  # test_samples trains the same model on the same photos
def test_both_new_scripts_train(tmp_path, monkeypatch, capsys, sample_path):
    for part, count in (("train", 4), ("val", 1)):
        write_balloons(tmp_path / "balloon" / part, count, list)
    monkeypatch.chdir(tmp_path)
    config, train_model = km.MaskRCNNConfig, km.train_model
    monkeypatch.setattr(zoo, "MaskRCNNConfig", lambda **fields: config(**(fields | SMALL)))

    def without_download(num_classes, weights, **fields):
        assert weights == "coco"
        return zoo.maskrcnn_resnet18_fpn(num_classes, norm="batch", min_size=SIDE, **fields)

    def two_steps(*given, epochs):
        return train_model(*given, epochs=1, steps_per_epoch=2, verbose=0)

    monkeypatch.setattr(km, "maskrcnn_resnet50_fpn", without_download)
    monkeypatch.setattr(km, "train_model", two_steps)
    load_sample("from_matterport/after.py").train("balloon", run="first")
    assert check_run(tmp_path / "first", overlays=1)["class_names"] == ["balloon"]
    monkeypatch.setattr(sys, "argv", ["after_reader.py", "balloon"])
    runpy.run_path(str(ROOT / "samples" / "from_matterport" / "after_reader.py"))
    assert check_run(tmp_path / "run", overlays=1)["class_names"] == ["balloon"]
    assert capsys.readouterr().out.count("\nballoon ") == 2
