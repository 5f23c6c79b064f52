"""The signatures of a SavedModel: their inputs and outputs, and the graph functions behind them.

The batch is the first axis of every input and output, also of the options, because TF Serving's batching, which joins
requests of different clients, requires it. B images, D = `max_detections` rows, M = `mask_size`.

    serving_default   images       (B, H, W, C), any size; uint8. For models of uint16 images int32 (TF Serving's REST
                                   API has no uint16), for models of float images float32
    serve_bytes       image_bytes  string (B,): JPEG, PNG, BMP or GIF files, of mixed sizes
    serve_rle         image_bytes  the same; returns run-length codes instead of masks

serve_bytes and serve_rle (and their options) exist only for images that such files can hold: 8 bits with three
channels, or one (gray files); in PNG files also 8 bits with four channels and 16 bits with one. `without_files`
explains why they are missing.

    serve_images_options, serve_bytes_options, serve_rle_options have three more inputs, all required:
        score_threshold  float32 (B,)   detections score more than this
        nms_threshold    float32 (B,)   NMS removes the lower-scoring of two detections with a higher IoU
        max_detections   int32 (B,)     at most the model's D
    NaN or a negative number selects the model's value; for the score of a model that was tuned (docs/tuning.md) these
    are the thresholds of its classes. The options apply inside the model, during NMS.

    boxes           float32 (B, D, [x1, y1, x2, y2])  pixels of the input image (after EXIF rotation)
    scores          float32 (B, D)                    descending
    labels          int32 (B, D)                      0..K-1
    class_names     string (B, D)
    valid           bool (B, D)                       rows that are False hold zeros and empty strings
    num_detections  int32 (B,)                        valid rows; they come first
    image_sizes     int32 (B, [height, width])        pixels of the image; zeros if a file was not read
    mask_rle        string (B, D)                     COCO's compressed `counts` for image_sizes (serve_rle only)
    problems        string (B,)                       why a file was not read, else empty (serve_bytes, serve_rle)

Each branch of the model adds its arrays (`Branch.found`), coordinates in image pixels. The mask branch:

    masks           float32 (B, D, M, M)              probabilities in the frame of each box (not serve_rle)

A file that is damaged or not an image gives a row without detections, with a message in `problems`. It does not affect
the other rows of its batch. Called by `saved_model.py`.
"""

import tensorflow as tf

from keras_maskrcnn.network.backbones import describe
from keras_maskrcnn.serving.images_in_graph import READERS, read_batch
from keras_maskrcnn.serving.rle_in_graph import has_masks, in_run_lengths
from keras_maskrcnn.serving.sizes_in_graph import network_size

INPUT_DTYPES = {"uint8": tf.uint8, "uint16": tf.int32, "float32": tf.float32}  # by the config's image_dtype
OPTIONS = {"score_threshold": tf.float32, "nms_threshold": tf.float32, "max_detections": tf.int32}


def signatures(model):
    """The functions of a model by signature name, with their inputs.

    Args:
        model: MaskRCNN.

    Returns:
        dict from name to (function of keyword tensors -> dict of tensors, dict from input name to tf.TensorSpec).
    """
    config, functions = model.config, GraphFunctions(model)
    dtype = INPUT_DTYPES[config.image_dtype]
    inputs = {"images": tf.TensorSpec((None, None, None, config.num_channels), dtype, name="images")}
    files = {"image_bytes": tf.TensorSpec((None,), tf.string, name="image_bytes")}
    options = {name: tf.TensorSpec((None,), dtype, name=name) for name, dtype in OPTIONS.items()}
    kinds = {"images": (functions.to_images, inputs)}
    if without_files(config) is None:
        kinds["bytes"] = (functions.to_files, files)
        if has_masks(config):
            kinds["rle"] = (functions.in_run_lengths, files)
    plain = {f"serve_{kind}": pair for kind, pair in kinds.items()}
    plain = {"serving_default": plain.pop("serve_images"), **plain}
    return plain | {f"serve_{kind}_options": (function, needs | options) for kind, (function, needs) in kinds.items()}


