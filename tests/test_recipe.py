"""The optimizer that train compiles with: its numbers by formula, accumulation, averages, precision, freezing."""

import argparse
import math
import types

import keras
import numpy as np
import pytest
from keras import ops
from tiny import random_batch, scatter_weights, tiny_config

import keras_maskrcnn as km
from keras_maskrcnn import backend
from keras_maskrcnn.cli.recipe import prepare_model, recipe_of, settle_precision


def rates(recipe, steps):
    schedule = recipe.make_optimizer()._learning_rate
    return [float(ops.convert_to_numpy(schedule(step))) for step in steps]


@pytest.mark.parametrize(
    ("optimizer", "start", "batch", "accumulate", "expected"),
    [
        ("sgd", "random", 16, 1, 0.02),
        ("sgd", "backbone", 4, 1, 0.005),  # linear: a quarter
        ("sgd", "detector", 2, 1, 0.00025),  # Detectron2's balloon tutorial
        ("sgd", "random", 4, 2, 0.01),  # gradients of eight images
        ("adamw", "random", 4, 1, 5e-4),
        ("adamw", "random", 16, 1, 1e-3),  # root: twice
        ("adamw", "detector", 4, 1, 1e-4),
        ("adamw", "backbone", 2, 4, 1e-4 * math.sqrt(2)),
    ],
)
def test_the_rate_follows_the_batch_that_counts(optimizer, start, batch, accumulate, expected):
    recipe = km.choose_recipe(batch, 100, 10, optimizer, start, accumulate=accumulate)
    assert recipe.learning_rate == pytest.approx(expected)
    assert f"{expected:.3g}" in recipe.describe()


def test_a_given_rate_is_taken_as_it_is():
    recipe = km.choose_recipe(64, 100, 10, learning_rate=0.3)
    assert recipe.learning_rate == 0.3 and "0.3 (as given)" in recipe.describe()


def test_schedule_spans_the_whole_run_and_ends_at_zero():
    recipe = km.choose_recipe(4, 50, epochs=12, learning_rate=0.1)
    assert (recipe.steps, recipe.warmup_steps) == (600, 60)
    at = rates(recipe, [0, 30, 60, 60 + 135, 60 + 270, 599, 600])
    cosine = [0.1 * 0.5 * (1 + math.cos(math.pi * share)) for share in (0, 0.25, 0.5, 539 / 540, 1)]
    np.testing.assert_allclose(at, [0.1 / 60, 0.1 * (1 / 60 + 59 / 120), *cosine], rtol=1e-5, atol=1e-8)


def test_warmup_is_a_thousand_updates_at_most_and_none_in_a_run_of_a_few():
    assert km.choose_recipe(16, 7330, epochs=12).warmup_steps == 1000
    assert km.choose_recipe(4, 29320, epochs=12, accumulate=4).warmup_steps == 4000
    tiny = km.choose_recipe(2, 3, epochs=1, learning_rate=0.1)
    assert (tiny.steps, tiny.warmup_steps) == (3, 0)
    np.testing.assert_allclose(rates(tiny, [0, 3]), [0.1, 0], atol=1e-8)


def test_under_a_time_budget_the_optimizer_holds_the_peak():
    recipe = km.choose_recipe(4, 50, optimizer="sgd", accumulate=3)
    assert float(ops.convert_to_numpy(recipe.make_optimizer().learning_rate)) == pytest.approx(0.02 * 12 / 16)
    assert recipe.steps is None and recipe.warmup_steps == 300


def test_the_optimizers_are_the_ones_asked_for():
    paper = km.choose_recipe(16, 10, 1, "sgd").make_optimizer()
    assert type(paper) is keras.optimizers.SGD and paper.momentum == 0.9
    assert paper.weight_decay == pytest.approx(1e-3)  # 1e-4 through the momentum, see km.sgd
    ours = km.choose_recipe(16, 10, 1, "adamw", weight_decay=0.05, ema=0.99).make_optimizer()
    assert type(ours) is keras.optimizers.AdamW and ours.weight_decay == 0.05 and ours.global_clipnorm == 5.0
    assert ours.use_ema and ours.ema_momentum == 0.99 and ours.gradient_accumulation_steps is None


def line(optimizer):
    model = keras.Sequential([keras.layers.Dense(1, use_bias=False, kernel_initializer="ones")])
    model.build((None, 1))
    model.compile(optimizer, loss="mse")
    return model


