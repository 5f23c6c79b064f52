"""PointRend: points, targets, the point head, subdivision, losses and their gradients; options; a tiny model."""

import json
import types

import keras
import numpy as np
import pytest
from backend_tools import compiled, pull_back, to_numpy
from tiny import images_only, random_batch, scatter_weights, tiny_config

import keras_maskrcnn as km
from keras_maskrcnn.branches import PointRendMask, describe, resolve
from keras_maskrcnn.branches import points as points_of
from keras_maskrcnn.geometry.mask_samples import sample_mask_points

NARROW = {"coarse_features": 12, "channels": 8, "num_fcs": 2}
BRANCH = PointRendMask(coarse_size=4, pool_size=6, steps=3, step_points=40, train_points=16, **NARROW)
CONFIG = tiny_config(branches=(BRANCH,), fpn_channels=8, mask_padding=False)
BOXES = np.array([[[3, 5, 30.5, 41], [-2, 10, 20, 61], [30, 30, 64, 64]]] * 2, np.float32) + [[[0]], [[1.25]]]
BOXES = BOXES.astype(np.float32)


def read_map(values, x, y):
    """Bilinear values of a map (h, w, ...) between its cells' centres, in cells; zeros lie around it. In float64."""
    height, width = values.shape[:2]
    total = 0.0
    for row in (np.floor(y), np.floor(y) + 1):
        for column in (np.floor(x), np.floor(x) + 1):
            inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
            weight = (1 - np.abs(y - row)) * (1 - np.abs(x - column)) * inside
            cells = values[np.clip(row, 0, height - 1).astype(int), np.clip(column, 0, width - 1).astype(int)]
            total = total + weight.reshape(weight.shape + (1,) * (values.ndim - 2)) * cells
    return total


@pytest.fixture(scope="module")
def head():
    """A head with weights that matter."""
    made = BRANCH.make_head(CONFIG, None)
    made.build(None)
    rng = np.random.default_rng(0)
    for weight in made.weights:
        weight.assign(rng.normal(size=weight.shape) * 0.5)
    return made


@pytest.fixture(scope="module")
def p2():
    """P2 of two images of 64 x 64 pixels."""
    return np.random.default_rng(1).normal(size=(2, 16, 16, 8)).astype(np.float32)


# Points ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("with_gradient", [False, True])
def test_features_at_points_are_bilinear_and_fade_beyond_the_map(head, p2, with_gradient):
    rng = np.random.default_rng(2)
    places = rng.uniform(-8, 72, (2, 3, 50, 2)).astype(np.float32)  # also beyond the map
    places[:, 0, :4] = [[0, 0], [64, 64], [1, 63], [2, 2]]
    read = compiled(lambda p2, places: head.read_points(p2, places, with_gradient))
    found = to_numpy(read(p2, places))
    for image in range(2):
        x, y = np.moveaxis(places[image].astype(np.float64), -1, 0) / 4 - 0.5
        np.testing.assert_allclose(found[image], read_map(p2[image], x, y), atol=1e-5)
    assert (found == 0).all(axis=-1).any() and np.abs(found).max() > 1


def test_without_fading_a_larger_canvas_changes_nothing(p2):
    head = BRANCH.make_head(tiny_config(branches=(BRANCH,), fpn_channels=8), None)
    places = np.random.default_rng(5).uniform(0, 64, (2, 3, 50, 2)).astype(np.float32)
    alone = to_numpy(head.read_points(p2, places))
    larger = np.pad(p2, [(0, 0), (0, 3), (0, 5), (0, 0)], mode="edge")  # as `repeat_border` continues P2
    np.testing.assert_allclose(to_numpy(head.read_points(larger, places)), alone, atol=1e-6)
    x, y = np.clip(np.moveaxis(places[1].astype(np.float64), -1, 0) / 4 - 0.5, 0, 15)
    np.testing.assert_allclose(alone[1], read_map(p2[1], x, y), atol=1e-5)


