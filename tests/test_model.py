"""The whole model: padding, batches, empty images, what it refuses. Values, not shapes."""

import dataclasses

import keras
import numpy as np
import pytest
from keras import ops
from tiny import images_only, random_batch, sample_everything, scatter_weights, tiny_config

import keras_maskrcnn as km

LOSSES = ("rpn_objectness_loss", "rpn_box_loss", "class_loss", "box_loss", "mask_loss")

SMALL, LARGE = (80, 100), (128, 112)


@pytest.fixture(scope="module")
def model():
    model = scatter_weights(km.MaskRCNN(sample_everything()))
    model.compile(keras.optimizers.SGD(0.0))
    return model


@pytest.fixture(scope="module")
def learner():
    """A model to train, with the heads of torchvision's v2, and the weights that it starts with.

    Its step is compiled once. On JAX the twin of v2 is slow: a step of its own size takes half a minute there.
    """
    heads = {"head_norm": "batch", "rpn_convs": 2, "box_convs": 1, "box_fcs": 1}
    model = km.MaskRCNN(tiny_config(norm="batch", **heads))
    model.compile(keras.optimizers.SGD(0.01))
    return model, model.get_weights()


def found(model, batch):
    return model.predict_on_batch(images_only(batch))


def losses_of(model, batch):
    """The five losses of a batch by `test_on_batch`, which changes nothing."""
    model.reset_metrics()
    return {name: float(value) for name, value in model.test_on_batch(batch, return_dict=True).items()}


def counts_of(model, batch):
    """By how many samples each loss is divided."""
    answers = model(batch, training=False)
    total = lambda mask: float(ops.sum(ops.cast(mask, "float32")))  # noqa: E731
    rpn, roi = answers["rpn"]["targets"], answers["roi"]["targets"]
    rpn_count, roi_count = total(rpn["positive"]) + total(rpn["negative"]), total(roi["valid"])
    return dict(zip(LOSSES, (rpn_count, rpn_count, roi_count, roi_count, total(answers["mask"]["positive"]))))


def test_there_is_something_to_compare(model):
    batch = random_batch([SMALL], (96, 128))
    answers = found(model, batch)
    assert answers["valid"].sum() == 10
    assert answers["scores"].max() > 0.2 and np.ptp(answers["masks"]) > 0.5
    losses = losses_of(model, batch)
    assert all(losses[name] > 1e-4 for name in LOSSES)
    assert losses["loss"] == pytest.approx(sum(losses[name] for name in LOSSES), rel=1e-5)


@pytest.mark.parametrize("canvas", [pytest.param((96, 128), marks=pytest.mark.slow_on_jax), (160, 192)])
def test_detections_do_not_depend_on_the_canvas_or_the_neighbour(model, canvas):
    alone = found(model, random_batch([SMALL], (96, 128)))
    beside = found(model, random_batch([LARGE, SMALL] if canvas[0] > 128 else [SMALL, SMALL], canvas))
    for name, tolerance in (
        ("boxes", 1e-3),
        ("scores", 1e-4),
        ("masks", 1e-4),
        ("labels", 0),
        ("valid", 0),
    ):
        np.testing.assert_allclose(
            beside[name][1].astype("float32"),
            alone[name][0].astype("float32"),
            atol=tolerance,
            err_msg=name,
        )


@pytest.mark.tensorflow  # RoIAlign at the border runs on JAX in test_ops_roi_align.py
def test_a_box_thinner_than_a_cell_at_the_border_does_not_see_where_the_canvas_ends(model):
    """RoIAlign widens it to a cell (aligned=False), past the end of a canvas that ends with the image."""
    box = np.array([[[62.5, 0, 64, 40], [0, 63.2, 30, 64]]], "float32")
    pooled = []
    for canvas in ((64, 64), (64, 96), (96, 96)):
        images = images_only(random_batch([(64, 64)], canvas))
        sizes = keras.ops.convert_to_tensor(images["image_sizes"])
        maps = model.extract_features(images["images"], sizes)["roi_maps"]
        pooled.append(keras.ops.convert_to_numpy(model.box_align(maps, box)))
    assert np.abs(pooled[0]).max(axis=(0, 2, 3, 4)).min() > 0.1
    for other in pooled[1:]:
        np.testing.assert_allclose(other, pooled[0], atol=1e-4)


def test_losses_do_not_depend_on_the_canvas_or_rows_of_padding(model):
    expected = losses_of(model, random_batch([SMALL], (96, 128)))
    padded = losses_of(model, random_batch([SMALL], (160, 192), rows=9))
    assert padded == pytest.approx(expected, rel=1e-4, abs=1e-5)


