"""Export: one SavedModel that takes images of any size and answers in their own pixels.

Resizing, padding and normalisation are in the graph, so that a client sends what its camera gave. The graph holds
stock operators only (DESIGN: a custom one does not load in TF Serving). Called by users and by the command line.
"""

import os
import pathlib
import shutil
import tempfile

import keras

from keras_maskrcnn import backend
from keras_maskrcnn.optimize import optimize_for_inference

SIGNATURE = "serving_default"


def export_saved_model(model, directory, overwrite=False, optimize=False, dtype=None):
    """Write a model as a TensorFlow SavedModel, whole or not at all.

    The signature `serving_default` takes `images` uint8 (B, H, W, [r, g, b]), any B, H, W, and returns
        boxes    float32 (B, D, [x1, y1, x2, y2]), pixels of the images that came in
        scores   float32 (B, D), falling          labels  int32 (B, D), 0..K-1
        masks    float32 (B, D, 28, 28), probabilities in the frame of each box
        valid    bool (B, D), False rows hold zeros          num_detections  int32 (B,)

    Args:
        model: MaskRCNN, on the TensorFlow backend.
        directory: folder to make.
        overwrite: replace a folder that is there already.
        optimize: fold batch norm into the convolutions first (`optimize_for_inference`); the model stays as it is.
            Scores then differ from the model's by rounding, a few 1e-5.
        dtype: None for the model's; "bfloat16" computes convolutions and dense layers in it, boxes and NMS in float32,
            and folds as well.

    Returns:
        The folder as a pathlib.Path.

    Raises:
        ValueError: the backend is not TensorFlow; the folder exists and `overwrite` is False.
    """
    if keras.backend.backend() != "tensorflow":
        raise ValueError(
            "A SavedModel is written on the TensorFlow backend (one from JAX does not run in TensorFlow). "
            f"Received: backend {keras.backend.backend()}. Save the model as .keras, then run "
            "KERAS_BACKEND=tensorflow keras-maskrcnn export MODEL.keras DIRECTORY."
        )
    directory = pathlib.Path(directory)
    if directory.exists() and not overwrite:
        raise ValueError(
            f"Nothing is overwritten unasked. Received: {directory}, which exists. "
            "Choose another folder or pass overwrite=True."
        )
    if optimize or dtype:
        model = optimize_for_inference(model, dtype)
    directory.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{directory.name}-", dir=directory.parent) as scratch:
        _write(model, os.path.join(scratch, "new"))
        if directory.exists():
            os.rename(directory, os.path.join(scratch, "old"))
        shutil.move(os.path.join(scratch, "new"), directory)
    return directory


def _write(model, directory):
    import tensorflow as tf  # the package runs on JAX without it

    archive = keras.export.ExportArchive()
    archive.track(model)
    images = tf.TensorSpec((None, None, None, len(model.config.pixel_mean)), tf.uint8, name="images")
    with backend.stock_operators():
        archive.add_endpoint(SIGNATURE, lambda images: serve_images(model, images), [images])
        archive.write_out(directory, verbose=False)


def serve_images(model, images):
    """What `serving_default` computes: resize, detect (the model pads), and bring boxes back to source pixels.

    Args:
        model: MaskRCNN.
        images: uint8 (B, H, W, 3).

    Returns:
        dict as in `export_saved_model`.
    """
    import tensorflow as tf

    batch, source = tf.shape(images)[0], tf.shape(images)[1:3]
    network = network_size_in_graph(source, model.config)
    # The same float32 arithmetic as resizing.resize_bilinear, which Predictor uses.
    resized = tf.image.resize(tf.cast(images, tf.float32), network, "bilinear", antialias=False)
    sizes = tf.broadcast_to(network[None], (batch, 2))
    found = dict(model({"images": resized, "image_sizes": sizes}, training=False))
    factors = tf.cast(source, tf.float32) / tf.cast(network, tf.float32)
    limits = tf.cast(tf.stack([source[1], source[0], source[1], source[0]]), tf.float32)
    boxes = found["boxes"] * tf.stack([factors[1], factors[0], factors[1], factors[0]])
    found["boxes"] = tf.clip_by_value(boxes, 0.0, limits)
    found["num_detections"] = tf.reduce_sum(tf.cast(found["valid"], tf.int32), axis=1)
    return found


def network_size_in_graph(source, config):
    """`resizing.network_size` on tensors: int32 [height, width] -> int32 [height, width], float64 between."""
    import tensorflow as tf

    sides = tf.cast(source, tf.float64)
    if config.image_scale is not None:
        network = tf.floor(sides * config.image_scale + 0.5)
    else:
        scale = tf.minimum(config.min_size / tf.reduce_min(sides), config.max_size / tf.reduce_max(sides))
        network = tf.floor(sides * scale)
    return tf.maximum(tf.cast(network, tf.int32), 1)
