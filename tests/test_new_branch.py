"""samples/new_branch: a branch from user code moves, trains, predicts, is drawn, saved, loaded and exported."""

import json
import os
import pathlib
import subprocess
import sys
import types

import keras
import numpy as np
import pytest
import test_compatibility
from child_processes import python_path
from old_files import write_archive
from serving_answers import export_one_signature
from tiny import images_only, plain_backbone, tiny_config

import keras_maskrcnn as km
from keras_maskrcnn.branches import Branch, BranchHead
from keras_maskrcnn.data.loading.batches import BatchMaker
from keras_maskrcnn.inference.found import FoundInstances

TESTS = pathlib.Path(__file__).parent
SAMPLE = TESTS.parent / "samples" / "new_branch"
sys.path.insert(0, str(SAMPLE))
from orientation import Orientation  # noqa: E402
from train import arrows  # noqa: E402

CONFIG = tiny_config(num_classes=1, class_names=["arrow"], branches=("mask", Orientation()), norm="batch")


def one_object(**options):
    """The batch of one 64x96 image with an object near its left side that points right and down (3, 4)."""
    image, mask = np.zeros((64, 96, 3), np.uint8), np.zeros((64, 96), bool)
    mask[20:40, 10:30] = True
    attributes = [[{"direction": [3, 4]}]]
    dataset = km.data.ArrayDataset([image], [[mask]], class_names=["arrow"], attributes=attributes)
    return BatchMaker(dataset, CONFIG, 1, canvas=(128, 128), **options)[0]


class Always:
    """A transform without chance: another view of the sample."""

    def __init__(self, change):
        self.change = change

    def __call__(self, sample, rng):
        return sample.with_view(self.change(sample.view))


@pytest.mark.parametrize(
    "change, expected",
    [
        (lambda view: view, (0.6, 0.8)),
        (lambda view: view.flipped_horizontally(), (-0.6, 0.8)),
        (lambda view: view.flipped_vertically(), (0.6, -0.8)),
        (lambda view: view.turned(), (0.8, -0.6)),  # counter-clockwise: right becomes up, down becomes right
        (lambda view: view.cropped(5, 5, 40, 40), (0.6, 0.8)),
        (lambda view: view.resized(128, 96), (3 / 73**0.5, 8 / 73**0.5)),  # twice as high
        (lambda view: view.rotated(90), (0.8, -0.6)),
    ],
)
def test_a_direction_moves_with_its_image(change, expected):
    batch = km.check_batch(one_object(transforms=[Always(change)]), CONFIG)
    np.testing.assert_allclose(batch["gt_orientation"][0, 0], expected, atol=1e-6)
    assert (batch["gt_orientation"][0, 1:] == 0).all()


def test_a_pasted_object_keeps_its_direction():
    paste = km.data.CopyPaste(transforms=(Always(lambda view: view.flipped_horizontally()),))
    batch = one_object(transforms=[paste])
    directions = batch["gt_orientation"][0][batch["gt_valid"][0]]
    assert [round(float(x), 3) for x in sorted(directions[:, 0])] in ([-0.6], [-0.6, 0.6])


def test_a_coco_file_brings_the_field(tmp_path):
    from PIL import Image

    Image.fromarray(np.zeros((64, 96, 3), np.uint8)).save(tmp_path / "a.png")
    annotation = {"id": 1, "image_id": 1, "category_id": 1, "iscrowd": 0, "direction": [0, -2], "area": 400}
    annotation["segmentation"] = [[10, 20, 30, 20, 30, 40, 10, 40]]
    content = {"images": [{"id": 1, "file_name": "a.png", "height": 64, "width": 96}], "annotations": [annotation]}
    (tmp_path / "a.json").write_text(json.dumps(content | {"categories": [{"id": 1, "name": "arrow"}]}))
    batch = BatchMaker(km.CocoDataset(tmp_path / "a.json", tmp_path), CONFIG, 1)[0]
    np.testing.assert_allclose(batch["gt_orientation"][0, 0], [0, -1], atol=1e-6)


def test_it_declares_what_is_wrong_with_a_batch():
    batch = one_object()
    with pytest.raises(ValueError, match=r"`gt_orientation` must have shape \(B, N, \[dx, dy\]\): unit vector"):
        km.check_batch(batch | {"gt_orientation": batch["gt_orientation"][..., :1]}, CONFIG)
    with pytest.raises(ValueError, match=r"missing \['gt_orientation'\]"):
        km.MaskRCNN(CONFIG)({key: value for key, value in batch.items() if key != "gt_orientation"})


