"""`km.tune` on a model of known scores, and what tuned models give: in the graph, the predictor, files and exports."""

import json
import shutil

import keras
import numpy as np
import pytest
from backend_tools import jitted
from PIL import Image
from ruled import ruled_image, ruled_model, ruled_truth
from tiny import scatter_weights, tiny_config

import keras_maskrcnn as km
from keras_maskrcnn.cli import main
from keras_maskrcnn.evaluation.calibration import calibrated
from keras_maskrcnn.network.detections import select_best_classes, select_detections
from keras_maskrcnn.scale.models import open_predictor, read_fields
from keras_maskrcnn.weights.keras_files import write_fields
from keras_maskrcnn.weights.models import load_model

SIZE = (224, 160)
PLACES = [(32, 96), (96, 96), (32, 160), (96, 160)]  # below the rows in which the RPN's idle proposals are
# (label, evidence). Scores before calibration are about 0.98, 0.88, 0.38 and 0.12.
TRUE_SQUARE, FALSE_SQUARE, TRUE_BLOCK, FALSE_BLOCK = (0, 0.9), (0, 0.7), (1, 0.45), (1, 0.3)
KINDS = [TRUE_SQUARE, FALSE_SQUARE, TRUE_BLOCK, FALSE_BLOCK]


def scene(shift, objects=(TRUE_SQUARE, TRUE_BLOCK)):
    """An image of four things, the kind at each place depends on `shift`; the masks and labels of those labelled."""
    kinds = KINDS[shift % 4 :] + KINDS[: shift % 4]
    jitter = 0.001 * shift
    things = [(x, y, label, 9, evidence + jitter) for (x, y), (label, evidence) in zip(PLACES, kinds, strict=True)]
    image, masks, labels = ruled_image(things, SIZE), [], []
    image[0, 0, 3] = shift  # nobody looks there, and no image is a copy of another
    for (x, y), kind in zip(PLACES, kinds, strict=True):
        if kind in objects:
            mask = np.zeros(image.shape[:2], bool)
            mask[y - 16 : y + 16, x - 16 : x + 16] = True
            masks.append(mask)
            labels.append(kind[0])
    return image, masks, labels


def dataset_of(*objects):
    images, masks, labels = zip(*(scene(shift, *objects) for shift in range(8)), strict=True)
    return km.data.ArrayDataset(images, masks, labels, class_names=("square", "block"))


@pytest.fixture(scope="module")
def data():
    return dataset_of()


# What is found on a dataset, and what is done with it, is host code, for which JAX would compile models. The choice of
# detections is tested there.
HOST = pytest.mark.slow_on_jax


@pytest.fixture(scope="module")
def found(data):
    """(Tuning, the tuned model, its file)."""
    model = ruled_model()
    return km.tune(model, data, nms_thresholds=(0.5,)), model


@pytest.fixture(scope="module")
def tuned(found, tmp_path_factory):
    tuning, model = found
    path = tmp_path_factory.mktemp("tuned") / "model.keras"
    model.save(path)
    model = load_model(path)
    tuning.apply(model)
    return model, path, tuning.fields


@HOST
def test_thresholds_found_on_one_half_are_right_on_the_other(found):
    tuning, model = found
    assert tuning.images == (4, 4) and not model.config.tuned
    before, after = tuning.before, tuning.after
    # At 0.5 all squares are detected, the false ones too, and no block.
    assert (before["square"].precision, before["square"].recall) == (0.5, 1)
    assert (before["block"].precision, before["block"].recall, before["block"].f1) == (None, 0, 0)
    for name in ("square", "block", "mean of classes"):
        assert (after[name].precision, after[name].recall, after[name].f1) == (1, 1, 1)
    assert before["mean of classes"].f1 == pytest.approx(1 / 3)
    assert before["square"].calibration_error == pytest.approx((0.02 + 0.88) / 2, abs=0.06)
    assert "mean of classes" in tuning.table() and json.dumps(tuning.to_dict())
    rows = [line.split() for line in tuning.table().splitlines()]
    assert rows[1][:2] == ["square", "4"] and rows[1][3:9] == ["0.500", "1.000", "1.000", "1.000", "0.667", "1.000"]