def without_files(config):
    """Why a model has no `serve_bytes` and `serve_rle`: str, or None if it has them."""
    if (config.num_channels, config.image_dtype) in READERS:
        return None
    return (
        f"serve_bytes and serve_rle are left out: images of {config.num_channels} channels, {config.image_dtype}, "
        "cannot be stored in a JPEG, PNG, BMP or GIF file that TensorFlow decodes. Send arrays to serving_default."
    )


def own_value(config, name):
    """The model's value of an option. -1 stands for the score thresholds of classes, which are inside the model."""
    return -1 if name == "score_threshold" and config.tuned else getattr(config, name)


def valid_options(config, batch, given):
    """The options of each image: the given values if they are valid, else the config's.

    Args:
        config: MaskRCNNConfig. batch: int32 (), images. given: dict of some of `OPTIONS`, tensors (B,) or ().

    Returns:
        dict of all of `OPTIONS`, tensors (B,).
    """
    options = {}
    for name, dtype in OPTIONS.items():
        own = tf.fill([batch], tf.constant(own_value(config, name), dtype))
        most = config.max_detections if name == "max_detections" else 1.0
        value = given.get(name, own)
        options[name] = tf.where(value >= 0, tf.minimum(value, most), own)
    return options


class GraphFunctions:
    """The graph functions. Signatures with options and without share one copy of each graph, the model's included.

    Args:
        model: MaskRCNN.
    """

    def __init__(self, model):
        self.model = model
        self.config = config = model.config
        # Predictions of these models depend on the padding, so each image gets its own canvas.
        own = config.mask_padding and not config.norms_canvas
        self.one_by_one = not (own and describe(model.backbone).masks_padding)
        options = {name: tf.TensorSpec((None,), dtype) for name, dtype in OPTIONS.items()}
        files = tf.TensorSpec((None,), tf.string)
        side_by_side = (None, None, None, config.num_channels)
        self.detect = _traced_once(
            self._detect, tf.TensorSpec(side_by_side, tf.float32), tf.TensorSpec((None, 2), tf.int32), options
        )
        pixels = INPUT_DTYPES[config.image_dtype]
        self._from_images = _traced_once(self._to_images, tf.TensorSpec(side_by_side, pixels), options)
        self._from_files = _traced_once(self._to_files, files, options)
        self._in_codes = _traced_once(self._to_run_lengths, files, options)

    def to_images(self, images, **options):
        """`serving_default`: resize images of one size, detect, convert boxes to image pixels."""
        return self._for_any_count(self._from_images, images, options)

    def to_files(self, image_bytes, **options):
        """`serve_bytes`: the same for files of mixed sizes, on one canvas or one after the other."""
        return self._for_any_count(self._from_files, image_bytes, options)

    def in_run_lengths(self, image_bytes, **options):
        """`serve_rle`: as `to_files`, with each mask as COCO's run-length code in image pixels."""
        return self._for_any_count(self._in_codes, image_bytes, options)

    def _for_any_count(self, function, inputs, options):
        """Call a function of at least one image with any number of them, 0 included: the outputs then have no rows.

        Args:
            function: of a tensor (B, ...) and the options, returns a dict of tensors (B, ...).
            inputs: tensor (B, ...), images or files. options: dict of tensors (B,), those that are given.

        Returns:
            dict of tensors (B, ...). Raises InvalidArgumentError for images without pixels, as resizing does.
        """
        count = tf.shape(inputs)[0]
        empty = tf.equal(count, 0)

        def one_more(array):
            # An image without objects, an empty file, an option's zero: one row in place of none.
            sides = tf.concat([[1], tf.maximum(tf.shape(array)[1:], 1)], axis=0)
            return tf.cond(empty, lambda: tf.zeros(sides, array.dtype), lambda: array)

        filled = {name: one_more(array) for name, array in options.items()}
        options = valid_options(self.config, tf.maximum(count, 1), filled)
        outputs = function(tf.ensure_shape(one_more(inputs), inputs.shape), options)
        return {name: array[:count] for name, array in outputs.items()}

    def _to_images(self, images, options):
        batch, source = tf.shape(images)[0], tf.shape(images)[1:3]
        network = network_size(source, self.config)
        # The same float32 arithmetic as resize_bilinear, which Predictor uses.
        resized = tf.image.resize(images, network, "bilinear", antialias=False)
        sizes = tf.broadcast_to(network[None], (batch, 2))
        found = self.detect(resized, sizes, options)
        return self._in_image_frame(found, sizes, tf.broadcast_to(source[None], (batch, 2)))

    def _to_files(self, image_bytes, options):
        pixels = (self.config.num_channels, self.config.image_dtype)
        batch = read_batch(image_bytes, lambda size: network_size(size, self.config), pixels)
        detect = self._detect_one_by_one if self.one_by_one else self.detect
        found = detect(batch["images"], batch["network_sizes"], options)
        readable = tf.equal(tf.strings.length(batch["problems"]), 0)
        found = {name: _where_rows(readable, array) for name, array in found.items()}
        outputs = self._in_image_frame(found, batch["network_sizes"], batch["image_sizes"])
        return outputs | {"problems": batch["problems"]}

    def _to_run_lengths(self, image_bytes, options):
        return in_run_lengths(self._from_files(image_bytes, options), self.config)

    def _detect(self, images, sizes, options):
        return dict(self.model({"images": images, "image_sizes": sizes}, training=False, options=options))

    def _detect_one_by_one(self, images, sizes, options):
        def detect(row):
            image, size, own = row
            own = {name: value[None] for name, value in own.items()}
            found = self.detect(image[None, : size[0], : size[1]], size[None], own)
            return {name: array[0] for name, array in found.items()}

        outputs = self.detect.get_concrete_function().structured_outputs
        specs = {name: tf.TensorSpec(array.shape[1:], array.dtype) for name, array in outputs.items()}
        return tf.map_fn(detect, (images, sizes, options), fn_output_signature=specs, parallel_iterations=1)

    def _in_image_frame(self, found, network, source):
        """Boxes in image pixels, names and counts. `network` and `source`: int32 (B, [height, width])."""
        names = tf.gather(tf.constant(self.config.class_names), found["labels"])
        return {
            "scores": found["scores"],
            "labels": found["labels"],
            "class_names": tf.where(found["valid"], names, ""),
            "valid": found["valid"],
            "num_detections": tf.reduce_sum(tf.cast(found["valid"], tf.int32), axis=1),
            "image_sizes": source,
            **in_image_frame(found, self.config, network, source),
        }