@pytest.mark.tensorflow  # of JAX too, but three graphs are compiled for a minute; the twins compare a batch of two
def test_losses_of_a_batch_are_those_of_its_images_weighted_by_their_samples(model):
    singles = [random_batch([size], (128, 128)) for size in (SMALL, LARGE)]
    together = losses_of(model, random_batch([SMALL, LARGE], (128, 128)))
    each = [(losses_of(model, batch), counts_of(model, batch)) for batch in singles]
    for name in LOSSES:
        weights = [counts[name] for _, counts in each]
        expected = np.average([losses[name] for losses, _ in each], weights=weights)
        assert together[name] == pytest.approx(expected, rel=1e-4), name


@pytest.mark.slow_on_jax
def test_padding_counts_where_torchvision_counts_it():
    # The twin of torchvision must show the very effect that the model above does not have.
    twin = scatter_weights(km.MaskRCNN(sample_everything(mask_padding=False)))
    narrow, wide = (found(twin, random_batch([SMALL], canvas)) for canvas in ((96, 128), (160, 192)))
    assert np.abs(narrow["scores"] - wide["scores"]).max() > 1e-3


def test_a_batch_without_objects_has_finite_losses_and_gradients_that_teach_background(learner):
    model, weights = learner
    model.set_weights(weights)
    model.reset_metrics()
    batch = random_batch([SMALL, LARGE], (128, 128), num_objects=0)
    before = [ops.convert_to_numpy(weight) for weight in model.trainable_weights]
    losses = model.train_on_batch(batch, return_dict=True)
    assert losses["rpn_box_loss"] == 0 and losses["box_loss"] == 0 and losses["mask_loss"] == 0
    assert losses["rpn_objectness_loss"] == pytest.approx(np.log(2), abs=0.1)
    assert losses["class_loss"] == pytest.approx(np.log(4), abs=0.3)
    after = [ops.convert_to_numpy(weight) for weight in model.trainable_weights]
    assert all(np.isfinite(weight).all() for weight in after)
    moved = {w.path for w, a, b in zip(model.trainable_weights, before, after) if (a != b).any()}
    assert any("/backbone/" in path for path in moved) and any("/box_head/classes/" in path for path in moved)
    assert not any("/mask_head/" in path for path in moved)


def test_objects_of_no_size_and_a_black_image_stay_finite(learner):
    model, weights = learner
    model.set_weights(weights)
    model.reset_metrics()
    batch = random_batch([SMALL, LARGE], (128, 128))
    batch["images"][:] = 0
    batch["gt_boxes"][0, 0] = [5, 5, 5, 5]
    losses = model.train_on_batch(batch, return_dict=True)
    assert all(np.isfinite(value) for value in losses.values())
    assert all(np.isfinite(ops.convert_to_numpy(weight)).all() for weight in model.trainable_weights)


def test_config_round_trip_and_its_errors():
    config = tiny_config(norm="group")
    assert km.MaskRCNNConfig.from_dict(config.to_dict()) == config
    assert dataclasses.replace(config, min_size=64).min_size == 64
    with pytest.raises(ValueError, match="num_classes.*Received: 0"):
        km.MaskRCNNConfig(num_classes=0)
    with pytest.raises(ValueError, match="class_names.*Received 1"):
        km.MaskRCNNConfig(num_classes=2, class_names=("one",))
    with pytest.raises(ValueError, match="no field lerning_rate"):
        km.MaskRCNNConfig.from_dict({"num_classes": 1, "lerning_rate": 1})
    with pytest.raises(ValueError, match="mask_size.*30"):
        km.MaskRCNNConfig(num_classes=1, mask_size=30)
    with pytest.raises(ValueError, match="five sizes.*Received: \\(32,\\)"):
        km.MaskRCNNConfig(num_classes=1, anchor_sizes=(32,))


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        (np.zeros((64, 64, 3), "uint8"), "4 axes.*\\(64, 64, 3\\).*images\\[None\\]"),
        (np.zeros((1, 64, 64, 1), "uint8"), "channels last.*\\(1, 64, 64, 1\\)"),
        (np.zeros((1, 64, 64, 3), bool), "uint8, uint16 or float.*bool"),
        (
            {"image": np.zeros((1, 64, 64, 3), "uint8")},
            "missing \\['images'\\].*unknown \\['image'\\]",
        ),
        (
            {"images": np.zeros((1, 64, 64, 3)), "gt_boxes": np.zeros((1, 2, 4))},
            "missing \\['gt_labels'",
        ),
    ],
    ids=["rank", "channels", "dtype", "key", "no labels"],
)
def test_a_wrong_batch_is_named(model, batch, message):
    with pytest.raises(ValueError, match=message):
        model(batch)


def test_fit_without_ground_truth_is_named(model):
    with pytest.raises(ValueError, match="needs ground truth.*Received: \\['image_sizes', 'images'\\]"):
        model.fit(images_only(random_batch([SMALL], (96, 128))), verbose=0)
