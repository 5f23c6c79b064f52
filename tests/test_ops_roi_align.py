"""RoIAlign: ramps with known bins, torchvision's values and gradients, what changes nothing."""

import functools
import pathlib

import keras
import numpy as np
import pytest
from backend_tools import compiled, jitted, pull_back, pull_back_function, to_numpy

import keras_maskrcnn.ops as km_ops
from keras_maskrcnn import backend
from keras_maskrcnn.network.roi_align import MultiLevelRoIAlign

GOLDEN = np.load(pathlib.Path(__file__).parent / "golden" / "ops.npz")
FEATURES = np.ascontiguousarray(GOLDEN["features_nchw"].transpose(0, 2, 3, 1))
BOXES = GOLDEN["rois_batch_x1y1x2y2"][:, 1:]
IMAGES = GOLDEN["rois_batch_x1y1x2y2"][:, 0].astype("int32")

pytestmark = pytest.mark.usefixtures("path")  # native and stock


def ramp(height, width):
    """Two channels that say where they are: f(y, x) = (y, x)."""
    return np.stack(np.mgrid[:height, :width], axis=-1).astype("float32")[None]


def crop(features, boxes, *args, **kwargs):
    images = np.zeros(len(boxes), "int32")
    align = jitted(lambda features, boxes: km_ops.roi_align(features, boxes, images, *args, **kwargs))
    return to_numpy(align(features, np.array(boxes, "float32")))


def pooled(layer, pyramid, boxes, **options):
    return to_numpy(jitted(lambda *maps: layer(list(maps[:-1]), maps[-1], **options))(*pyramid, boxes))