@HOST
def test_a_wanted_precision_that_no_threshold_reaches_is_noted(found):
    swapped = dataset_of([FALSE_BLOCK])  # no squares, and the surest block of each image is none
    tuning = km.tune(found[1], swapped, precision=0.9, calibration=None, nms_thresholds=())
    assert tuning.fields["calibration"] is None and tuning.fields["nms_threshold"] == 0.5
    assert tuning.notes[0].startswith("square: no right detection in the first half")
    assert tuning.notes[1] == "block: no threshold reaches the precision 0.9; this one reaches 0.500"


@HOST
@pytest.mark.usefixtures("eagerly")
def test_a_tuned_model_is_tuned_as_if_it_were_not(found, data):
    tuning, model = found[0], ruled_model()
    tuning.apply(model)
    again = km.tune(model, data, nms_thresholds=())
    assert model.config.class_thresholds == tuple(tuning.fields["class_thresholds"]) and model.config.calibration
    for name in ("class_thresholds", "calibration"):
        np.testing.assert_allclose(again.fields[name], tuning.fields[name], atol=1e-5)
    assert again.before["mean of classes"] == tuning.after["mean of classes"]  # what it had before is what was found


@HOST
@pytest.mark.usefixtures("eagerly")
def test_arguments_and_data_of_which_no_threshold_follows_are_refused():
    model = ruled_model()
    for given, message in (
        ({"precision": 1.5}, "precision must lie in 0..1. Received: 1.5. Leave it out for the best F1"),
        (
            {"calibration": "platt"},
            r"one of \('isotonic', 'temperature'\), or None. Received: 'platt'. None keeps the scores as they are",
        ),
        ({"nms_thresholds": (0.5, 2)}, "nms_thresholds must lie in 0..1. Received: 2. Leave them out for the usual"),
    ):
        with pytest.raises(ValueError, match=message):
            km.tune(model, None, **given)
    with (
        pytest.warns(UserWarning, match="Received 4 images with 0 objects"),
        pytest.raises(ValueError, match="in both halves. Received: .* without any. Give more labelled images"),
    ):
        km.tune(model, dataset_of([]), nms_thresholds=())


@HOST
def test_the_graph_gives_what_the_table_says(tuned, found, data):
    model, _, fields = tuned
    image = data.load_image(0, 4, "float32")
    by_class = km.Predictor(model)(image)
    assert sorted(by_class.labels.tolist()) == [0, 1]
    everything = km.Predictor(model, 0.0)(image)
    assert sorted(everything.labels.tolist()) == [0, 0, 1, 1]
    plain, tables = km.Predictor(found[1])(image), fields["calibration"]
    assert len(plain) == 4 and sorted(plain.scores.tolist())[0] == pytest.approx(0.12, abs=0.05)
    expected = [calibrated([score], tables[label])[0] for score, label in zip(plain.scores, plain.labels, strict=True)]
    assert sorted(everything.scores.tolist()) == pytest.approx(sorted(expected), abs=1e-5)
    surest = 0.999 * float(everything.scores.max())
    assert len(km.Predictor(model, surest)(image)) == 1
    with pytest.raises(ValueError, match="between the model's own, 0.0, and 1"):
        km.Predictor(model, -0.1)
    batch = {"images": image[None], "image_sizes": np.array([image.shape[:2]], np.int32)}
    assert model.predict_on_batch(batch)["valid"].sum() == 2  # without a predictor
    for given, count in ((np.nan, 2), (-1, 2), (0, 4)):
        batch["score_threshold"] = np.array([given], np.float32)
        assert model.predict_on_batch(batch)["valid"].sum() == count
    km.check_batch(batch, model.config)