@pytest.fixture(scope="module")
def trained():
    """A model that saw eight steps, and its history. They are traced; what comes later runs eagerly on TensorFlow."""
    keras.utils.set_random_seed(0)
    model = km.MaskRCNN(CONFIG, backbone=plain_backbone())
    model.compile(keras.optimizers.AdamW(2e-3, global_clipnorm=5.0))
    loader = km.DataLoader(arrows(8, 1), CONFIG, 4, canvas=(96, 96))
    history = model.fit(loader, epochs=4, shuffle=False, verbose=0).history
    model.run_eagerly = keras.backend.backend() == "tensorflow"
    return model, history


def test_it_trains_beside_the_others_under_its_own_name(trained):
    _, history = trained
    names = ["rpn_objectness_loss", "rpn_box_loss", "class_loss", "box_loss", "mask_loss", "orientation_loss"]
    assert set(names) < set(history)
    np.testing.assert_allclose(history["loss"], np.sum([history[name] for name in names], axis=0), rtol=1e-4)
    assert 0 < history["orientation_loss"][-1] < history["orientation_loss"][0] < 2
    assert 0 < history["loss"][-1] < 0.9 * history["loss"][0]


def test_the_predictor_returns_and_draws_it(trained):
    model, _ = trained
    image = arrows(1, 3).load_image(0)
    answers = []

    def predict(batch):
        answers.append(model.predict_on_batch(batch))
        return answers[-1]

    found = km.Predictor(types.SimpleNamespace(config=model.config, predict_on_batch=predict))(image)
    (raw,) = answers
    valid = np.asarray(raw["valid"][0])
    assert len(found) == valid.sum() > 0
    np.testing.assert_allclose(found.orientation, np.asarray(raw["orientation"])[0][valid], atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(found.orientation, axis=1), 1, atol=1e-5)
    assert not np.asarray(raw["orientation"])[0][~valid].any()
    assert found.masks.shape == (len(found), 96, 96)
    values = {"masks": np.zeros((1, 28, 28), np.float32), "orientation": np.array([[1.0, 0.0]])}
    boxes, scores, labels = np.array([[10, 10, 50, 30]], np.float32), np.array([0.9]), np.array([0])
    one = FoundInstances(boxes, scores, labels, values, (64, 64), CONFIG)
    picture = km.draw_instances(np.zeros((64, 64, 3), np.uint8), one, captions=False, boxes=False)
    assert picture[20, 32:40].any(axis=1).all()  # from the middle of the box (30, 20) ten pixels to the right
    assert not picture[20, :28].any() and not picture[25:].any()


NEW_PROCESS = """
import json, sys
import numpy as np
import keras
import keras_maskrcnn as km
old = keras.saving.load_model(sys.argv[1], compile=False)
from old_files import batch_of, found_by, losses_of
batch = batch_of(old.config)
print(json.dumps({"found": found_by(old, batch), "losses": losses_of(old, batch)}))
sys.path.insert(0, sys.argv[2])
import orientation
model = keras.saving.load_model(sys.argv[3], compile=False)
model.run_eagerly = keras.backend.backend() == "tensorflow"  # without a graph, which takes seconds
out = model.predict_on_batch(dict(np.load(sys.argv[4])))
np.savez(sys.argv[5], **{name: np.asarray(value) for name, value in out.items()})
"""


@pytest.mark.slow_on_jax  # test_backbones.py saves and loads a custom object there, in one process
def test_it_and_a_file_of_an_old_version_load_in_a_new_process(trained, tmp_path):
    """The old file with group norm, five channels of uint16, trained batch norm, torchvision's anchors, no masking.

    Its numbers are those of test_compatibility.py.
    """
    old = test_compatibility.CASES["others"]
    model, _ = trained
    batch = images_only(km.DataLoader(arrows(1, 3), CONFIG, 1, canvas=(96, 96))[0])  # of the shape that was compiled
    expected = {name: np.asarray(value) for name, value in model.predict_on_batch(batch).items()}
    model.save(tmp_path / "model.keras")
    np.savez(tmp_path / "batch.npz", **batch)
    files = [str(tmp_path / name) for name in ("model.keras", "batch.npz", "out.npz")]
    command = [sys.executable, "-c", NEW_PROCESS, write_archive(old, tmp_path / "old.keras"), SAMPLE, *files]
    environment = {"TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONPATH": python_path(TESTS.parent, TESTS)}
    done = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True)
    assert not done.returncode, done.stderr[-2000:]
    answer = json.loads(done.stdout.splitlines()[-1])
    test_compatibility.assert_found(answer["found"], old)
    if test_compatibility.TENSORFLOW:  # its anchors and RoIs are drawn at random
        test_compatibility.assert_losses(answer["losses"], old)
    out = np.load(files[-1])
    assert expected["valid"].any() and set(out.files) == set(expected)
    for name, values in expected.items():
        np.testing.assert_allclose(out[name], values, atol=1e-5, err_msg=name)


