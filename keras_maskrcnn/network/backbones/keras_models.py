"""Backbones made of other people's models: keras.applications, KerasHub, any functional keras.Model."""

import contextlib
import dataclasses
import inspect

import keras

from keras_maskrcnn.geometry.strides import BACKBONE_STRIDES
from keras_maskrcnn.network.backbones.graph import node_strides, ordered_nodes, stage_ends, stage_layers, tensor_strides
from keras_maskrcnn.network.backbones.pixels import Pixels, pixels_of
from keras_maskrcnn.network.backbones.protocol import Backbone, freeze_layers

PREFIX = "keras:"  # of a config's `backbone`: "keras:ConvNeXtTiny" is keras.applications.ConvNeXtTiny


@keras.saving.register_keras_serializable("keras_maskrcnn")
class KerasBackbone(Backbone, keras.Model):
    """A functional keras.Model of four maps that knows its own normalisation of pixels; made by `from_keras`.

    Its layers, weights and paths in saved files are those of the model that it was made from. The maps near the image's
    border depend on the padding of the canvas: foreign layers do not know where the image ends.
    """

    pixels = Pixels()

    @property
    def channels(self):
        """Channels of the four maps."""
        return tuple(output.shape[-1] for output in self.outputs)

    def normalize(self, images, image_sizes, mean, std):
        """What the model expects of pixels; `mean` and `std` are used if nothing is known of it."""
        return self.pixels.apply(images, image_sizes, mean, std)

    def freeze_first(self, count):
        """Stop training the first `count` of stem and four stages.

        Args:
            count: 0..5.
        """
        if count:
            freeze_layers(stage_layers(self), count)

    def get_config(self):
        """Keras serialisation."""
        return {**super().get_config(), "pixels": dataclasses.asdict(self.pixels)}

    @classmethod
    def from_config(cls, config, custom_objects=None):
        """Keras deserialisation."""
        config = dict(config)
        pixels = Pixels(**config.pop("pixels"))
        model = super().from_config(config, custom_objects=custom_objects)
        model.pixels = pixels
        return model


def from_keras(model, layers=None, pixel_mean=None, pixel_std=None):
    """Make a backbone of a functional keras.Model; they share layers and weights.

    Args:
        model: keras.Model with one input (B, None, None, C), for example of keras.applications with
            `include_top=False`, or a KerasHub backbone.
        layers: names of four layers with strides 4, 8, 16, 32. None takes KerasHub's `pyramid_outputs`; else four
            outputs of these strides; else the deepest layer of each stride that all data passes through.
        pixel_mean, pixel_std: the model's normalisation, one number or one for each channel, in the units of the
            pixels: (pixel - mean) / std. None finds it out: nothing for models that begin with Rescaling or
            Normalization layers, the documented one for families of keras.applications, else the config's.

    Returns:
        KerasBackbone, for `MaskRCNN(config, backbone=...)`.

    Raises:
        ValueError: for a model that is not functional or has a fixed input size, for unknown layers, and for maps of
            other strides.
    """
    _check_model(model)
    pixels = pixels_of(model, pixel_mean, pixel_std)
    backbone = KerasBackbone(model.inputs[0], _choose_maps(model, layers), name=model.name)
    backbone.pixels = pixels
    return backbone


def application(name, num_channels=3, image_dtype="uint8", weights=None, dtype=None):
    """A model of keras.applications as a backbone.

    Args:
        name: as in keras.applications: "ConvNeXtTiny".
        num_channels, image_dtype: of the images. The model's own normalisation is for 8-bit RGB; other images get
            the config's pixel_mean and pixel_std.
        weights: None or "imagenet".
        dtype: Keras dtype policy of the layers.

    Returns:
        KerasBackbone.

    Raises:
        ValueError: for a name that is no model of keras.applications.
    """
    make = getattr(keras.applications, name, None)
    if not inspect.isfunction(make):
        known = [name for name, made in vars(keras.applications).items() if inspect.isfunction(made)]
        raise ValueError(
            f"A backbone '{PREFIX}NAME' is a model of keras.applications. Received: {name!r}. "
            f"It has {', '.join(sorted(known))}."
        )
    options = {"include_top": False, "weights": weights, "input_shape": (None, None, num_channels)}
    own_pixels = num_channels == 3 and image_dtype == "uint8"
    if not own_pixels and "include_preprocessing" in inspect.signature(make).parameters:
        options["include_preprocessing"] = False
    with _policy(dtype):
        backbone = from_keras(make(**options))
    if not own_pixels:
        backbone.pixels = Pixels()
    return backbone