def test_regular_grids_are_points_too(head, p2):
    for align, size in ((head.align, 6), (head.first_align, 4)):
        grid = to_numpy(head.read_grid(p2, BOXES, align))
        points = np.broadcast_to(points_of.grid_points(size), (2, 3, size * size, 2))
        single = to_numpy(head.read_points(p2, points_of.in_boxes(points, BOXES)))
        np.testing.assert_allclose(grid.reshape(single.shape), single, atol=1e-5)
    middle = points_of.grid_points(4)[[0, 1, 4, 15]]
    np.testing.assert_allclose(middle, [[0.125, 0.125], [0.375, 0.125], [0.125, 0.375], [0.875, 0.875]])
    cells = np.arange(16, dtype=np.int32)
    np.testing.assert_allclose(
        to_numpy(points_of.cell_centres(keras.ops.convert_to_tensor(cells), 4)), points_of.grid_points(4)
    )


def test_the_first_masks_are_those_that_no_step_would_predict_as_a_whole():
    def first(*args, **options):
        return PointRendMask(*args, **options).make_head(CONFIG, None)

    assert first().first_size == 28 and first().mask_size == 224  # Detectron2's: three steps of five are left
    assert first(step_points=783).first_size == 14 and first(step_points=195).first_size == 7
    assert first(steps=1, step_points=10**4).first_size == 14


def test_targets_at_points_are_the_masks():
    rng = np.random.default_rng(3)
    masks = rng.integers(0, 2, (2, 3, 5, 6)).astype(np.uint8)
    windows = np.concatenate([BOXES[..., :2], BOXES[..., :2] + rng.uniform(8, 30, (2, 3, 2))], axis=-1).astype(
        np.float32
    )
    windows[1, 2] = 0  # padding
    matched = np.array([[2, 0, 0, 1], [1, 0, 2, 1]], np.int32)
    points = rng.uniform(-4, 66, (2, 4, 30, 2)).astype(np.float32)
    found = to_numpy(compiled(sample_mask_points)(masks, windows, matched, points))
    for image in range(2):
        for roi, row in enumerate(matched[image]):
            x1, y1, x2, y2 = windows[image, row].astype(np.float64)
            if x2 == x1:
                assert not found[image, roi].any()
                continue
            x, y = points[image, roi].astype(np.float64).T
            expected = read_map(
                masks[image, row].astype(np.float64), (x - x1) / (x2 - x1) * 6 - 0.5, (y - y1) / (y2 - y1) * 5 - 0.5
            )
            np.testing.assert_allclose(found[image, roi], expected, atol=1e-4)
    assert 0.02 < found.mean() < 0.5
    nothing = sample_mask_points(masks[:, :0], windows[:, :0], matched * 0, points)
    assert to_numpy(nothing).shape == (2, 4, 30) and not to_numpy(nothing).any()


def test_points_for_training_are_the_least_certain_ones_and_random_ones():
    rng = np.random.default_rng(4)
    logits = rng.normal(size=(2, 3, 4, 4)).astype(np.float32)
    noise = rng.random((2, 3, 60 + 5, 2)).astype(np.float32)
    found = to_numpy(compiled(lambda *given: points_of.uncertain_points(*given, 60, 15))(logits, noise))
    assert found.shape == (2, 3, 20, 2)
    np.testing.assert_array_equal(found[:, :, 15:], noise[:, :, 60:])
    for image, roi in np.ndindex(2, 3):
        x, y = noise[image, roi, :60].astype(np.float64).T * 4 - 0.5
        order = np.abs(read_map(logits[image, roi].astype(np.float64), x, y)).argsort()
        chosen = {tuple(point) for point in noise[image, roi, order[:15]].tolist()}
        assert {tuple(point) for point in found[image, roi, :15].tolist()} == chosen


# The heads ---------------------------------------------------------------------------------------------------------