@pytest.mark.slow
def test_average_precision_stays(tuned, found, data):
    before, after = (km.evaluate_coco(model, data) for model in (found[1], tuned[0]))
    assert after["segm_AP"] == pytest.approx(before["segm_AP"], abs=1e-9)
    assert after["segm_AP/block"] == pytest.approx(1.0, abs=0.02)  # also those below a threshold count


@pytest.mark.slow
def test_misses_are_judged_by_the_threshold_of_their_class(tuned):
    model, _, fields = tuned
    thing = [(32, 96, FALSE_BLOCK[0], 9, FALSE_BLOCK[1])]
    image, truth = ruled_image(thing, SIZE), ruled_truth(thing, SIZE)
    (miss,) = km.explain(model, image, truth).misses
    assert (miss.cause, miss.limit) == ("threshold", pytest.approx(fields["class_thresholds"][1], abs=1e-6))
    assert miss.remedy.startswith("lower class_thresholds from")
    assert not km.explain(model, image, truth, score_threshold=0.0).misses


@HOST
def test_a_file_keeps_the_numbers(tuned, tmp_path):
    model, path, fields = tuned
    written = tmp_path / "written.keras"
    write_fields(path, written, fields)
    loaded = load_model(written)
    assert loaded.config == model.config
    assert (read_fields(written).tuned, read_fields(written).lowest_score) == (True, 0)
    assert (read_fields(path).tuned, read_fields(path).lowest_score) == (False, 0.05)
    usual = open_predictor(written, usual=True)
    assert usual.thresholds.tolist() == pytest.approx(fields["class_thresholds"]) and not usual.options
    assert open_predictor(written, 0.3, usual=True).options == {"score_threshold": 0.3}
    assert open_predictor(path, usual=True).thresholds.tolist() == [0.5, 0.5]
    with pytest.raises(ValueError, match="class_thresholds must hold one entry"):
        write_fields(path, written, {"class_thresholds": [0.5]})


@HOST
def test_training_drops_the_numbers(tuned):
    from keras_maskrcnn.runs.experiment import _forget_tuning

    model = load_model(tuned[1])
    model.change_detection(**tuned[2])
    _forget_tuning(model)
    assert not model.config.tuned
    with pytest.raises(ValueError, match="change_detection takes score_threshold"):
        model.change_detection(num_classes=3)


@pytest.mark.slow
@pytest.mark.tensorflow
def test_exports_have_the_thresholds_inside(tuned, data, tmp_path):
    """SavedModel, ONNX and LiteRT give what Predictor gives; their inputs replace the thresholds of classes."""
    import tensorflow as tf

    model, image = tuned[0], data.load_image(2, 4, "float32")
    expected = km.Predictor(model)(image)
    saved = km.export_saved_model(model, tmp_path / "saved")
    signatures = tf.saved_model.load(str(saved)).signatures
    rest = {"nms_threshold": tf.constant([-1.0]), "max_detections": tf.constant([-1])}
    answers = [
        signatures["serving_default"](images=tf.constant(image[None])),
        signatures["serve_images_options"](images=image[None], score_threshold=tf.constant([-1.0]), **rest),
    ]
    for answer in answers:
        assert answer["labels"][0, :2].numpy().tolist() == expected.labels.tolist() and answer["num_detections"] == 2
        np.testing.assert_allclose(answer["scores"][0, :2], expected.scores, atol=1e-6)
    low = signatures["serve_images_options"](images=image[None], score_threshold=tf.constant([0.0]), **rest)
    assert low["num_detections"] == 4
    path = km.export_onnx(model, tmp_path / "model.onnx")
    assert open_predictor(path)(image).scores == pytest.approx(expected.scores, abs=1e-6)
    assert len(open_predictor(path, 0.0)(image)) == 4
    lite = km.export_litert(model, tmp_path / "model.tflite", image_size=image.shape[:2])
    interpreter = tf.lite.Interpreter(str(lite))
    runner = interpreter.get_signature_runner()
    answer = runner(images=image[None])
    assert int(answer["num_detections"][0]) == 2
    np.testing.assert_allclose(answer["scores"][0, :2], expected.scores, atol=1e-5)


