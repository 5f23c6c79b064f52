"""`verify`: pairs, figures and limits by hand; the command on exports of every kind."""

import json
import pathlib
import types

import numpy as np
import pytest
from converter_models import noise, small_model
from PIL import Image
from tiny import tiny_config

import keras_maskrcnn as km
from keras_maskrcnn import cli
from keras_maskrcnn.inference.found import FoundInstances
from keras_maskrcnn.serving import Limits
from keras_maskrcnn.serving.verifying import Comparison, equal_pixels, pair_instances, verify

CONFIG = tiny_config(score_threshold=0.3, max_detections=4)


def instances(boxes, scores=None, labels=None, masks=None, config=CONFIG):
    count = len(boxes)
    return FoundInstances(
        boxes=np.array(boxes, np.float32).reshape(-1, 4),
        scores=np.array(np.linspace(0.9, 0.6, count) if scores is None else scores, np.float32),
        labels=np.zeros(count, int) if labels is None else np.array(labels),
        values={"masks": np.ones((count, 28, 28), np.float32) if masks is None else masks},
        image_size=(40, 50),
        config=config,
    )


def compared(found, expected):
    comparison = Comparison()
    comparison.add("photo.png", found, expected)
    return comparison


LEFT, RIGHT, BELOW = (2, 2, 12, 12), (22, 2, 32, 12), (2, 22, 12, 32)


def test_pairs_have_one_label_and_boxes_that_overlap_and_the_nearest_are_first():
    near, nearer = (3, 2, 13, 12), (2.5, 2, 12.5, 12)
    assert pair_instances(instances([near, RIGHT]), instances([RIGHT, LEFT])) == [(1, 0), (0, 1)]
    assert pair_instances(instances([near, nearer]), instances([LEFT])) == [(1, 0)]
    assert pair_instances(instances([LEFT], labels=[1]), instances([LEFT])) == []
    assert pair_instances(instances([LEFT]), instances([(9, 2, 19, 12)])) == []
    assert pair_instances(instances([]), instances([LEFT])) == []


def test_figures_are_the_largest_differences_of_pairs():
    found = instances([(2, 2.25, 12, 12), RIGHT], scores=[0.8, 0.5])
    comparison = compared(found, instances([LEFT, RIGHT], scores=[0.81, 0.5]))
    assert (comparison.images, comparison.found, comparison.expected) == (1, 2, 2)
    assert comparison.boxes == [0, 0.25] and comparison.scores == pytest.approx([0, 0.01], abs=1e-6)
    assert comparison.pixels == [100, 100] and comparison.equal == [100, 100]  # no pixel's centre is passed
    passed = [check[-1] for check in comparison.checks(Limits(boxes=0.3, scores=0.005))]
    assert passed == [True, False, True, True]
    assert not comparison.passes() and comparison.passes(Limits(boxes=0.25, scores=0.02))
    assert "1 images: 2 detections of the model, 2 of the export; 2 pairs" in comparison.report()
    assert "FAIL" in comparison.report() and "FAIL" not in comparison.report(Limits(0.25, 0.02))


def test_mask_pixels_are_compared_in_the_box_around_both():
    window = np.ones((4, 5), bool)
    assert equal_pixels((window, 0, 0), (window, 0, 0)) == (20, 20)
    assert equal_pixels((window, 0, 0), (window, 1, 0)) == (16, 24)
    assert equal_pixels((window, 0, 0), (np.zeros((0, 0), bool), 3, 3)) == (0, 20)
    assert equal_pixels(*[(np.zeros((0, 0), bool), 0, 0)] * 2) == (0, 0)
    half = np.ones((1, 28, 28), np.float32)
    half[:, :14] = 0
    comparison = compared(instances([LEFT], masks=half), instances([LEFT]))
    assert comparison.pixels == [100] and comparison.share_of_equal_pixels == pytest.approx(0.5, abs=0.05)
    assert not comparison.passes() and comparison.passes(Limits(masks=0.4))


def test_what_has_no_partner_counts_unless_its_score_is_at_the_threshold():
    """The threshold is 0.3; four detections are the most."""
    near, far = instances([LEFT, RIGHT], scores=[0.9, 0.3005]), instances([LEFT, RIGHT], scores=[0.9, 0.4])
    other = instances([LEFT], scores=[0.9])
    assert compared(near, other).passes() and compared(other, near).passes()
    for comparison, owner in ((compared(far, other), "export"), (compared(other, far), "model")):
        assert not comparison.passes() and comparison.passes(Limits(unpaired=1))
        (alone,) = comparison.unpaired
        assert alone[:3] == ("photo.png", owner, "class 0") and alone.margin == pytest.approx(0.1, abs=1e-6)
        assert f"photo.png: class 0 0.4000 of the {owner}, 1.0e-01 above the score" in comparison.report()
    most = [LEFT, RIGHT, BELOW]
    full = instances([*most, (22, 22, 32, 32)], scores=[0.9, 0.8, 0.7, 0.6])
    last = instances([*most, (40, 2, 48, 12)], scores=[0.9, 0.8, 0.7, 0.6005])  # another one has the last place
    assert len(compared(full, last).unpaired) == 2 and compared(full, last).passes()


class Fixed:
    """A predictor that finds the same in every image."""

    def __init__(self, found, config=CONFIG, image_size=None):
        self.found, self.config, self.image_size, self.seen = found, config, image_size, []

    def __call__(self, image):
        self.seen.append(image)
        return self.found


