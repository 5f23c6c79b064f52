"""Backbones: the facts about them, models of others as backbones, and what was saved before the protocol existed."""

import io
import subprocess
import sys
import types
import zipfile

import h5py
import keras
import numpy as np
import pytest
from keras import ops
from serving_answers import export_one_signature
from tiny import images_only, random_batch, scatter_weights, tiny_config

import keras_maskrcnn as km
from keras_maskrcnn import cli
from keras_maskrcnn.cli import train
from keras_maskrcnn.cli.settling import settle
from keras_maskrcnn.config import IMAGENET_MEAN, IMAGENET_STD
from keras_maskrcnn.network import backbones
from keras_maskrcnn.network.backbones import keras_models
from keras_maskrcnn.network.backbones.graph import stage_layers

SIZE = (64, 64)
# On TensorFlow tracing a large model takes longer than a few eager steps; JAX compiles every eager operation alone.
EAGER = keras.backend.backend() == "tensorflow"


def application(name, **options):
    return getattr(keras.applications, name)(**{"include_top": False, "weights": None} | options)


def four_maps(strides=(4, 2, 2, 2), preprocess=False):
    """A plain keras.Model: convolution, batch norm and ReLU for each of four maps."""
    inputs = features = keras.Input((None, None, 3))
    if preprocess:
        features = keras.layers.Rescaling(1 / 3)(inputs)
    maps = []
    for stride, filters in zip(strides, (8, 12, 16, 20)):
        features = keras.layers.Conv2D(filters, stride, stride)(features)
        features = keras.layers.ReLU()(keras.layers.BatchNormalization()(features))
        maps.append(features)
    return keras.Model(inputs, maps)


def found(model, batch):
    """Detections as arrays."""
    if not EAGER:
        return model.predict_on_batch(images_only(batch))
    return {name: ops.convert_to_numpy(array) for name, array in model(images_only(batch), training=False).items()}


def features(model, batch):
    """The pyramid as arrays, in a small part of the time that compiling the whole model takes."""
    pyramid = model.extract_features(batch["images"], batch["image_sizes"])["pyramid"]
    return [ops.convert_to_numpy(level) for level in pyramid]


# Facts ---------------------------------------------------------------------------------------------------------

RAW = ((0.0,) * 3, (1.0,) * 3)
# Checked by hand against the source of keras.applications: the last layer before the convolution or pooling with
# stride 2 that all data passes through. ConvNeXt's blocks end in an unnamed addition: the layer before it is listed.
ENDS = {
    "ConvNeXtTiny": (
        ["stage_0_block_2_identity", "stage_1_block_2_identity", "stage_2_block_8_identity", "layer_normalization"],
        (96, 192, 384, 768),
        (*RAW, IMAGENET_MEAN),
    ),
    "EfficientNetV2B0": (
        ["block2b_add", "block4a_expand_activation", "block6a_expand_activation", "top_activation"],
        (32, 192, 672, 1280),
        (*RAW, IMAGENET_MEAN),
    ),
    "MobileNetV3Large": (
        ["expanded_conv_3_expand_bn", "expanded_conv_6_expand_bn", "expanded_conv_12_expand_bn", "conv_1_bn"],
        (72, 240, 672, 960),
        (*RAW, (127.5,) * 3),
    ),
    "ResNet50V2": (
        ["conv2_block3_preact_relu", "conv3_block4_preact_relu", "conv4_block6_preact_relu", "post_relu"],
        (256, 512, 1024, 2048),
        ((127.5,) * 3, (127.5,) * 3, ()),
    ),
}


@pytest.mark.tensorflow  # the graph of layers is the same on every backend
@pytest.mark.parametrize("name", ENDS)
def test_stage_ends_and_pixels_of_applications(name):
    backbone = km.backbones.from_keras(application(name))
    layers, channels, (mean, std, padding) = ENDS[name]
    assert backbone.channels == channels and backbone.strides == (4, 8, 16, 32) and not backbone.masks_padding
    stages = stage_layers(backbone)
    last = [[layer.name for layer in stage[-3:]] for stage in stages[1:]]
    assert all(any(name.endswith(layer) for name in names) for layer, names in zip(layers, last)), last
    assert (backbone.pixels.mean, backbone.pixels.std) == (mean, std)
    np.testing.assert_allclose(backbone.pixels.padding, padding, atol=0.01)
    assert sum(map(len, stages)) == len(backbone.layers)