# The choice of detections --------------------------------------------------------------------------------------


def chosen(rule, **more):
    """Two far boxes of two classes with probabilities by hand; the background has the rest."""
    probabilities = np.array([[[0.6, 0.3, 0.1], [0.2, 0.7, 0.1]]], np.float32)
    values = {
        "class_logits": np.log(probabilities),
        "deltas": np.zeros((1, 2, 2, 4), np.float32),
        "proposals": np.array([[[0, 0, 10, 10], [50, 50, 70, 70]]], np.float32),
        "proposals_valid": np.ones((1, 2), bool),
        "image_sizes": np.array([[100, 100]], np.int32),
        "score_threshold": 0.25,
        "nms_threshold": 0.5,
        "class_agnostic_nms": False,
        "max_detections": 10,
        "candidates": 10,
        "box_weights": (1.0, 1.0, 1.0, 1.0),
        "min_box_size": 0.0,
    }
    names = ("class_logits", "deltas", "proposals", "proposals_valid", "image_sizes")
    rest = {name: value for name, value in (values | more).items() if name not in names}
    answer = jitted(lambda *arrays: rule(**dict(zip(names, arrays)), **rest))(*(values[name] for name in names))
    found = {name: keras.ops.convert_to_numpy(array) for name, array in answer.items()}
    valid = found["valid"][0]
    rows = zip(found["labels"][0][valid].tolist(), found["scores"][0][valid].tolist(), strict=True)
    return [(label, pytest.approx(score, abs=1e-6)) for label, score in rows]


TABLES = (((0, 0), (0.5, 0.1), (1, 1)), ((0, 0), (1, 0.5)))


def test_thresholds_and_tables_of_classes_by_hand():
    # Class 0 becomes 0.1 + 0.9 * 2 * (score - 0.5) above 0.5, class 1 half its score.
    assert chosen(select_detections) == [(1, 0.7), (0, 0.6), (1, 0.3)]
    assert chosen(select_detections, class_thresholds=(0.0, 0.5)) == [(1, 0.7), (0, 0.6)]
    assert chosen(select_detections, class_thresholds=np.array([[0.65, 0.2]])) == [(1, 0.7), (1, 0.3)]
    assert chosen(select_detections, calibration=TABLES) == [(1, 0.35), (0, 0.28), (1, 0.15)]
    assert chosen(select_detections, calibration=TABLES, class_thresholds=(0.0, 0.2)) == [(1, 0.35), (0, 0.28)]
    assert chosen(select_best_classes, calibration=TABLES) == [(1, 0.35), (0, 0.28)]
    assert chosen(select_best_classes, calibration=TABLES, class_thresholds=(0.3, 0.3)) == [(1, 0.35)]
    assert chosen(select_best_classes, min_box_size=10.5) == [(1, 0.7)]  # the other box has sides of 10 pixels


@pytest.mark.slow
def test_an_unchanged_table_changes_nothing():
    plain = tiny_config(score_threshold=0.1)
    same = tiny_config(score_threshold=0.1, calibration=[((0, 0), (0.3, 0.3), (1, 1))] * 3)
    image = np.random.default_rng(0).integers(0, 255, (1, 64, 64, 3), np.uint8)
    first = scatter_weights(km.MaskRCNN(plain))(image)
    model = scatter_weights(km.MaskRCNN(same))
    second = model(image)
    assert keras.ops.convert_to_numpy(first["valid"]).any()
    for name in first:
        np.testing.assert_allclose(*map(keras.ops.convert_to_numpy, (first[name], second[name])), atol=1e-5)