def random_pyramid(rng, num_images, height, width, channels=3):
    return [
        rng.standard_normal((num_images, height // s, width // s, channels)).astype("float32") for s in (4, 8, 16, 32)
    ]


def random_boxes(rng, num_images, num_boxes, height, width):
    """Boxes of all levels, some reaching over the border."""
    sizes = np.exp(rng.uniform(np.log(8), np.log(600), (num_images, num_boxes, 2)))
    centres = rng.uniform(0, 1, (num_images, num_boxes, 2)) * [width, height]
    boxes = np.concatenate([centres - sizes / 2, centres + sizes / 2], axis=-1)
    return boxes.clip(-20, max(height, width) + 20).astype("float32")


def test_bins_read_their_centres_on_a_ramp():
    # Bilinear sampling reproduces a plane exactly: f(y, x) = x, cell centres at x + 0.5,
    # so bins centred at x = 3 and x = 5 must read 2.5 and 4.5 (aligned=True).
    result = crop(ramp(10, 10), [[2, 4, 6, 8]], 2, 1.0, aligned=True)
    np.testing.assert_allclose(result[0, :, :, 1], [[2.5, 4.5], [2.5, 4.5]], atol=1e-4)
    np.testing.assert_allclose(result[0, :, :, 0], [[4.5, 4.5], [6.5, 6.5]], atol=1e-4)
    # Without the half cell of shift, the same bins read 3 and 5.
    result = crop(ramp(10, 10), [[2, 4, 6, 8]], 2, 1.0, aligned=False)
    np.testing.assert_allclose(result[0, :, :, 1], [[3, 5], [3, 5]], atol=1e-4)


@pytest.mark.parametrize("ratio", [0, 1, 2, 3, 5])
def test_every_ratio_reads_the_same_plane(ratio):
    result = crop(ramp(12, 12), [[4, 4, 36, 20]], (2, 4), 0.25, ratio, aligned=True)
    np.testing.assert_allclose(result[0, 0, :, 1], [1.5, 3.5, 5.5, 7.5], atol=1e-4)
    np.testing.assert_allclose(result[0, :, 0, 0], [1.5, 3.5], atol=1e-4)


@pytest.mark.parametrize("ratio", [0, 2])
def test_max_takes_the_largest_point(ratio):
    # Bins of 2 cells have points 0.5 either side of their centres, at ratio 2 and at one a cell.
    result = crop(ramp(10, 10), [[2, 4, 6, 8]], 2, 1.0, ratio, aligned=True, aggregation="max")
    np.testing.assert_allclose(result[0, :, :, 1], [[3, 5], [3, 5]], atol=1e-4)
    np.testing.assert_allclose(result[0, :, :, 0], [[5, 5], [7, 7]], atol=1e-4)


def test_outside_reads_the_border_for_one_cell_and_then_nothing():
    ones = np.ones((1, 6, 6, 1), "float32")
    # One point a bin, at x = -2.5, -1.5, -0.5 and 0.5 in cells.
    result = crop(ones, [[-3, 2, 1, 3]], (1, 4), 1.0, 1)
    np.testing.assert_allclose(result[0, 0, :, 0], [0, 0, 1, 1], atol=1e-5)


def test_unaligned_boxes_are_at_least_one_cell():
    result = crop(ramp(8, 8), [[3, 3, 3, 3]], 1, 1.0)
    np.testing.assert_allclose(result[0, 0, 0], [3.5, 3.5], atol=1e-4)
    result = crop(ramp(8, 8), [[3, 3, 3, 3]], 1, 1.0, aligned=True)
    np.testing.assert_allclose(result[0, 0, 0], [2.5, 2.5], atol=1e-4)


def test_adaptive_ratio_has_one_point_a_cell():
    # A spike in every second cell: points at all cell centres average it to 0.5 exactly,
    # two points a bin would miss or double it.
    spikes = np.zeros((1, 1, 16, 1), "float32")
    spikes[:, :, ::2] = 1
    result = crop(spikes, [[0, 0, 16, 1]], (1, 2), 1.0, 0, aligned=True)
    np.testing.assert_allclose(result[0, 0, :, 0], [0.5, 0.5], atol=1e-5)


def defined_weights(start, length, bins, extent):
    """The weight of each cell in the average over each bin, with one point per cell: point after point, float64."""
    count = int(np.ceil(length / bins))
    weights = np.zeros((bins, extent))
    for number in range(bins):
        points = start + length / bins * (number + (np.arange(count) + 0.5) / max(count, 1))
        points = points[(points >= -1) & (points <= extent)].clip(0, extent - 1)
        low = np.floor(points).astype(int)
        np.add.at(weights[number], low, (1 - points + low) / count)
        np.add.at(weights[number], np.minimum(low + 1, extent - 1), (points - low) / count)
    return weights


def boxes_of_every_kind(rng, count):
    """Random boxes on an image of 96 x 320, and some of no size, turned round, beyond the map and huge."""
    boxes = random_boxes(rng, 1, count, 96, 320)[0]
    boxes[:8] = [
        [40.3, 20, 40.3, 60],
        [50, 50, 30.5, 20],
        [-90, -80, -41, -22],
        [400, 200, 500, 300.7],
        [-3000, -2000.5, 4000, 3000],
        [10, -5000, 60.5, 5000],
        [1, 3, 319, 9],
        [0, 0, 320, 96],
    ]
    return boxes


@pytest.mark.usefixtures("eagerly")
@pytest.mark.parametrize("aligned", [False, True])
def test_one_point_a_cell_is_the_average_of_all_points(aligned):
    rng = np.random.default_rng(2)
    pyramid, boxes = random_pyramid(rng, 2, 96, 320), boxes_of_every_kind(rng, 40)
    scales, bins = np.array([1 / 4, 1 / 8, 1 / 16, 1 / 32]), (3, 5)
    images, levels = rng.integers(0, 2, 40).astype("int32"), rng.integers(0, 4, 40).astype("int32")
    levels[:8] = 0
    upstream = rng.standard_normal((40, *bins, 3)).astype("float32")
    expected, shares = np.zeros(upstream.shape), [np.zeros(level.shape) for level in pyramid]
    for number, (box, image, level) in enumerate(zip(boxes, images, levels)):
        x1, y1, x2, y2 = box.astype("float64") * scales[level] - 0.5 * aligned
        height, width = (y2 - y1, x2 - x1) if aligned else (max(y2 - y1, 1), max(x2 - x1, 1))
        features = pyramid[level][image]
        rows = defined_weights(y1, height, bins[0], features.shape[0])
        columns = defined_weights(x1, width, bins[1], features.shape[1])
        expected[number] = np.einsum("ph,qw,hwc->pqc", rows, columns, features)
        shares[level][image] += np.einsum("ph,qw,pqc->hwc", rows, columns, upstream[number])
    tensors = [keras.ops.convert_to_tensor(each) for each in (boxes, images, levels)]
    options = (tuple(scales.tolist()), bins, 0, aligned, "average")
    result, gradients = pull_back(
        lambda *maps: backend.trainable_multilevel_roi_align(list(maps), *tensors, *options), pyramid, upstream
    )
    np.testing.assert_allclose(result, expected, atol=1e-4)
    for ours, share in zip(gradients, shares, strict=True):
        np.testing.assert_allclose(ours, share, atol=1e-4)
    assert min(np.abs(each).max() for each in (expected[8:], *shares)) > 0.5 and np.abs(expected[6:8]).max() > 0.1


@pytest.mark.tensorflow
@pytest.mark.usefixtures("eagerly")
def test_bins_of_too_many_cells_for_a_matrix_take_several(monkeypatch):
    from keras_maskrcnn.backend import sampling

    rng = np.random.default_rng(3)
    features, boxes = random_pyramid(rng, 1, 96, 128)[0], random_boxes(rng, 1, 9, 96, 128)[0]
    upstream = rng.standard_normal((9, 3, 3, 3)).astype("float32")

    def results():
        return pull_back(
            lambda maps: km_ops.roi_align(maps, boxes, np.zeros(9, "int32"), 3, 0.25, 0), [features], upstream
        )

    expected, (share,) = results()
    monkeypatch.setattr(sampling, "MOST_CELLS", 300)
    crops, (gradient,) = results()
    np.testing.assert_allclose(crops, expected, atol=1e-5)
    np.testing.assert_allclose(gradient, share, atol=1e-5)
    assert min(np.abs(expected).max(), np.abs(share).max()) > 0.5


@pytest.mark.parametrize("ratio", [0, 1, 2, 3])
@pytest.mark.parametrize("aligned", [False, True])
def test_values_and_gradients_equal_torchvision(aligned, ratio):
    for size in ((7, 7), (14, 14), (5, 3)):
        key = f"roi_align_a{aligned:d}_r{ratio}_{size[0]}x{size[1]}"

        def align(features, size=size):
            return km_ops.roi_align(features, BOXES, IMAGES, size, 0.125, ratio, aligned)

        if f"{key}_grad" in GOLDEN:
            upstream = GOLDEN[f"{key}_upstream"].transpose(0, 2, 3, 1)
            result, (gradient,) = pull_back(align, [FEATURES], upstream)
            expected = GOLDEN[f"{key}_grad"].transpose(0, 2, 3, 1)
            np.testing.assert_allclose(gradient, expected, atol=1e-4, rtol=0)
        else:
            result = to_numpy(compiled(align)(FEATURES))
        values = result.transpose(0, 3, 1, 2).ravel()[GOLDEN[f"{key}_idx"]]
        np.testing.assert_allclose(values, GOLDEN[f"{key}_val"], atol=1e-4, rtol=0)


@pytest.mark.parametrize("aggregation", ["average", "max"])
def test_training_form_equals_the_reference(aggregation):
    # Both the forward pass and the gradient, against keras.ops differentiated by the backend.
    rng = np.random.default_rng(0)
    pyramid = random_pyramid(rng, 2, 96, 128)
    boxes = random_boxes(rng, 1, 30, 96, 128)[0]
    # Half of the usual size for a level, so that boxes of 128 px use all four.
    levels = to_numpy(km_ops.assign_levels(boxes, canonical_scale=64))
    assert len(set(levels.tolist())) == 4
    images = rng.integers(0, 2, 30).astype("int32")
    upstream = rng.standard_normal((30, 3, 5, 3)).astype("float32")
    boxes, images, levels = (keras.ops.convert_to_tensor(each) for each in (boxes, images, levels))
    options = (levels, (1 / 4, 1 / 8, 1 / 16, 1 / 32), (3, 5), 2, False, aggregation)
    expected, expected_gradients = pull_back(
        lambda *maps: backend.generic.multilevel_roi_align(list(maps), boxes, images, *options),
        pyramid,
        upstream,
    )
    for form in (backend.multilevel_roi_align, backend.trainable_multilevel_roi_align):
        result, gradients = pull_back(
            lambda *maps, form=form: form(list(maps), boxes, images, *options), pyramid, upstream
        )
        np.testing.assert_allclose(result, expected, atol=1e-4)
        for ours, theirs in zip(gradients, expected_gradients, strict=True):
            np.testing.assert_allclose(ours, theirs, atol=1e-4)


@pytest.mark.skipif(keras.backend.backend() != "jax", reason="two gradients exist on JAX alone: CPUs and accelerators")
@pytest.mark.parametrize("ratio", [1, 2])
def test_gradients_of_cpus_and_of_accelerators_are_equal(ratio):
    from keras_maskrcnn.backend import generic
    from keras_maskrcnn.backend import jax as operators

    rng = np.random.default_rng(5)
    pyramid = random_pyramid(rng, 2, 96, 128)
    boxes = random_boxes(rng, 1, 30, 96, 128)[0]
    images, levels = (keras.ops.cast(rng.integers(0, most, 30), "int32") for most in (2, 4))
    frame = generic.box_frames(boxes, levels, [1 / 4, 1 / 8, 1 / 16, 1 / 32], False)
    upstream = keras.ops.convert_to_tensor(rng.standard_normal((30, 7, 5, 3)).astype("float32"))
    spread = [operators._spread_by_scatter, operators._spread_by_loop]
    by_scatter, by_loop = (
        compiled(functools.partial(each, (7, 5), ratio))(pyramid, (frame, images, levels), upstream) for each in spread
    )
    for level, scattered, looped in zip(pyramid, by_scatter, by_loop, strict=True):
        assert scattered.shape == level.shape and scattered.dtype == level.dtype
        np.testing.assert_allclose(scattered, looped, atol=1e-5)
    assert max(np.abs(level).max() for level in by_loop) > 1


@pytest.mark.skipif(keras.backend.backend() != "jax", reason="two gradients exist on JAX alone: CPUs and accelerators")
def test_both_gradients_with_one_point_a_cell_are_equal():
    from keras_maskrcnn.backend import adaptive_jax, generic

    rng = np.random.default_rng(6)
    pyramid, boxes = random_pyramid(rng, 2, 96, 320), boxes_of_every_kind(rng, 40)
    images, levels = (keras.ops.cast(rng.integers(0, most, 40), "int32") for most in (2, 4))
    frame = generic.box_frames(boxes, levels, [1 / 4, 1 / 8, 1 / 16, 1 / 32], True)
    upstream = keras.ops.convert_to_tensor(rng.standard_normal((40, 3, 5, 3)).astype("float32"))
    spread = [adaptive_jax._spread_by_scatter, adaptive_jax._spread_by_rows]
    by_scatter, by_rows = (each((3, 5), pyramid, (frame, images, levels), upstream) for each in spread)
    for level, scattered, summed in zip(pyramid, by_scatter, by_rows, strict=True):
        assert scattered.shape == level.shape and scattered.dtype == level.dtype
        np.testing.assert_allclose(scattered, summed, atol=1e-5)
    assert max(np.abs(level).max() for level in by_rows) > 1


def test_levels_of_the_paper():
    # 224 px belongs to P4; half of it to P3; a pixel less than 224 is P3 as well. P2 is 0.
    sides = [0, 10, 111, 112, 223, 224, 447, 448, 5000]
    boxes = np.array([[0, 0, side, side] for side in sides], "float32")
    np.testing.assert_array_equal(to_numpy(km_ops.assign_levels(boxes)), [0, 0, 0, 1, 1, 2, 2, 3, 3])


@pytest.mark.parametrize("training", [False, True])
def test_each_box_is_cropped_from_its_own_level(training):
    pyramid = [np.full((2, 32 // 2**n, 32 // 2**n, 1), n, "float32") for n in range(4)]
    pyramid = [level + 10 * np.arange(2, dtype="float32")[:, None, None, None] for level in pyramid]
    boxes = np.array([[[8, 8, 16, 16], [0, 0, 128, 128]], [[0, 0, 128, 128], [0, 0, 0, 0]]])
    crops = pooled(MultiLevelRoIAlign(2), pyramid, boxes.astype("float32"), with_gradient=training)
    assert crops.shape == (2, 2, 2, 2, 1)
    np.testing.assert_allclose(crops[:, :, 0, 0, 0], [[0, 1], [11, 10]], atol=1e-5)


def test_a_batch_of_two_is_two_batches_of_one_and_padding_changes_nothing():
    rng = np.random.default_rng(0)
    pyramid = random_pyramid(rng, 2, 96, 128)
    boxes = random_boxes(rng, 2, 12, 96, 128)
    layer = MultiLevelRoIAlign((3, 2))
    together = pooled(layer, pyramid, boxes)
    for image in range(2):
        alone = pooled(layer, [level[image : image + 1] for level in pyramid], boxes[image : image + 1])
        np.testing.assert_allclose(alone[0], together[image], atol=1e-5)
    padded = pooled(layer, pyramid, np.pad(boxes, [[0, 0], [0, 5], [0, 0]]))
    np.testing.assert_allclose(padded[:, :12], together, atol=1e-5)
    # A larger canvas changes only what touches the border of the smaller one.
    inside = np.clip(boxes, 36, 60)
    wide = [np.pad(level, [[0, 0], [0, 3], [0, 4], [0, 0]]) for level in pyramid]
    np.testing.assert_allclose(pooled(layer, wide, inside), pooled(layer, pyramid, inside), atol=1e-4)


@pytest.mark.usefixtures("unoptimised")
@pytest.mark.parametrize("num_boxes, ratio", [(0, 2), (1, 2), (0, 0), (1, 0)])
def test_no_boxes_and_boxes_of_no_size_have_finite_gradients(num_boxes, ratio):
    pyramid = random_pyramid(np.random.default_rng(0), 2, 64, 64)
    boxes = np.zeros((2, num_boxes, 4), "float32")
    layer = MultiLevelRoIAlign(3, ratio)
    result, gradients = pull_back(
        lambda *maps: layer(list(maps), boxes, with_gradient=True),
        pyramid,
        np.ones((2, num_boxes, 3, 3, 3), "float32"),
    )
    assert np.isfinite(result).all() and all(np.isfinite(each).all() for each in gradients)
    # All of the gradient arrives: 9 bins, 3 channels, 2 images, if there are boxes.
    assert sum(each.sum() for each in gradients) == pytest.approx(54 * num_boxes, abs=1e-3)


@pytest.mark.parametrize("ratio", [0, 2])
def test_the_reference_takes_no_boxes(ratio):
    pyramid = [keras.ops.cast(level, "float16") for level in random_pyramid(np.random.default_rng(0), 2, 64, 64)]
    none, rows = keras.ops.zeros((0, 4)), keras.ops.zeros((0,), "int32")
    crops = backend.generic.multilevel_roi_align(
        pyramid, none, rows, rows, (0.25,) * 4, (3, 5), ratio, False, "average"
    )
    assert tuple(crops.shape) == (0, 3, 5, 3) and keras.backend.standardize_dtype(crops.dtype) == "float16"


def test_boxes_of_a_diverged_network_read_nothing_beyond_the_map():
    boxes = np.array([[np.nan] * 4, [np.inf] * 4, [-np.inf, 0, np.inf, 9], [-1e30, -1e30, 1e30, 1e30]])
    layer = MultiLevelRoIAlign(2)
    pyramid = random_pyramid(np.random.default_rng(0), 1, 64, 64)
    result, gradients = pull_back(
        lambda *maps: layer(list(maps), boxes[None].astype("float32"), with_gradient=True),
        pyramid,
        np.ones((1, 4, 2, 2, 3), "float32"),
    )
    assert np.isfinite(result).all() and all(np.isfinite(each).all() for each in gradients)


@pytest.mark.usefixtures("unoptimised")
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_features_keep_their_dtype_and_boxes_their_pixels(dtype):
    # Boxes at 1000 px would move by 2 to 4 px in bfloat16; the ramp would show it.
    layer = MultiLevelRoIAlign(2, dtype=f"mixed_{dtype}", strides=(4,))
    features = keras.ops.convert_to_tensor(ramp(4, 256), dtype)
    crops = layer([features], np.array([[[1001, 4, 1009, 12]]], "float32"))
    assert keras.backend.standardize_dtype(crops.dtype) == dtype
    crops = to_numpy(keras.ops.cast(crops, "float32"))
    np.testing.assert_allclose(crops[0, 0, 0, :, 1], [250.75, 251.75], atol=1.0)
    _, (gradient,) = pull_back(
        lambda maps: layer([maps], np.array([[[1001, 4, 1009, 12]]], "float32"), with_gradient=True),
        [keras.ops.convert_to_tensor(ramp(4, 256), dtype)],
        np.ones((1, 1, 2, 2, 2), "float32"),
    )
    assert gradient.sum() == pytest.approx(8, abs=0.05)


@pytest.mark.tensorflow
def test_all_sizes_may_be_free_in_a_graph():
    import tensorflow as tf

    layer = MultiLevelRoIAlign(2)
    specs = [[tf.TensorSpec((None, None, None, 3))] * 4, tf.TensorSpec((None, None, 4))]
    rng = np.random.default_rng(0)
    for training in (False, True):
        function = tf.function(
            lambda *args, training=training: layer(*args, with_gradient=training),
            input_signature=specs,
            autograph=False,
        )
        for num_images, num_boxes, height in ((1, 4, 64), (2, 7, 96)):
            pyramid = random_pyramid(rng, num_images, height, 64)
            boxes = random_boxes(rng, num_images, num_boxes, height, 64)
            expected = to_numpy(layer(pyramid, boxes, with_gradient=training))
            result = function([tf.constant(level) for level in pyramid], tf.constant(boxes))
            np.testing.assert_allclose(to_numpy(result), expected, atol=1e-5)


def test_gradient_is_the_same_every_time():
    # TensorFlow's own gradient of crop_and_resize loses updates between threads (max error 2 to 4).
    rng = np.random.default_rng(0)
    features = rng.standard_normal((1, 50, 66, 32)).astype("float32")
    corners = np.array([0.1, 0.1, 0.9, 0.9]) + rng.uniform(-0.05, 0.05, (256, 4))
    boxes = (corners * [66, 50, 66, 50]).astype("float32")
    upstream = rng.standard_normal((256, 7, 7, 32)).astype("float32")

    def align(features):
        return km_ops.roi_align(features, boxes, np.zeros(256, "int32"), 7, 1.0)

    pull = pull_back_function(align)
    gradients = [pull([features], upstream)[1][0] for _ in range(20)]
    assert np.abs(gradients[0]).max() > 1
    for each in gradients[1:]:
        np.testing.assert_allclose(each, gradients[0], atol=1e-6, rtol=0)


@pytest.mark.usefixtures("unoptimised")
@pytest.mark.parametrize("ratio", [0, 2])
def test_layer_works_in_a_functional_model(ratio):
    maps = [keras.Input((64 // 2**n, 64 // 2**n, 3)) for n in range(4)]
    boxes = keras.Input((5, 4))
    layer = MultiLevelRoIAlign((3, 2), ratio)
    model = keras.Model([*maps, boxes], layer(maps, boxes))
    assert model.output_shape == (None, 5, 3, 2, 3)
    rng = np.random.default_rng(0)
    inputs = [*random_pyramid(rng, 2, 256, 256), random_boxes(rng, 2, 5, 256, 256)]
    expected = pooled(layer, inputs[:4], inputs[4])
    np.testing.assert_allclose(model.predict(inputs, verbose=0), expected, atol=1e-5)


def test_layer_is_made_again_from_its_config():
    layer = MultiLevelRoIAlign((7, 5), 3, True, "max", 160, 5, strides=(8, 16))
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(layer))
    assert again.get_config() == layer.get_config()
    assert (again.output_size, again.strides) == ((7, 5), (8, 16))


@pytest.mark.parametrize(
    "options, words",
    [
        ({"output_size": 0}, "each from 1 to 1024"),
        ({"output_size": (7, 7, 7)}, r"\(7, 7, 7\)"),
        ({"sampling_ratio": -1}, "0 here"),
        ({"aggregation": "sum"}, "'sum'"),
    ],
)
def test_wrong_options_are_explained(options, words):
    with pytest.raises(ValueError, match=words):
        crop(ramp(4, 4), [[0, 0, 4, 4]], **{"output_size": 2, "spatial_scale": 1.0, **options})


def test_wrong_arrays_are_explained():
    with pytest.raises(ValueError, match="Received shapes"):
        km_ops.roi_align(ramp(4, 4), np.zeros((1, 2, 4)), np.zeros((1, 2)), 2, 1.0)
    with pytest.raises(ValueError, match="Leave out P6"):
        MultiLevelRoIAlign(2)([ramp(4, 4)] * 5, np.zeros((1, 1, 4), "float32"))
    maps = [np.zeros((1, 4, 4, channels), "float32") for channels in (2, 2, 3, 2)]
    with pytest.raises(ValueError, match=r"same number of channels. Received \[2, 3\]. Bring them to one number"):
        MultiLevelRoIAlign(2)(maps, np.zeros((1, 1, 4), "float32"))
    with pytest.raises(ValueError, match="sampling must be one of .* Received 'nearest'. The usual choice is"):
        MultiLevelRoIAlign(2, sampling="nearest")