@pytest.mark.slow_on_jax  # making the network takes the time; test_padding_looks_like_the_mean_image has the pixels
def test_a_classic_network_gets_the_normalisation_of_its_family():
    backbone = km.backbones.from_keras(application("ResNet50", input_shape=(None, None, 3)))
    image = np.array([[[[10.0, 20.0, 30.0]]]], "float32")
    seen = ops.convert_to_numpy(backbone.normalize(image, np.array([[1, 1]]), IMAGENET_MEAN, IMAGENET_STD))
    expected = keras.applications.resnet.preprocess_input(image.copy())
    np.testing.assert_allclose(seen, expected, atol=1e-4)
    assert backbone.outputs[0].shape[-1] == 256


def test_padding_looks_like_the_mean_image():
    images = np.full((1, 2, 3, 3), 255.0, "float32")
    sizes = np.array([[2, 2]])
    raw = km.backbones.from_keras(four_maps(preprocess=True))
    own = km.backbones.from_keras(four_maps(), pixel_mean=55.0, pixel_std=(100.0, 50.0, 25.0))
    unknown = km.backbones.from_keras(four_maps())
    shifted = keras.layers.Rescaling(1 / 127.5, -1)
    inputs = keras.Input((None, None, 3))
    centred = km.backbones.from_keras(keras.Model(inputs, four_maps()(shifted(inputs))))
    assert centred.pixels.padding == (127.5,) * 3 and centred.channels == (8, 12, 16, 20)
    for backbone, inside, outside in (
        (raw, 255.0, 127.5),
        (centred, 255.0, 127.5),
        (own, np.array([2.0, 4.0, 8.0]), 0.0),
        (unknown, 127.5, 0.0),
    ):
        seen = ops.convert_to_numpy(backbone.normalize(images, sizes, (127.5,) * 3, (1.0,) * 3))
        np.testing.assert_allclose(seen[0, :, :2], np.broadcast_to(inside, (2, 2, 3)), rtol=1e-6)
        np.testing.assert_allclose(seen[0, :, 2], np.full((2, 3), outside), rtol=1e-6)


@pytest.mark.slow_on_jax  # making the network takes the time
def test_a_backbone_config_of_other_images_uses_its_own_statistics():
    made = backbones.application("MobileNetV3Large", num_channels=2, image_dtype="uint16")
    assert made.pixels.mean is None and made.input_shape == (None, None, None, 2)
    assert not [layer for layer in made.layers if isinstance(layer, keras.layers.Rescaling)]


def test_layers_by_name_in_any_order():
    model = four_maps((4, 2, 2, 2))
    names = [layer.name for layer in model.layers if isinstance(layer, keras.layers.Conv2D)]
    backbone = km.backbones.from_keras(model, layers=names[::-1])
    assert backbone.channels == (8, 12, 16, 20) and len(backbone.layers) == len(model.layers) - 2


@pytest.mark.parametrize(
    ("model", "layers", "message"),
    [
        (lambda: four_maps((2, 2, 2, 2)), None, r"each stride \(4, 8, 16, 32\).*Received strides \[4, 8, 16\]"),
        (four_maps, ["c2", "c3", "c4", "c5"], r"Received unknown \['c2', 'c3', 'c4', 'c5'\].*32: 're_lu"),
        (four_maps, "twice", r"Received strides \[4, 4, 8, 16\]"),
        (lambda: keras.Sequential([keras.layers.Conv2D(3, 1)]), None, "functional keras.Model.*Received: Sequential"),
        (
            lambda: keras.Model(x := keras.Input((64, 64, 3)), keras.layers.ReLU()(x)),
            None,
            "input_shape=.None, None, 3",
        ),
        (
            lambda: keras.Model(x := keras.Input((None, None, 3)), keras.layers.Reshape((32, 32, 3))(x)),
            None,
            r"any size whose sides are multiples of 32. Received a model that fails on \(128, 192\): .*Choose another",
        ),
    ],
    ids=["strides", "unknown", "twice", "sequential", "fixed", "fails"],
)
def test_errors_say_what_came_and_what_to_do(model, layers, message):
    model = model()
    if layers == "twice":
        convolutions = [layer.name for layer in model.layers if isinstance(layer, keras.layers.Conv2D)]
        norms = [layer.name for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization)]
        layers = [convolutions[0], *norms[:3]]
    with pytest.raises(ValueError, match=f"(?s){message}"):
        km.backbones.from_keras(model, layers)


