"""PyTorch alone: its two ways to crop, NMS without torchvision, what a GPU refuses, a fit, files, exports."""

import sys
import types

import keras
import numpy as np
import pytest
from backend_tools import pull_back, to_numpy
from test_ops_nms import clusters, greedy
from test_ops_roi_align import random_boxes, random_pyramid
from tiny import images_only, random_batch, scatter_weights, tiny_config

import keras_maskrcnn as km
from keras_maskrcnn import backend

if keras.backend.backend() != "torch":
    pytest.skip("these tests are of the backend torch", allow_module_level=True)

import torch

from keras_maskrcnn.backend import generic
from keras_maskrcnn.backend import torch as operators

BATCH = random_batch([(64, 96), (80, 64)], (96, 96))


@pytest.fixture(scope="module")
def model():
    return scatter_weights(km.MaskRCNN(tiny_config()))


@pytest.fixture
def without_torchvision(monkeypatch):
    monkeypatch.setattr(operators, "torchvision_operators", lambda: None)


# Operators -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("aligned", [False, True])
@pytest.mark.parametrize("ratio", [0, 1, 2, 3])
def test_torchvisions_operator_on_gpus_crops_what_the_reference_crops(ratio, aligned):
    pytest.importorskip("torchvision")
    rng = np.random.default_rng(ratio)
    pyramid, boxes = random_pyramid(rng, 2, 96, 128), random_boxes(rng, 1, 30, 96, 128)[0]
    tensors = [torch.from_numpy(each) for each in (boxes, rng.integers(0, 2, 30), rng.integers(0, 4, 30))]
    options = (*tensors, (1 / 4, 1 / 8, 1 / 16, 1 / 32), (3, 5), ratio, aligned)
    upstream = rng.standard_normal((30, 3, 5, 3)).astype("float32")
    forms = {
        "reference": lambda *maps: generic.multilevel_roi_align(list(maps), *options, "average"),
        "torchvision": lambda *maps: operators.crop_by_torchvision(list(maps), *options),
        "chosen": lambda *maps: operators.multilevel_roi_align(list(maps), *options, "average"),
    }
    results = {name: pull_back(form, pyramid, upstream) for name, form in forms.items()}
    expected, expected_gradients = results.pop("reference")
    for result, gradients in results.values():
        np.testing.assert_allclose(result, expected, atol=1e-4)
        for ours, theirs in zip(gradients, expected_gradients, strict=True):
            np.testing.assert_allclose(ours, theirs, atol=1e-4)


def test_a_box_of_too_many_points_is_not_given_to_torchvision(monkeypatch):
    # It would keep a list of a point for each cell of the box: 10^12 of them.
    monkeypatch.setattr(operators, "crop_by_torchvision", lambda *args: pytest.fail("torchvision got the box"))
    crops = km.ops.roi_align(np.ones((1, 8, 8, 1), "float32"), [[-4e5, -4e5, 6e5, 6e5]], [0], 1, 1.0, 0)
    assert to_numpy(crops).item() == pytest.approx(81e-12, rel=1e-2)  # 9 x 9 cells read 1, border included


@pytest.mark.parametrize("with_classes", [False, True])
def test_nms_without_torchvision_is_the_same(with_classes, without_torchvision):
    rng = np.random.default_rng(4)
    boxes, scores = clusters(rng, 300)
    classes = rng.integers(0, 3, 300).astype("int32") if with_classes else None
    indices, keep = to_numpy(km.ops.non_max_suppression(boxes, scores, 0.5, classes=classes))
    assert indices[keep].tolist() == greedy(boxes, scores, 0.5, classes)


def test_the_operators_in_use_are_named(monkeypatch):
    installed = operators.torchvision_operators() is not None
    assert operators.operators().endswith("NMS: torchvision" if installed else "install torchvision")
    monkeypatch.setattr(operators, "torchvision_operators", lambda: types.SimpleNamespace())
    monkeypatch.setattr(operators, "_default_device", lambda: "cuda")
    assert operators.operators() == "torchvision; NMS: torchvision"
    monkeypatch.setattr(operators, "torchvision_operators", lambda: None)
    assert operators.operators() == "embedding_bag of PyTorch; NMS: keras.ops, slower; install torchvision"


def test_a_torchvision_for_another_torch_is_explained(monkeypatch):
    class Unfit:
        def find_spec(self, name, path=None, target=None):
            if name == "torchvision":
                raise RuntimeError("operator torchvision::nms does not exist")

    monkeypatch.setattr("sys.meta_path", [Unfit()])
    for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(ImportError, match=r"Received: torch .*nms does not exist.*pip install --upgrade torch torchv"):
        operators.torchvision_operators.__wrapped__()