def in_image_frame(found, config, network, source):
    """Boxes, and what the branches found, from network pixels to image pixels.

    Args:
        found: dict of tensors (B, D, ...). config: MaskRCNNConfig.
        network, source: int32 (B or 1, [height, width]), network and image pixels.

    Returns:
        dict of boxes, clipped to the image, and the branches' keys.
    """
    scale = (tf.cast(source, tf.float32) / tf.cast(network, tf.float32))[:, None, ::-1]
    limits = tf.tile(tf.cast(source, tf.float32)[:, None, ::-1], (1, 1, 2))
    boxes = tf.minimum(tf.maximum(found["boxes"] * tf.tile(scale, (1, 1, 2)), 0.0), limits)
    moved = {"boxes": boxes}
    for branch in config.branches:
        values = {key: found[key] for key in branch.found(config)}
        moved |= branch.move(values, scale, tf.zeros_like(scale))
    return moved


def _traced_once(function, *inputs):
    """A graph function of these tensors, as its callers' graphs call it: one copy for all of them."""
    return tf.function(function, autograph=False, input_signature=inputs)


def _where_rows(kept, array):
    """Set the rows of images where keep, bool (B,), is False to zero."""
    kept = tf.reshape(kept, [-1] + [1] * (len(array.shape) - 1))
    return tf.where(kept, array, tf.zeros((), array.dtype))