def test_verify_runs_both_on_the_same_pixels(tmp_path):
    Image.fromarray(noise(40, 50)).save(tmp_path / "a.png")
    Image.fromarray(noise(20, 25)).save(tmp_path / "b.png")
    paths, done = [tmp_path / "a.png", tmp_path / "b.png"], []
    export, model = Fixed(instances([LEFT]), image_size=(40, 50)), Fixed(instances([LEFT]))
    comparison = verify(export, model, paths, done.append)
    assert comparison.passes() and done == [1, 2] and len(comparison.boxes) == 2
    assert [image.shape for image in export.seen] == [(40, 50, 3)] * 2 and export.seen[1].dtype == np.uint8
    for one, other in zip(export.seen, model.seen, strict=True):
        np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(export.seen[0], noise(40, 50))
    with pytest.raises(ValueError, match=r"must contain something that the model finds. Received: 2 images"):
        verify(Fixed(instances([])), Fixed(instances([])), paths)
    other = types.SimpleNamespace(config=tiny_config(class_names=("cat", "dog", "cow")))
    with pytest.raises(ValueError, match=r"have the same class_names. Received: \('cat', .*Name the model that was"):
        verify(other, model, paths)


def test_the_command_says_what_is_wrong_with_its_arguments(tmp_path, capsys):
    Image.fromarray(noise(40, 50)).save(tmp_path / "a.png")
    (tmp_path / "model.onnx").write_bytes(b"")
    command = ["verify", str(tmp_path / "model.onnx"), "--against", str(tmp_path / "none.keras"), "--images"]
    assert cli.main([*command, str(tmp_path)]) == cli.MISTAKE
    assert "--against must name a file or folder. Received:" in capsys.readouterr().err
    command[3] = command[1]
    assert cli.main([*command, str(tmp_path), "--min-masks", "999"]) == cli.MISTAKE
    assert "--min-masks is a percentage, 0 to 100. Received: 999" in capsys.readouterr().err
    assert cli.main([*command, str(tmp_path), "--max-unpaired", "-1"]) == cli.MISTAKE
    assert "--max-unpaired is a number of detections. Received: -1" in capsys.readouterr().err
    (tmp_path / "a.png").unlink()
    assert cli.main([*command, str(tmp_path)]) == cli.MISTAKE
    assert "at least one image" in capsys.readouterr().err


def test_the_status_follows_the_limits(tmp_path, capsys, monkeypatch):
    """Of two predictors with given answers: test_the_command_compares_exports_of_every_kind opens real ones."""
    Image.fromarray(noise(40, 50)).save(tmp_path / "a.png")
    moved = instances([(2.25, 2, 12, 12), RIGHT], scores=[0.9, 0.8])
    sides = {"export": Fixed(moved, image_size=(40, 50)), "model": Fixed(instances([LEFT, RIGHT], scores=[0.9, 0.75]))}
    for name in sides:
        (tmp_path / name).write_text("")
    monkeypatch.setattr("keras_maskrcnn.scale.models.open_predictor", lambda path: sides[pathlib.Path(path).name])
    command = ["verify", tmp_path / "export", "--against", tmp_path / "model", "--images", tmp_path / "a.png"]
    command = [*map(str, command), "--json", str(tmp_path / "told.json")]
    assert cli.main([*command, "--max-boxes", "0.3", "--max-scores", "0.06", "--min-masks", "90"]) == cli.SUCCESS
    assert "images are resized to 40 x 50 pixels" in capsys.readouterr().out
    assert json.loads((tmp_path / "told.json").read_text())["passes"]
    for option, value in (("--max-boxes", "0.2"), ("--max-scores", "0.04")):
        limits = ["--max-boxes", "0.3", "--max-scores", "0.06", "--min-masks", "90", option, value]
        assert cli.main([*command, *limits]) == cli.CHECK_FAILED
        assert "set limits" in capsys.readouterr().out
    told = json.loads((tmp_path / "told.json").read_text())
    assert not told["passes"] and told["limits"]["scores"] == 0.04
    assert sorted(told["boxes"]) == [0, 0.25] and sorted(told["scores"]) == pytest.approx([0, 0.05], abs=1e-6)


@pytest.mark.slow
@pytest.mark.tensorflow
def test_the_command_compares_exports_of_every_kind(tmp_path, capsys):
    for package in ("tf2onnx", "onnx", "onnxruntime", "ai_edge_litert"):
        pytest.importorskip(package, reason=f"{package} is not installed")
    model = small_model()
    model.save(tmp_path / "model.keras")
    (tmp_path / "images").mkdir()
    for number, size in enumerate(((96, 128), (100, 130))):
        Image.fromarray(noise(*size, number)).save(tmp_path / "images" / f"{number}.png")
    exports = {
        "onnx": km.export_onnx(model, tmp_path / "model.onnx"),
        "litert": km.export_litert(model, tmp_path / "model.tflite", (100, 130)),
        "savedmodel": km.export_saved_model(model, tmp_path / "saved_model"),
    }
    against = ["--against", str(tmp_path / "model.keras"), "--images", str(tmp_path / "images")]
    for name, path in exports.items():
        report = tmp_path / f"{name}.json"
        assert cli.main(["verify", str(path), *against, "--json", str(report)]) == cli.SUCCESS, name
        figures, told = json.loads(report.read_text()), capsys.readouterr().out
        assert figures["images"] == 2 and len(figures["boxes"]) > 5 and 0 < max(figures["boxes"]) < 0.05
        assert figures["passes"] and figures["unpaired"] == [] and "FAIL" not in told
        assert ("resized to 100 x 130 pixels" in told) == (name == "litert")
    strict = ["verify", str(exports["onnx"]), *against, "--max-boxes", "1e-12"]
    assert cli.main(strict) == cli.CHECK_FAILED
    assert "FAIL" in capsys.readouterr().out