def coarse_of(head, p2):
    """float32 (2, 3, K, 16)."""
    return to_numpy(head(head.read_grid(p2, BOXES, head.align)))


def test_the_coarse_head_is_its_layers(head, p2):
    pooled = to_numpy(head.read_grid(p2, BOXES, head.align))[0, 1].astype(np.float64)
    kernel, bias = (to_numpy(weight).astype(np.float64) for weight in (head.reduce.kernel, head.reduce.bias))
    blocks = pooled.reshape(3, 2, 3, 2, 8)
    features = np.maximum(np.einsum("yaxbc,abcd->yxd", blocks, kernel) + bias, 0).transpose(2, 0, 1).ravel()
    for fc in head.fcs:
        features = np.maximum(features @ to_numpy(fc.kernel) + to_numpy(fc.bias), 0)
    expected = features @ to_numpy(head.coarse_logits.kernel) + to_numpy(head.coarse_logits.bias)
    np.testing.assert_allclose(coarse_of(head, p2)[0, 1].ravel(), expected, rtol=1e-4, atol=1e-4)


def dense_logits(head, p2, coarse, labels, size):
    """The point head at the centre of every cell of masks of size x size, in numpy: float64 (2, 3, size, size)."""
    logits = np.zeros((2, 3, size * size))
    x, y = points_of.grid_points(size).astype(np.float64).T
    for image, roi in np.ndindex(2, 3):
        x1, y1, x2, y2 = BOXES[image, roi].astype(np.float64)
        features = read_map(
            p2[image].astype(np.float64), (x1 + x * (x2 - x1)) / 4 - 0.5, (y1 + y * (y2 - y1)) / 4 - 0.5
        )
        masks = coarse[image, roi].astype(np.float64).reshape(-1, 4, 4).transpose(1, 2, 0)
        at_points = read_map(masks, x * 4 - 0.5, y * 4 - 0.5)
        for fc in head.point_fcs:
            features = np.concatenate([features, at_points], axis=1)
            features = np.maximum(features @ to_numpy(fc.kernel)[0] + to_numpy(fc.bias), 0)
        features = np.concatenate([features, at_points], axis=1)
        every = features @ to_numpy(head.point_logits.kernel)[0] + to_numpy(head.point_logits.bias)
        logits[image, roi] = every[:, labels[image, roi]]
    return logits.reshape(2, 3, size, size)


def doubled(logits):
    """Twice as many rows and columns, bilinear at the cells' centres."""
    size = 2 * logits.shape[-1]
    x, y = np.clip(np.meshgrid(*[(np.arange(size) + 0.5) / 2 - 0.5] * 2), 0, size / 2 - 1)
    return np.stack([[read_map(mask, x, y) for mask in image] for image in logits])


def test_subdivision_equals_the_dense_prediction_at_the_least_certain_points(head, p2):
    coarse, labels = coarse_of(head, p2), np.array([[0, 2, 1], [2, 2, 0]], np.int32)
    found = to_numpy(compiled(head.render)(p2, BOXES, labels, coarse))
    expected = dense_logits(head, p2, coarse, labels, 4)  # 64 points are more than 40: the first masks are coarse ones
    for size in (8, 16, 32):
        expected, dense = doubled(expected), dense_logits(head, p2, coarse, labels, size)
        for image, roi in np.ndindex(2, 3):
            least = np.abs(expected[image, roi]).ravel().argsort()[:40]
            expected[image, roi].ravel()[least] = dense[image, roi].ravel()[least]
    assert found.shape == (2, 3, 32, 32) and found.std() > 0.1
    np.testing.assert_allclose(found, expected, atol=2e-4)
    predicted = (np.abs(found - dense_logits(head, p2, coarse, labels, 32)) < 1e-3).reshape(2, 3, -1)
    assert 40 <= predicted.sum(axis=-1).min() and predicted.mean() < 0.3  # the rest is interpolated
    detected = head.detect([p2], {"boxes": BOXES, "labels": labels})["masks"]
    np.testing.assert_allclose(to_numpy(detected), 1 / (1 + np.exp(-found)), atol=1e-5)