def test_accumulated_steps_are_one_update_of_the_larger_batch():
    x = np.tile(np.linspace(-1, 2, 16, dtype=np.float32), 4)[:, None]
    large = line(km.choose_recipe(16, 4, optimizer="sgd", learning_rate=0.1).make_optimizer())
    large.fit(x, 3 * x, batch_size=16, shuffle=False, verbose=0)
    small = line(km.choose_recipe(4, 16, optimizer="sgd", learning_rate=0.1, accumulate=4).make_optimizer())
    small.fit(x, 3 * x, batch_size=4, shuffle=False, verbose=0)
    np.testing.assert_allclose(small.get_weights()[0], large.get_weights()[0], rtol=1e-6)
    assert large.get_weights()[0] > 2


def test_the_schedule_of_accumulated_updates_ends_with_the_run():
    recipe = km.choose_recipe(4, 16, epochs=1, optimizer="sgd", learning_rate=0.1, weight_decay=0, accumulate=4)
    model = line(recipe.make_optimizer())
    x, weight, velocity = np.ones((1, 1), np.float32), 1.0, 0.0
    for step in range(16):
        model.train_on_batch(x, 3 * x)
        if step % 4 == 3:
            velocity = 0.9 * velocity - rates(recipe, [step])[0] * 2 * (weight - 3)
            weight += velocity
        assert float(model.get_weights()[0][0, 0]) == pytest.approx(weight, rel=1e-5)
    assert rates(recipe, [15])[0] < 0.002


def test_the_average_decays_by_its_momentum_an_update_not_a_step():
    x = np.ones((4, 1), np.float32)
    recipe = km.choose_recipe(1, 12, learning_rate=0.1, optimizer="sgd", accumulate=2, ema=0.81)
    model = line(recipe.make_optimizer())
    weights = []
    for _ in range(8):
        model.train_on_batch(x, 3 * x)
        weights.append(float(model.get_weights()[0][0, 0]))
    assert weights[0] == 1 and len(set(weights)) == 5  # an update at every second step
    average = weights[1]  # Keras starts it after the first update
    for weight in weights[2:]:
        average = 0.9 * average + 0.1 * weight
    got = float(ops.convert_to_numpy(model.optimizer._model_variables_moving_average[0])[0, 0])
    assert got == pytest.approx(average, rel=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"optimizer": "adam"}, "one of .*'adam'"),
        ({"start": "coco"}, "one of .*'coco'"),
        ({"accumulate": 0}, "at least 1. Received: 0"),
        ({"ema": 1.0}, "between 0 and 1. Received: 1"),
    ],
)
def test_what_cannot_be_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        km.choose_recipe(4, 10, 1, **options)


@pytest.mark.tensorflow  # one backend is enough
def test_parameters_are_counted_by_part_and_frozen_by_stage():
    model = km.MaskRCNN(tiny_config(norm="batch", backbone="resnet18"))
    counts = km.count_parameters(model)
    stem = 7 * 7 * 3 * 64 + 2 * 64
    stage1 = 4 * (3 * 3 * 64 * 64 + 2 * 64)
    statistics = counts["backbone"][1] - counts["backbone"][0]
    assert statistics == 2 * sum(layer.shape[0] for layer in model.backbone.variables if "moving_mean" in layer.path)
    fpn = (64 + 128 + 256 + 512) * 32 + 4 * 3 * 3 * 32 * 32 + 8 * 32
    assert counts["fpn"] == (fpn, fpn)
    km.freeze(model, ["stem"])
    assert km.count_parameters(model)["backbone"][0] == counts["backbone"][0] - stem
    km.freeze(model, ["stage1", "rpn"])
    frozen = km.count_parameters(model)
    assert frozen["backbone"][0] == counts["backbone"][0] - stem - stage1
    assert frozen["rpn"] == (0, counts["rpn"][1]) and frozen["fpn"] == counts["fpn"]
    km.freeze(model, ["backbone"])
    assert km.count_parameters(model)["backbone"] == (0, counts["backbone"][1])
    km.freeze(model, [])
    assert km.count_parameters(model) == counts
    with pytest.raises(ValueError, match="can be frozen.*Received: neck"):
        km.freeze(model, ["neck"])


def arguments(**given):
    return argparse.Namespace(**{"mixed_precision": None, "freeze": None} | given)