def load_imagenet(backbone, config):
    """Put the ImageNet weights of keras.applications into the backbone that a config names.

    Args:
        backbone: `model.backbone`, made from the config. config: its MaskRCNNConfig.
    """
    name = config.backbone.removeprefix(PREFIX)
    source = application(name, config.num_channels, config.image_dtype, weights="imagenet")
    backbone.set_weights(source.get_weights())


@contextlib.contextmanager
def _policy(dtype):
    """Make layers with a dtype policy: the functions of keras.applications take no `dtype`."""
    before = keras.config.dtype_policy()
    try:
        keras.config.set_dtype_policy(dtype or before)
        yield
    finally:
        keras.config.set_dtype_policy(before)


def _check_model(model):
    if not (isinstance(model, keras.Model) and hasattr(model, "operations") and len(model.inputs) == 1):
        raise ValueError(
            "from_keras takes a functional keras.Model with one input (B, H, W, C). "
            f"Received: {type(model).__name__}. A subclassed model is a backbone if it has the attributes of "
            "km.backbones.Backbone."
        )
    shape = model.inputs[0].shape
    if len(shape) != 4 or shape[1:3] != (None, None):
        raise ValueError(
            "A backbone takes images of any size: an input (B, None, None, C). "
            f"Received {model.name} for {tuple(shape)}. Build it with input_shape=(None, None, {shape[-1]})."
        )


def _choose_maps(model, layers):
    """Four output tensors of strides 4, 8, 16, 32."""
    for maps in (_pyramid_outputs(model), list(model.outputs)):
        ready = layers is None and len(maps) == len(BACKBONE_STRIDES)
        if ready and tuple(tensor_strides(model.inputs[0], maps)) == BACKBONE_STRIDES:
            return maps
    nodes = ordered_nodes(model.outputs)
    strides = node_strides(model.inputs[0], nodes)
    if layers is not None:
        return _named_maps(model, layers, nodes, strides)
    ends = stage_ends(ordered_nodes(model.outputs[-1:]), strides)
    _check_found(model, list(ends), f"layers {[nodes[key][0].name for key in ends.values()]}")
    return [nodes[ends[stride]][2][0] for stride in BACKBONE_STRIDES]


def _pyramid_outputs(model):
    """KerasHub's maps P2..P5 that a model has; the number is the logarithm of the stride."""
    pyramid = getattr(model, "pyramid_outputs", None) or {}
    return [pyramid[level] for level in ("P2", "P3", "P4", "P5") if level in pyramid]


def _named_maps(model, layers, nodes, strides):
    by_name = {operation.name: key for key, (operation, _, _) in nodes.items()}
    unknown = [name for name in layers if name not in by_name]
    if unknown:
        ends = stage_ends(ordered_nodes(model.outputs[-1:]), strides)
        raise ValueError(
            f"`layers` names four layers of {model.name}. Received unknown {unknown}. The ends of its stages are "
            f"{ {stride: nodes[key][0].name for stride, key in ends.items()} }; layers=None takes these."
        )
    found = {strides.get(by_name[name]): by_name[name] for name in layers}
    _check_found(model, [strides.get(by_name[name]) for name in layers], f"layers {list(layers)}")
    return [nodes[found[stride]][2][0] for stride in BACKBONE_STRIDES]


def _check_found(model, strides, received):
    if sorted(strides, key=lambda stride: stride or 0) != list(BACKBONE_STRIDES):
        raise ValueError(
            f"A backbone needs one map of each stride {BACKBONE_STRIDES}. "
            f"Received strides {strides} from {received} of {model.name}. "
            "Name four layers whose maps have the canvas' sides divided by 4, 8, 16 and 32: layers=[...]."
        )