def test_batch_norm_in_one_kernel_is_keras_with_the_unbiased_variance():
    rng = np.random.default_rng(0)
    maps = rng.normal(3, 2, (2, 5, 7, 4)).astype("float32")
    gamma, beta = rng.random((2, 4), "float32")
    outputs, mean, variance = to_numpy(backend.fused_batch_norm(*map(torch.from_numpy, (maps, gamma, beta)), 1e-3))
    np.testing.assert_allclose(mean, maps.mean((0, 1, 2)), rtol=1e-5)
    np.testing.assert_allclose(variance, maps.var((0, 1, 2), ddof=1), rtol=1e-5)
    expected = (maps - mean) / np.sqrt(maps.var((0, 1, 2)) + 1e-3) * gamma + beta
    np.testing.assert_allclose(outputs, expected, atol=1e-5)


# A GPU -----------------------------------------------------------------------------------------------------


class OnlyTensors(torch.overrides.TorchFunctionMode):
    """Raises where an operator gets a numpy array: a CPU accepts it, a GPU does not."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        """Run the operator if its arguments are tensors; conversions take arrays."""
        makes_tensors = function in (torch.as_tensor, torch.tensor, torch.from_numpy)
        if not makes_tensors and any(isinstance(each, np.ndarray) for each in keras.tree.flatten([args, kwargs])):
            raise AssertionError(f"{function} got a numpy array.")
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("norm", ["frozen_batch", "batch"])
def test_no_operator_gets_a_numpy_array(norm):
    model = km.MaskRCNN(tiny_config(norm=norm, mask_samples=None))
    model.compile(km.sgd(2))
    with OnlyTensors():
        model.fit(BATCH, batch_size=2, verbose=0)
        found = km.Predictor(model)(BATCH["images"][0])
    assert len(found) > 0


# The model -------------------------------------------------------------------------------------------------


def fitted(steps=2, **options):
    keras.utils.set_random_seed(0)
    model = km.MaskRCNN(tiny_config(norm="batch"))
    model.compile(keras.optimizers.SGD(1e-3, momentum=0.9, **options))
    return model, model.fit(BATCH, epochs=steps, batch_size=2, verbose=0).history


def test_a_fit_learns_and_repeats_itself():
    (_, first), (_, again) = fitted(), fitted()
    assert first == again
    assert first["loss"][0] > first["loss"][1] > 0
    assert first["loss"][0] == pytest.approx(sum(v[0] for k, v in first.items() if k != "loss"), rel=1e-5)


def test_evaluation_and_prediction_keep_no_graph(model):
    found = model.predict_on_batch(images_only(BATCH))
    assert all(isinstance(each, np.ndarray) for each in found.values()) and found["valid"].any()
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(kept.append, lambda each: each):
        model.predict_on_batch(images_only(BATCH))
        model.compile(km.sgd(2))
        losses = model.evaluate(BATCH, batch_size=2, verbose=0, return_dict=True)
    assert not kept and losses["loss"] > 0


def test_a_saved_model_finds_the_same(tmp_path):
    model, _ = fitted(use_ema=True, gradient_accumulation_steps=2)
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras", compile=False)
    expected, found = (each.predict_on_batch(images_only(BATCH)) for each in (model, again))
    for name, values in expected.items():
        np.testing.assert_array_equal(found[name], values, err_msg=name)


def test_images_of_sixteen_bits_are_those_of_eight_times_257(model):
    config, image = model.config, BATCH["images"][0]
    mean, std = (tuple(257 * value for value in values) for values in (config.pixel_mean, config.pixel_std))
    deep = scatter_weights(km.MaskRCNN(tiny_config(image_dtype="uint16", pixel_mean=mean, pixel_std=std)))
    found, expected = km.Predictor(deep)(image.astype("uint16") * 257), km.Predictor(model)(image)
    assert len(found) == len(expected) > 0
    np.testing.assert_allclose(found.boxes, expected.boxes, atol=1e-3)


@pytest.mark.parametrize("format", ["tf_saved_model", "onnx", "torch"])
def test_keras_own_export_names_the_backend_that_can(model, tmp_path, format):
    with pytest.raises(ValueError, match="Received: backend torch.*KERAS_BACKEND=tensorflow keras-maskrcnn export"):
        model.export(tmp_path / "exported", format=format)


@pytest.mark.parametrize("export, options", [("saved_model", ()), ("onnx", ()), ("litert", ((64, 64),))])
def test_exports_name_the_backend_that_can(model, tmp_path, export, options):
    with pytest.raises(ValueError, match="Received: backend torch.*KERAS_BACKEND=tensorflow keras-maskrcnn export"):
        getattr(km, f"export_{export}")(model, tmp_path / "exported", *options)


def test_the_demo_says_at_once_that_it_needs_another_backend(tmp_path):
    from keras_maskrcnn.cli.demo import run_demo

    with pytest.raises(ValueError, match="Received: backend torch. Run KERAS_BACKEND=tensorflow keras-maskrcnn demo"):
        run_demo(tmp_path, 1)
    assert not list(tmp_path.iterdir())