def test_strides_and_names_are_checked_when_the_model_is_made():
    with pytest.raises(ValueError, match=r"strides \(4, 8, 16, 32\).*Received strides \(2, 4, 8, 16\)"):
        km.MaskRCNN(tiny_config(), backbone=four_maps((2, 2, 2, 2)))
    with pytest.raises(ValueError, match="Received: 'resnet51'"):
        tiny_config(backbone="resnet51")
    with pytest.raises(ValueError, match="Received: 'ConvNext'.*ConvNeXtTiny"):
        km.MaskRCNN(tiny_config(backbone="keras:ConvNext"))
    with pytest.raises(ValueError, match="(?s)A ResNet is one of .*'resnet152'.*Received: 'resnet51'. .*from_keras"):
        km.backbones.ResNet("resnet51")
    three = OwnBackbone()
    three.channels = three.channels[:3]
    with pytest.raises(ValueError, match=r"takes 4 maps, of strides \(4, 8, 16, 32\). Received 3 maps of shapes "):
        km.MaskRCNN(tiny_config(), backbone=three)
    with pytest.raises(ValueError, match="both|together"):
        km.backbones.from_keras(four_maps(preprocess=True), pixel_mean=127.5, pixel_std=127.5)


# Freezing ------------------------------------------------------------------------------------------------------


def test_stages_freeze_in_every_backbone():
    # A convolution of stride 4 is the stem; stage 1 is its norm and ReLU; each other stage has all three.
    plain = km.MaskRCNN(tiny_config(trainable_layers=2), backbone=four_maps())
    assert len(plain.backbone.trainable_variables) == 16  # its own flags stay
    km.freeze(plain, ["stage2"])
    assert [v.shape[-1] for v in plain.backbone.trainable_variables] == [16] * 4 + [20] * 4
    km.freeze(plain, ["stem"])
    assert len(plain.backbone.trainable_variables) == 14
    wrapped = km.MaskRCNN(tiny_config(trainable_layers=2), backbone=km.backbones.from_keras(four_maps()))
    assert [v.shape[-1] for v in wrapped.backbone.trainable_variables] == [16] * 4 + [20] * 4
    km.freeze(wrapped, [])
    assert len(wrapped.backbone.trainable_variables) == 16


def test_stages_of_a_model_in_a_model_cannot_be_told_apart():
    inputs = keras.Input((None, None, 3))
    inner = four_maps()
    inner.name = "inner"
    nested = km.backbones.from_keras(keras.Model(inputs, inner(inputs)))
    model = km.MaskRCNN(tiny_config(trainable_layers=5), backbone=nested)
    with pytest.raises(ValueError, match="Received maps of the nested model inner. Freeze 'backbone', or wrap the"):
        km.freeze(model, ["stem"])
    km.freeze(model, ["backbone"])
    assert not model.backbone.trainable_variables and model.fpn.trainable_variables


@keras.saving.register_keras_serializable("tests")
class OwnBackbone(km.backbones.Backbone, keras.layers.Layer):
    """A user's layer that meets the protocol, without a line in the package."""

    channels = (8, 8, 8, 8)

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.convs = [keras.layers.Conv2D(8, 2, stride) for stride in (4, 2, 2, 2)]

    def build(self, input_shape):
        for conv in self.convs:
            conv.build((*input_shape[:-1], 3 if conv is self.convs[0] else 8))

    def freeze_first(self, count):
        for conv in self.convs[:count]:
            conv.trainable = False

    def call(self, images, training=None):
        maps = [ops.relu(self.convs[0](images))]
        for conv in self.convs[1:]:
            maps.append(ops.relu(conv(maps[-1])))
        return maps