@pytest.mark.tensorflow  # one backend is enough
def test_the_arguments_freeze_parts_and_choose_the_precision(capsys):
    exact = km.MaskRCNN(tiny_config())
    mixed = prepare_model(arguments(mixed_precision="float16", freeze=["stage2", "fpn"]), exact)
    told = capsys.readouterr().out
    rows = {words[0]: words[1:] for words in map(str.split, told.splitlines())}
    counts = km.count_parameters(mixed)
    assert rows["parameters"] == ["trained", "all"] and rows["fpn"] == ["0", f"{counts['fpn'][1]:,}"]
    assert rows["total"] == [f"{sum(numbers):,}" for numbers in zip(*counts.values(), strict=True)]
    trained = [weight.path.split("/", 1)[1] for weight in mixed.trainable_variables]
    assert not [name for name in trained if name.startswith(("fpn", "backbone/stem", "backbone/stage1"))]
    for part in ("backbone/stage3", "backbone/stage4", "rpn", "box_head", "mask_head"):
        assert [name for name in trained if name.startswith(part)], part
    assert mixed.fpn.laterals[0].conv.compute_dtype == mixed.backbone.stem.conv.compute_dtype == "float16"
    for before, after in zip(exact.weights, mixed.weights):
        assert after.dtype == "float32"
        np.testing.assert_array_equal(ops.convert_to_numpy(after), ops.convert_to_numpy(before))
    prepare_model(arguments(freeze=["none"]), mixed)
    assert len(mixed.trainable_variables) == len(km.MaskRCNN(tiny_config()).trainable_variables)


def test_the_command_line_cannot_rebuild_a_backbone_that_was_built_in_python():
    model = types.SimpleNamespace(custom_backbone=True, dtype_policy=types.SimpleNamespace(name="float32"))
    words = "Received such a model and --mixed-precision bfloat16. Build both with dtype='mixed_bfloat16' in Python."
    with pytest.raises(ValueError, match=words):
        prepare_model(arguments(mixed_precision="bfloat16"), model)


@pytest.mark.parametrize(
    ("given", "rate"),  # SGD's rates for 16 images
    [
        ({"weights": None}, 0.02),
        ({"weights": "imagenet"}, 0.02),
        ({"weights": "coco"}, 0.002),
        ({"weights": None, "start_from": "run"}, 0.002),
    ],
)
def test_the_rate_of_train_follows_from_the_weights_that_it_starts_from(given, rate, capsys):
    rest = {"start_from": None, "learning_rate": None, "weight_decay": 1e-4, "ema": None}
    args = arguments(**rest | {"batch_size": 16, "epochs": 3, "optimizer": "sgd", "accumulate": 1} | given)
    assert recipe_of(args, range(50)).learning_rate == pytest.approx(rate)
    assert f"peak learning rate {rate:g}" in capsys.readouterr().out


def test_automatic_precision_is_that_of_the_device(monkeypatch, capsys):
    for device, chosen, told in (
        ("NVIDIA H100", "bfloat16", "precision: bfloat16 (faster on this device, NVIDIA H100)\n"),
        (None, None, f"precision: float32 (no faster bfloat16 on {', '.join(backend.devices())})\n"),
    ):
        monkeypatch.setattr(backend, "fast_bfloat16", lambda device=device: device)
        args = arguments(mixed_precision="auto")
        settle_precision(args)
        assert args.mixed_precision == chosen and capsys.readouterr().out == told
    args = arguments(mixed_precision="float16")
    settle_precision(args)
    assert args.mixed_precision == "float16" and capsys.readouterr().out == ""


@pytest.mark.slow
@pytest.mark.parametrize("name", ["bfloat16", "float16"])
def test_a_step_in_mixed_precision_is_that_of_32_bits_but_for_rounding(name):
    exact = scatter_weights(km.MaskRCNN(tiny_config()))
    mixed = prepare_model(arguments(mixed_precision=name), exact)
    batch = random_batch([(64, 64)], (64, 64))
    losses = []
    for model in (exact, mixed):
        model.compile(km.choose_recipe(1, 10, 1, learning_rate=1e-4).make_optimizer())
        losses.append(model.train_on_batch(batch, return_dict=True))
    scales = isinstance(mixed.optimizer, keras.optimizers.LossScaleOptimizer)
    assert scales == (name == "float16")  # Keras scales the loss where gradients would vanish
    for key in ("rpn_objectness_loss", "class_loss", "mask_loss"):
        assert losses[1][key] == pytest.approx(losses[0][key], rel=0.1, abs=0.05), key
    before, after = exact.get_weights(), mixed.get_weights()
    assert all(np.isfinite(weight).all() for weight in after)
    assert max(np.abs(a - b).max() for a, b in zip(before, after)) < 1e-3
