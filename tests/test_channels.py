"""Images of 1, 4 and 5 channels from their files to an export: the pixels arrive, and models train on them."""

import json

import keras
import numpy as np
import pytest
import tifffile
from keras import ops
from PIL import Image
from tiny import tiny_config

import keras_maskrcnn as km
from keras_maskrcnn.checkup import inspect_dataset, make_report, propose
from keras_maskrcnn.cli.settling import read_options
from keras_maskrcnn.data import ArrayDataset, CocoDataset, DataLoader, RandomCrop, RandomFlip

SIDE, SQUARE = 96, (20, 12, 70, 50)  # x1, y1, x2, y2 of the object of every image
MEANS = np.array([900, 40000, 7000, 300, 21000])  # of each channel: far apart, as sensors' are


def five_channels(seed):
    """uint16 (96, 96, 5): noise about each channel's mean, a square of half of it more."""
    noise = np.random.default_rng(seed).normal(1, 0.1, (SIDE, SIDE, 5))
    x1, y1, x2, y2 = SQUARE
    noise[y1:y2, x1:x2] += 0.5
    return np.rint(noise * MEANS).astype(np.uint16)


def write_coco(folder, names):
    """A COCO file of images with the one square each."""
    x1, y1, x2, y2 = SQUARE
    outline = {"segmentation": [[x1, y1, x2, y1, x2, y2, x1, y2]], "bbox": [x1, y1, x2 - x1, y2 - y1], "iscrowd": 0}
    content = {
        "images": [{"id": k, "file_name": n, "height": SIDE, "width": SIDE} for k, n in enumerate(names, start=1)],
        "annotations": [outline | {"id": k, "image_id": k, "category_id": 1} for k in range(1, len(names) + 1)],
        "categories": [{"id": 1, "name": "square"}],
    }
    (folder / "squares.json").write_text(json.dumps(content))
    return CocoDataset(folder / "squares.json", folder)


def train_two_steps(config, loader):
    """A model after two steps of `fit`; its losses are finite and its first convolution has changed.

    Eager: tracing takes many times longer than two steps, and test_model.py has it.
    """
    model = km.MaskRCNN(config)
    before = ops.convert_to_numpy(model.backbone.stem.conv.kernel)
    model.compile(keras.optimizers.SGD(1e-3), run_eagerly=True)
    history = model.fit(loader, epochs=1, steps_per_epoch=2, verbose=0).history
    assert all(np.isfinite(values[-1]) for values in history.values()), history
    assert before.shape[2] == config.num_channels
    assert np.abs(ops.convert_to_numpy(model.backbone.stem.conv.kernel) - before).max() > 0
    return model


def same(found, expected, atol=0.0):
    assert len(found) == len(expected) > 0
    np.testing.assert_allclose(found.boxes, expected.boxes, atol=atol, rtol=0)
    np.testing.assert_allclose(found.scores, expected.scores, atol=atol / 10, rtol=0)
    np.testing.assert_array_equal(found.labels, expected.labels)


@pytest.mark.tensorflow
def test_five_channels_of_sixteen_bits_from_tiff_to_export(tmp_path):
    images = [five_channels(seed) for seed in range(2)]
    for number, image in enumerate(images):  # (C, H, W) with names of its axes, and (H, W, C)
        if number % 2:
            tifffile.imwrite(tmp_path / f"{number}.tif", image, photometric="minisblack", planarconfig="contig")
        else:
            planes = np.ascontiguousarray(image.transpose(2, 0, 1))
            tifffile.imwrite(tmp_path / f"{number}.tif", planes, imagej=True, metadata={"axes": "CYX"})
    dataset = write_coco(tmp_path, ["0.tif", "1.tif"])

    inspection = inspect_dataset(dataset, workers=1)
    (tmp_path / "report.json").write_text(json.dumps(make_report(inspection, propose(inspection))))
    options = read_options(tmp_path / "report.json")
    measured = {name: options[name] for name in ("pixel_mean", "pixel_std", "image_dtype")}
    np.testing.assert_allclose(measured["pixel_mean"], np.mean(images, (0, 1, 2)), rtol=1e-5)
    np.testing.assert_allclose(measured["pixel_std"], np.std(images, (0, 1, 2)), rtol=1e-5)
    assert measured["image_dtype"] == "uint16"
    assert {(finding.severity, finding.kind) for finding in inspection.findings} == {("note", "pages")}

    config = tiny_config(num_classes=1, class_names=("square",), **measured)
    plain = DataLoader(dataset, config, 2)[0]["images"]
    assert plain.dtype == np.uint16
    np.testing.assert_array_equal(plain, images)
    loader = DataLoader(dataset, config, 1, shuffle=True, augmentation=[RandomFlip(), RandomCrop(64)])
    model = train_two_steps(config, loader)

    found = km.Predictor(model)(tmp_path / "1.tif")
    same(km.Predictor(model)(images[1]), found)
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras", compile=False)
    again.compile(run_eagerly=True)
    assert again.config == config
    same(km.Predictor(again)(tmp_path / "1.tif"), found, atol=1e-5)
    assert np.isfinite(km.evaluate_coco(model, dataset)["segm_AP"])

    version = km.export_saved_model(model, tmp_path / "export")
    exported = km.serving.SavedModelPredictor(version)
    same(exported(tmp_path / "1.tif"), found, atol=1e-4)
    about = json.loads((version / "assets" / "about.json").read_text())
    assert about["signatures"]["serving_default"] == {"images": "int32 (None, None, None, 5)"}
    assert not any("bytes" in name or "rle" in name for name in about["signatures"])


@pytest.mark.tensorflow  # eager steps take minutes on JAX, where it passes too
def test_one_and_four_channels_train(tmp_path):
    rng = np.random.default_rng(0)
    rgba = rng.integers(0, 256, (SIDE, SIDE, 4), np.uint8)
    Image.fromarray(rgba).save(tmp_path / "a.png")
    dataset = write_coco(tmp_path, ["a.png"])
    for channels, pixels in ((4, rgba), (1, rgba[..., :1])):
        if channels == 1:
            Image.fromarray(pixels[..., 0]).save(tmp_path / "a.png")
        norms = {"pixel_mean": (127.0,) * channels, "pixel_std": (70.0,) * channels}
        config = tiny_config(num_classes=1, **norms)
        loader = DataLoader(dataset, config, 1)
        np.testing.assert_array_equal(loader[0]["images"][0], pixels)
        model = km.MaskRCNN(config)
        model.compile(run_eagerly=True)
        answer = model(loader[0])
        losses = model.compute_loss(loader[0], y_pred=answer)
        assert np.isfinite(float(ops.convert_to_numpy(losses)))
        assert len(km.Predictor(model)(tmp_path / "a.png")) > 0


def test_arrays_of_other_channels_are_written_and_read_again(tmp_path):
    images = [five_channels(7), five_channels(8)[..., :2].astype(np.float32) / 7]
    for image in images:
        masks = np.zeros((1, SIDE, SIDE), np.uint8)
        masks[0, 12:50, 20:70] = 1
        path = tmp_path / f"{image.shape[2]}.json"
        ArrayDataset([image], [masks]).to_coco(path)
        again = CocoDataset(path, tmp_path / f"{image.shape[2]}_images")
        np.testing.assert_array_equal(again.load_image(0, image.shape[2], str(image.dtype)), image)