class SubclassedModel(keras.Model):
    """A keras.Model without a graph, which tells the shapes of its maps."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.convs = [keras.layers.Conv2D(8, 2, stride) for stride in (4, 2, 2, 2)]

    def call(self, images, training=None):
        maps = []
        for conv in self.convs:
            images = conv(images)
            maps.append(images)
        return maps

    def compute_output_shape(self, input_shape):
        return [(input_shape[0], None, None, 8)] * 4


def test_backbones_from_user_code(tmp_path):
    batch = random_batch([SIZE], SIZE)
    model = km.MaskRCNN(tiny_config(trainable_layers=4), backbone=OwnBackbone())
    assert len(model.backbone.trainable_variables) == 6
    scatter_weights(model).save(tmp_path / "own.keras")
    loaded = keras.saving.load_model(tmp_path / "own.keras", compile=False)
    assert isinstance(loaded.backbone, OwnBackbone)
    for ours, theirs in zip(features(loaded, batch), features(model, batch), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    subclassed = km.MaskRCNN(tiny_config(), backbone=SubclassedModel())
    assert features(subclassed, batch)[3].shape == (1, 2, 2, 32)
    assert len(subclassed.backbone.trainable_variables) == 8
    with pytest.raises(ValueError, match="Received: SubclassedModel"):
        km.freeze(subclassed, ["stem"])


# Saved files ---------------------------------------------------------------------------------------------------

# What a MaskRCNN of commit 0d7ef1d wrote below `backbone/` for the plain keras.Model of `four_maps()`.
SAVED_PATHS = sorted(
    [f"backbone/layers/batch_normalization{n}/vars/{i}" for n in ("", "_1", "_2", "_3") for i in range(4)]
    + [f"backbone/layers/conv2d{n}/vars/{i}" for n in ("", "_1", "_2", "_3") for i in range(2)]
)


def saved_paths(file):
    paths = []
    with zipfile.ZipFile(file) as archive, h5py.File(io.BytesIO(archive.read("model.weights.h5"))) as weights:
        weights.visititems(lambda path, node: paths.append(path) if isinstance(node, h5py.Dataset) else None)
    return sorted(path for path in paths if path.startswith("backbone/"))


def assert_same(answers, expected, **tolerance):
    for name, value in expected.items():
        np.testing.assert_allclose(answers[name], value, err_msg=name, **tolerance)


def test_plain_and_wrapped_models_save_their_layers_at_the_same_paths(tmp_path):
    plain = four_maps()
    models = [km.MaskRCNN(tiny_config(), backbone=made) for made in (plain, km.backbones.from_keras(plain))]
    assert models[0].backbone is plain
    for model in models:
        model.save(tmp_path / "model.keras")
        assert saved_paths(tmp_path / "model.keras") == SAVED_PATHS
        loaded = keras.saving.load_model(tmp_path / "model.keras", compile=False)
        assert type(loaded.backbone) is type(model.backbone)
        for ours, theirs in zip(loaded.get_weights(), model.get_weights(), strict=True):
            np.testing.assert_array_equal(ours, theirs)


def test_optimize_for_inference_copies_wrapped_models():
    backbone = km.backbones.from_keras(four_maps(), pixel_mean=100.0, pixel_std=50.0)
    model = scatter_weights(km.MaskRCNN(tiny_config(), backbone=backbone))
    optimized = km.optimize_for_inference(model)
    assert optimized.backbone is not model.backbone and optimized.backbone.pixels == model.backbone.pixels
    batch = random_batch([SIZE], SIZE)
    for ours, theirs in zip(features(optimized, batch), features(model, batch), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)


# Training, saving, export of models as they come ---------------------------------------------------------------


def hub_backbone():
    hub = pytest.importorskip("keras_hub", reason="needs KerasHub: pip install keras-maskrcnn[keras-hub]")
    model = hub.models.ResNetBackbone(
        input_conv_filters=[64],
        input_conv_kernel_sizes=[7],
        stackwise_num_filters=[64, 16, 16, 16],
        stackwise_num_blocks=[1, 1, 1, 1],
        stackwise_num_strides=[1, 2, 2, 2],
        block_type="basic_block",
        use_pre_activation=False,
        image_shape=(None, None, 3),
    )
    return km.backbones.from_keras(model)


def train_two_steps(model, batch):
    """Losses of two steps."""
    model.compile(keras.optimizers.SGD(1e-3), run_eagerly=EAGER)
    return [model.train_on_batch(batch, return_dict=True)["loss"] for _ in range(2)]


def export_and_call(model, folder, images, monkeypatch):
    """What the SavedModel's `serving_default` returns."""
    import tensorflow as tf

    export_one_signature(monkeypatch)
    exported = tf.saved_model.load(str(km.export_saved_model(model, folder)))
    return {name: value.numpy() for name, value in exported.signatures["serving_default"](tf.constant(images)).items()}


