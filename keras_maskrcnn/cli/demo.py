"""The demo: generate shapes, train, measure AP, export, load the export again; a few minutes on two CPU cores.

Called by `keras-maskrcnn demo` and by samples/shapes.
"""

import os
import pathlib
import subprocess
import sys

import keras
import numpy as np

from keras_maskrcnn.config import MaskRCNNConfig
from keras_maskrcnn.data import CocoDataset, DataLoader, RandomFlip, RandomRotate90, generate_shapes
from keras_maskrcnn.host.files import write_atomically
from keras_maskrcnn.inference.predictor import Predictor
from keras_maskrcnn.model import MaskRCNN
from keras_maskrcnn.runs.experiment import train_model

IMAGE_SIZE = 96  # pixels a side
MAX_SHAPES = 3  # on an image
NUM_TRAIN, NUM_VAL = 1000, 60
TRAIN_SEED, VAL_SEED = 1, 2  # different seeds: no validation image is trained on
BATCH_SIZE = 8
LEARNING_RATE = 2e-3  # AdamW, peak: in 400 steps segm AP50 0.84, at 1.5e-3 0.79, at 3e-3 0.70


def shapes_config():
    """A Mask R-CNN for 96-pixel images of three shapes, small enough for two CPU cores.

    Returns:
        MaskRCNNConfig: ResNet-10 from random weights, narrow heads, anchors of 16 to 256 pixels.
    """
    return MaskRCNNConfig(
        num_classes=3,
        class_names=("circle", "square", "triangle"),
        backbone="resnet10",
        norm="batch",
        image_scale=1.0,
        fpn_channels=64,
        anchor_sizes=(16, 32, 64, 128, 256),
        rpn_samples=64,
        train_pre_nms=200,
        train_post_nms=200,
        test_pre_nms=200,
        test_post_nms=100,
        roi_samples=32,
        roi_positive_fraction=0.5,  # few objects in an image: with more of their RoIs the classes are learned sooner
        roi_aligned=True,  # half a pixel matters for objects of this size
        mask_samples=8,
        box_features=256,
        mask_convs=2,
        mask_channels=64,
        max_detections=50,
        max_instances=8,
    )


def train_on_shapes(directory, minutes, verbose=1, model=None):
    """Generate shapes for training and validation, and train on them.

    Args:
        directory: folder for the data (`data/train`, `data/val`) and the run (`run`).
        minutes: float, training time.
        verbose: 0 or 1.
        model: MaskRCNN of three classes to train; None for a new one of `shapes_config`.

    Returns:
        (model, validation dataset, metrics): the best weights and their COCO metrics on the validation shapes.
    """
    directory = pathlib.Path(directory)
    train, val = (
        CocoDataset(
            generate_shapes(directory / "data" / name, count, IMAGE_SIZE, seed, MAX_SHAPES),
            directory / "data" / name / "images",
        )
        for name, count, seed in (("train", NUM_TRAIN, TRAIN_SEED), ("val", NUM_VAL, VAL_SEED))
    )
    model = model or MaskRCNN(shapes_config())
    augment = [RandomFlip(horizontal=True, vertical=True), RandomRotate90()]
    loader = DataLoader(train, model.config, BATCH_SIZE, transforms=augment, shuffle=True)
    model.compile(keras.optimizers.AdamW(LEARNING_RATE, weight_decay=1e-4, beta_2=0.99, global_clipnorm=5.0))
    metrics = train_model(
        model,
        loader,
        val,
        directory / "run",
        minutes=minutes,
        warmup_steps=30,
        evaluate_every=100,  # so only after the last epoch: an evaluation takes as long as twenty steps
        settings={"recipe": "shapes", "minutes": minutes, "batch_size": BATCH_SIZE},
        verbose=verbose,
        overwrite=True,  # a demo that was stopped begins anew
    )
    return model, val, metrics


def run_demo(directory, minutes):
    """Train on shapes, then check the result: AP on other shapes, and an export that a new process loads.

    Args:
        directory: folder for all files.
        minutes: float, training time.

    Returns:
        dict: metrics (of `evaluate_coco`), box_error (pixels), score_error, compared (number of detections).

    Raises:
        ValueError: the backend is not TensorFlow, which writes the export.
    """
    if keras.backend.backend() != "tensorflow":  # said before the training, not after it
        raise ValueError(
            "The demo exports its model, which only the TensorFlow backend can. Received: backend "
            f"{keras.backend.backend()}. Run KERAS_BACKEND=tensorflow keras-maskrcnn demo."
        )
    from keras_maskrcnn.serving import export_saved_model

    directory = pathlib.Path(directory)
    print(f"1/3 training on {NUM_TRAIN} generated images for {minutes:g} minutes", flush=True)
    model, val, metrics = train_on_shapes(directory, minutes)
    print("2/3 exporting a SavedModel", flush=True)
    version = export_saved_model(model, directory / "saved_model", version=1, overwrite=True)
    print("3/3 loading it in a new process", flush=True)
    images = np.stack([val.load_image(i) for i in range(4)])
    return {"metrics": metrics} | compare_export(model, version, images)


def compare_export(model, saved_model, images):
    """Measure the largest differences between a model and its export, which a new process loads.

    Args:
        model: MaskRCNN.
        saved_model: the version's folder, from `export_saved_model`.
        images: (B, H, W, C), source pixels.

    Returns:
        dict: box_error (image pixels), score_error, compared (number of detections).
    """
    saved_model = pathlib.Path(saved_model)
    question, answer = (saved_model.parent / f"export-{part}.npz" for part in ("images", "answer"))
    write_atomically(question, lambda path: np.savez(path, images=images))
    code = "import sys; from keras_maskrcnn.cli.demo import answer_from_export; answer_from_export(*sys.argv[1:])"
    # A SavedModel runs on TensorFlow, whatever the backend of this process is.
    environment = os.environ | {"KERAS_BACKEND": "tensorflow"}
    command = [sys.executable, "-c", code, str(saved_model), str(question), str(answer)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"The export {saved_model} did not run in a new process:\n{done.stderr[-3000:]}")
    predictor = Predictor(model)
    theirs = np.load(answer)
    errors = {"box_error": 0.0, "score_error": 0.0, "compared": 0}
    for i, image in enumerate(images):
        ours, kept = predictor(image), theirs["valid"][i].astype(bool)
        if len(ours) != kept.sum():
            raise RuntimeError(f"Image {i}: the model finds {len(ours)}, its export {kept.sum()} instances.")
        errors["compared"] += len(ours)
        for name, key in (("boxes", "box_error"), ("scores", "score_error")):
            difference = np.abs(getattr(ours, name) - theirs[name][i][kept])
            errors[key] = max(errors[key], float(difference.max(initial=0.0)))
    return errors


def answer_from_export(saved_model, question, answer):
    """Run a SavedModel on the images of an .npz file and write its outputs to another. Runs in the new process.

    Args:
        saved_model: folder. question: .npz file with `images`. answer: .npz file to write.
    """
    layer = keras.layers.TFSMLayer(saved_model, call_endpoint="serving_default")
    out = layer(np.load(question)["images"])
    arrays = {name: keras.ops.convert_to_numpy(value) for name, value in out.items()}
    write_atomically(answer, lambda path: np.savez(path, **arrays))