# The command ---------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_command_writes_into_a_file(tuned, tmp_path, capsys, monkeypatch, data):
    from keras_maskrcnn.cli import tune as command

    monkeypatch.setattr(command, "_open", lambda args, config: data)
    output, figures = tmp_path / "new.keras", tmp_path / "tune.json"
    line = ["tune", str(tuned[1]), "--val", "x", "--nms", "0.5", "--output", str(output), "--json", str(figures)]
    assert main(line) == 0
    shown = capsys.readouterr().out
    assert "found on 4 images; on the 4 others" in shown and f"wrote {output}" in shown
    fields = json.loads(figures.read_text())["fields"]
    assert fields == tuned[2] and read_fields(output).tuned and not read_fields(tuned[1]).tuned


@HOST
def test_the_command_hands_on_its_options_and_writes_what_was_found(found, tuned, tmp_path, capsys, monkeypatch, data):
    from keras_maskrcnn.cli import tune as command

    asked = []
    monkeypatch.setattr(command, "_open", lambda args, config: data)
    monkeypatch.setattr(command, "load_model", lambda path: found[1])
    find = "keras_maskrcnn.evaluation.tuning.tune"
    monkeypatch.setattr(find, lambda *given, **more: asked.append((given[2:], more)) or found[0])
    line = ["tune", str(tuned[1]), "--val", "x", "--output", str(tmp_path / "new.keras"), "--nms", "0.5", "0.6"]
    line += ["--precision", "0.8", "--calibration", "none", "--seed", "3", "--json", str(tmp_path / "tune.json")]
    assert main(line) == 0
    ((given, more),) = asked
    assert given == (0.8, None, (0.5, 0.6)) and more["seed"] == 3
    assert json.loads((tmp_path / "tune.json").read_text())["fields"] == found[0].fields
    assert read_fields(tmp_path / "new.keras").tuned and not read_fields(tuned[1]).tuned
    assert found[0].table() in capsys.readouterr().out


@HOST
def test_the_command_reads_the_data_with_the_classes_of_the_model(found, tuned, tmp_path, capsys, monkeypatch):
    from keras_maskrcnn.cli import tune as command

    opened = []
    monkeypatch.setattr(command, "load_model", lambda path: found[1])
    find = "keras_maskrcnn.evaluation.tuning.tune"
    monkeypatch.setattr(find, lambda model, dataset, *given, **more: opened.append(dataset) or found[0])
    path, folder = tmp_path / "labels" / "val.json", tmp_path / "photos"
    images = [{"id": 1, "file_name": "a.png", "height": 40, "width": 40}]
    box = {"id": 1, "image_id": 1, "bbox": [2, 2, 9, 9], "area": 81, "iscrowd": 0}
    box["segmentation"] = [[2, 2, 11, 2, 11, 11, 2, 11]]
    path.parent.mkdir()
    folder.mkdir()
    Image.fromarray(np.zeros((40, 40, 3), np.uint8)).save(folder / "a.png")
    for name in ("square", "block"):  # as the file has them: the other order, and one class alone
        content = {"images": images, "annotations": [box | {"category_id": 8}], "categories": [{"id": 8, "name": name}]}
        path.write_text(json.dumps(content))
        line = ["tune", str(tuned[1]), "--val", str(path), "--output", str(tmp_path / "a.keras")]
        assert main(line) == 2
        told = capsys.readouterr().err
        assert "a.png" in told and "--images" in told
        line += ["--images", str(folder)]
        assert main(line) == 0
        assert opened[-1].class_names == ("square", "block")
        assert [one.label for one in opened[-1].records[0].instances] == [("square", "block").index(name)]


@HOST
def test_the_command_refuses_files_that_it_must_not_write(tuned, tmp_path, capsys):
    last = shutil.copy(tuned[1], tmp_path / "last.keras")
    assert main(["tune", str(last), "--val", "x"]) == 2
    assert "tune leaves last.keras as it is" in capsys.readouterr().err
    assert main(["tune", str(tuned[1]), "--val", "x", "--output", "a.onnx"]) == 2
    assert "--output must name a .keras file. Received: a.onnx" in capsys.readouterr().err