@pytest.mark.tensorflow  # eager steps on JAX take minutes
@pytest.mark.parametrize(
    "name",
    [
        "KerasHub",
        pytest.param("MobileNetV3Large", marks=pytest.mark.slow),
        pytest.param("ConvNeXtTiny", marks=pytest.mark.slow),
        pytest.param("EfficientNetV2B0", marks=pytest.mark.slow),
        pytest.param("ResNet50V2", marks=pytest.mark.slow),
    ],
)
def test_trains_saves_loads_and_exports(name, tmp_path, monkeypatch):
    if name == "KerasHub":
        model = km.MaskRCNN(tiny_config(), backbone=hub_backbone())
        assert model.backbone.channels == (64, 16, 16, 16)
    else:
        model = km.MaskRCNN(tiny_config(backbone=f"keras:{name}"))
        assert model.backbone.channels == ENDS[name][1] and not model.custom_backbone
    batch = random_batch([SIZE], SIZE)
    before = ops.convert_to_numpy(model.backbone.trainable_variables[0])
    losses = train_two_steps(model, batch)
    assert all(0.5 < loss < 20 for loss in losses)
    assert np.abs(ops.convert_to_numpy(model.backbone.trainable_variables[0]) - before).max() > 0
    expected = found(model, batch)
    assert expected["valid"].all() and np.ptp(expected["boxes"]) > 10
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras", compile=False)
    assert_same(found(loaded, batch), expected)
    if keras.backend.backend() == "tensorflow":
        served = export_and_call(model, tmp_path / "served", batch["images"], monkeypatch)
        assert_same(served, {key: expected[key] for key in ("boxes", "scores")}, atol=1e-2)
    if name == "MobileNetV3Large":
        assert_same(in_a_new_process(tmp_path, batch), expected)


def in_a_new_process(folder, batch):
    np.savez(folder / "batch.npz", **images_only(batch))
    code = """
import sys, keras, numpy as np
import keras_maskrcnn
folder = sys.argv[1]
model = keras.saving.load_model(folder + "/model.keras", compile=False)
found = model(dict(np.load(folder + "/batch.npz")), training=False)
np.savez(folder + "/answers.npz", **{name: keras.ops.convert_to_numpy(array) for name, array in found.items()})
"""
    subprocess.run([sys.executable, "-c", code, str(folder)], check=True, timeout=600)
    return dict(np.load(folder / "answers.npz"))


def train_args(*given):
    arguments = ["train", "--images", "x", "--val-images", "y", "--epochs", "1", *given]
    return settle(cli.build_parser().parse_args(arguments))


@pytest.mark.slow_on_jax
def test_train_starts_from_the_imagenet_weights_of_an_application(monkeypatch):
    calls, make = [], keras.applications.MobileNetV3Small

    def MobileNetV3Small(include_preprocessing=True, **options):  # noqa: N802
        calls.append(options | {"include_preprocessing": include_preprocessing})
        return make(**options | {"weights": None})

    monkeypatch.setattr(keras.applications, "MobileNetV3Small", MobileNetV3Small)
    dataset = types.SimpleNamespace(class_names=("a", "b"), category_ids=(1, 2), max_instances=5)
    args = train_args("--backbone", "keras:MobileNetV3Small", "--weights", "imagenet")
    model = train._model_to_train(args, dataset)
    common = {"include_top": False, "input_shape": (None, None, 3), "include_preprocessing": True}
    assert calls == [common | {"weights": None}, common | {"weights": "imagenet"}]
    assert model.config.backbone == "keras:MobileNetV3Small" and model.config.num_classes == 2
    trained = len(model.backbone.trainable_variables)
    assert 0 < trained < len(backbones.application("MobileNetV3Small").trainable_variables)
    with pytest.raises(ValueError, match="Received --weights coco --backbone keras:MobileNetV3Small"):
        train._model_to_train(train_args("--backbone", "keras:MobileNetV3Small", "--weights", "coco"), dataset)


def test_imagenet_weights_arrive_in_the_backbone(monkeypatch):
    source = km.backbones.from_keras(four_maps())
    monkeypatch.setattr(keras_models, "application", lambda *args, **options: source)
    target = km.backbones.from_keras(four_maps())
    backbones.load_imagenet(target, tiny_config(backbone="keras:Any"))
    for ours, theirs in zip(target.get_weights(), source.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)