def learn(head, p2):
    """What the head learns from three RoIs of two images, of which the last is padding."""
    rng = np.random.default_rng(6)
    labels = np.array([[0, 2, 3], [1, 3, 3]], np.int32)
    rois = {"rois": BOXES, "matched": np.array([[0, 1, 0], [1, 0, 0]], np.int32), "labels": labels}
    rois["positive"] = labels < 3
    truth = {"gt_masks": rng.integers(0, 2, (2, 2, 8, 8)).astype(np.uint8), "gt_boxes": BOXES[:, :2] + 1.5}
    rois, truth = ({key: keras.ops.convert_to_tensor(value) for key, value in each.items()} for each in (rois, truth))
    return head.learn([p2], rois, truth, True)


def test_losses_are_the_mean_cross_entropies_of_positive_rois(head, p2):
    learned = {key: to_numpy(value) for key, value in learn(head, p2).items()}
    rows = learned["positive"]
    assert learned["point_logits"].shape[2] == learned["point_targets"].shape[2] == 16 and rows.sum() == 3
    assert learned["logits"].shape[2:] == learned["targets"].shape[2:] == (4, 4)

    def cross_entropy(targets, logits):
        chances = 1 / (1 + np.exp(-logits.astype(np.float64)))
        return -(targets * np.log(chances) + (1 - targets) * np.log(1 - chances))[rows].mean()

    losses = head.loss_values({key: keras.ops.convert_to_tensor(value) for key, value in learned.items()})
    mask, point = (float(to_numpy(losses[name])) for name in ("mask_loss", "point_loss"))
    np.testing.assert_allclose(mask, cross_entropy(learned["targets"], learned["logits"]), rtol=1e-4)
    np.testing.assert_allclose(point, cross_entropy(learned["point_targets"], learned["point_logits"]), rtol=1e-4)
    coarse = coarse_of(head, p2)
    np.testing.assert_allclose(learned["logits"][0, 1].ravel(), coarse[0, 1, 2], atol=1e-4)
    again = to_numpy(learn(head, p2)["point_targets"])
    assert not np.array_equal(again, learned["point_targets"])  # other points


def test_the_gradient_reaches_both_heads_and_the_map(head, p2):
    weights = list(head.trainable_variables)

    def point_loss(p2, *values):
        with keras.StatelessScope(state_mapping=list(zip(weights, values, strict=True))):
            return head.loss_values(learn(head, p2))["point_loss"]

    inputs = [p2, *(to_numpy(weight) for weight in weights)]
    loss, gradients = pull_back(point_loss, inputs, np.ones((), np.float32))
    assert loss > 0.1
    for name, gradient in zip(["p2", *(weight.path for weight in weights)], gradients, strict=True):
        assert np.isfinite(gradient).all() and np.abs(gradient).max() > 1e-6, name


# Options and a model -----------------------------------------------------------------------------------------------


def test_training_that_goes_on_draws_the_points_that_would_have_come():
    def drawn(head):
        return to_numpy(keras.random.uniform((4,), seed=head.seed_generator)).tolist()

    head, other, kept = BRANCH.make_head(CONFIG, None), BRANCH.make_head(CONFIG, None), {}
    first = drawn(head)
    head.save_own_variables(kept)
    assert drawn(other) == first
    expected = drawn(head)
    drawn(other), drawn(other)
    other.load_own_variables(kept)
    assert drawn(other) == expected != first


def test_torchvision_has_no_such_model():
    model = types.SimpleNamespace(config=CONFIG)
    with pytest.raises(ValueError, match="no model with the branch `pointrend`. Received one. Save the model as"):
        km.torchvision_state_dict(model)