def test_loading_without_the_class_says_what_to_import(trained):
    model, _ = trained
    values = json.loads(json.dumps(model.config.to_dict()))
    assert km.MaskRCNNConfig.from_dict(values) == model.config
    values["branches"][1]["registered_name"] = "elsewhere>Compass"
    values["branches"][1]["module"] = "compass"
    with pytest.raises(ValueError, match="class elsewhere>Compass, which is not registered.*compass"):
        km.MaskRCNNConfig.from_dict(values)


@pytest.mark.tensorflow
def test_the_saved_model_has_it_among_its_outputs(trained, tmp_path, monkeypatch):
    """In the signature of its predictor; the others share its graph."""
    from keras_maskrcnn.serving.saved_model_predictor import SavedModelPredictor

    export_one_signature(monkeypatch, "serve_images_options")

    model, _ = trained
    image = arrows(1, 3).load_image(0)
    km.export_saved_model(model, tmp_path / "exported")
    theirs, ours = SavedModelPredictor(tmp_path / "exported")(image), km.Predictor(model)(image)
    assert len(theirs) == len(ours) > 0
    np.testing.assert_allclose(theirs.orientation, ours.orientation, atol=1e-4)
    np.testing.assert_allclose(theirs.boxes, ours.boxes, atol=1e-3)


@pytest.mark.parametrize(
    "branches, message",
    [
        (("keypoint",), "A branch is one of"),
        ("mask", r"branches=\('mask',\)"),
        ((Orientation,), "Pass an object"),
        (("mask", "mask"), "unique names"),
    ],
)
def test_a_wrong_branch_is_refused(branches, message):
    with pytest.raises(ValueError, match=message):
        km.MaskRCNNConfig(num_classes=1, branches=branches)


class Bare(Branch):
    """A branch that declares nothing but its name."""

    name = "bare"


class BareHead(BranchHead):
    """A head of which only the parts of the base class are there."""


def test_a_branch_that_lacks_a_method_is_told_which():
    config = tiny_config(num_classes=1, branches=("mask", Bare()))
    with pytest.raises(NotImplementedError, match=r"^Bare must define make_head\(config, dtype\)\."):
        km.MaskRCNN(config, backbone=plain_backbone())
    head = BareHead(7, **Bare().head_options(config, None))
    for call, missing in (
        (lambda: head.learn([], {}, {}, True), r"learn\(maps, rois, truth, training\)"),
        (lambda: head.loss_values({}), r"loss_values\(learned\)"),
        (lambda: head.detect([], {}), r"detect\(maps, detections\)"),
    ):
        with pytest.raises(NotImplementedError, match=f"^BareHead must define {missing}\\."):
            call()
    assert (head.name, head.align.name, head.max_rois) == ("bare_head", "bare_align", config.max_positive_rois)


def test_a_branch_without_declarations_adds_nothing_to_batches_and_results():
    images, masks = [np.full((64, 96, 3), 9, np.uint8)], [[np.ones((64, 96), bool)]]
    dataset = km.data.ArrayDataset(images, masks, class_names=["arrow"])
    plain = tiny_config(num_classes=1, class_names=["arrow"])
    more = tiny_config(num_classes=1, class_names=["arrow"], branches=("mask", Bare()))
    batches = [BatchMaker(dataset, config, 1, canvas=(128, 128))[0] for config in (plain, more)]
    assert batches[0].keys() == batches[1].keys()
    for name, values in batches[0].items():
        np.testing.assert_array_equal(batches[1][name], values)
    values = {"masks": np.ones((1, 28, 28), np.float32)}
    boxes, scores, labels = np.array([[10, 10, 50, 30]], np.float32), np.array([0.9]), np.array([0])
    found = [FoundInstances(boxes, scores, labels, values, (64, 96), config) for config in (plain, more)]
    assert found[0].to_coco(1) == found[1].to_coco(1)
    assert (Bare().found(more), Bare().torchvision_fields({})) == ({}, None)


@pytest.mark.tensorflow  # the names are the same
def test_torchvision_has_no_layers_for_it():
    model = km.MaskRCNN(tiny_config(num_classes=1, branches=(Orientation(),)))
    message = "Torchvision's Mask R-CNN has no branch `orientation`. Save and load the model as .keras or .weights.h5."
    with pytest.raises(ValueError, match=message):
        km.torchvision_state_dict(model)


@pytest.mark.slow_on_jax  # compiles the stages of test_model.py once more
@pytest.mark.usefixtures("eagerly")
def test_a_model_without_branches_is_a_box_detector():
    config = tiny_config(num_classes=1, branches=())
    model = km.MaskRCNN(config)
    found = km.Predictor(model)(np.zeros((64, 64, 3), np.uint8))
    assert not hasattr(found, "masks") and found.to_coco(1)[0].keys() == {"image_id", "category_id", "bbox", "score"}
    assert "mask_loss" not in model.loss_trackers and not hasattr(model, "mask_head")
    picture = km.draw_instances(np.zeros((64, 64, 3), np.uint8), found, captions=False)
    assert picture.any()