def test_a_branch_is_its_name_or_json():
    assert describe(resolve(("pointrend", "keypoints"))) == ["pointrend", "keypoints"]
    config = tiny_config(branches=(BRANCH,))
    again = km.MaskRCNNConfig.from_dict(json.loads(json.dumps(config.to_dict())))
    assert again == config and again.branches[0] == BRANCH and again.branches[0].importance == 0.75
    (branch,) = tiny_config(branches=("pointrend",)).branches
    assert branch == PointRendMask() and branch.found(config)["masks"].shape == (224, 224)
    with pytest.raises(ValueError, match="unique loss names.*mask_loss"):
        tiny_config(branches=("mask", "pointrend"))


@pytest.mark.parametrize(
    "options, message",
    [
        ({"channels": 0}, "channels must be a whole number of 1 to 65536. Received: 0"),
        ({"steps": 2.0}, "steps must be a whole number of 1 to 8. Received: 2.0"),
        ({"pool_size": 7}, "pool_size must be even"),
        ({"coarse_size": 14, "steps": 7}, "at most 1024 cells.*coarse_size=14, steps=7"),
        ({"importance": 1.5}, "importance must be a share.*importance=1.5"),
        ({"importance": 0.1, "train_points": 9}, "choose at least one.*train_points=9"),
    ],
)
def test_wrong_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        PointRendMask(**options)


@pytest.fixture(scope="module")
def model():
    made = scatter_weights(km.MaskRCNN(tiny_config(branches=(BRANCH,), score_threshold=0.3)))
    made.run_eagerly = keras.backend.backend() == "tensorflow"
    return made


@pytest.mark.slow
@pytest.mark.slow_on_jax
def test_a_model_finds_draws_saves_and_loads(model, tmp_path):
    batch = random_batch([(64, 96)], (64, 96))
    raw = {key: to_numpy(value) for key, value in model.predict_on_batch(images_only(batch)).items()}
    valid = raw["valid"][0]
    found = km.Predictor(model)(batch["images"][0])
    assert raw["masks"].shape == (1, 10, 32, 32) and 0 < len(found) == valid.sum() and not raw["masks"][0][~valid].any()
    np.testing.assert_allclose(found.box_masks, raw["masks"][0][valid], atol=1e-5)
    from keras_maskrcnn.geometry.pasting import paste_masks_subpixel

    np.testing.assert_array_equal(found.masks, paste_masks_subpixel(found.box_masks, found.boxes, (64, 96)))
    assert found.masks.any() and found.to_coco(1)[0]["segmentation"]["size"] == [64, 96]
    assert km.draw_instances(batch["images"][0], found).shape == (64, 96, 3)
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras", compile=False)
    assert again.config == model.config
    for ours, theirs in zip(model.weights, again.weights, strict=True):
        np.testing.assert_array_equal(to_numpy(ours), to_numpy(theirs), err_msg=ours.path)
    state = to_numpy(model.pointrend_head.seed_generator.state)
    np.testing.assert_array_equal(to_numpy(again.pointrend_head.seed_generator.state), state)
    with pytest.raises(ValueError, match="Torchvision has no model with the branch `pointrend`"):
        km.torchvision_state_dict(model)


@pytest.mark.slow
@pytest.mark.slow_on_jax
def test_it_trains_on_shapes(tmp_path):
    dataset = km.CocoDataset(km.data.generate_shapes(tmp_path, 8, 96, 1, 2))
    keras.utils.set_random_seed(0)
    config = tiny_config(class_names=dataset.class_names, branches=(BRANCH,), norm="batch")
    model = km.MaskRCNN(config)
    model.compile(keras.optimizers.AdamW(2e-3, global_clipnorm=5.0))
    history = model.fit(km.DataLoader(dataset, config, 4, canvas=(96, 96)), epochs=40, shuffle=False, verbose=0).history
    for name in BRANCH.losses:  # the points' loss begins to fall after 10 epochs
        assert 0 < history[name][-1] < 0.8 * history[name][0], name
