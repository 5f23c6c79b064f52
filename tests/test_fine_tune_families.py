"""A converted model of each family trains: on generated shapes it reaches an AP50 that only a whole gradient gives.

The weights are random numbers by rule in a file's form, read as those of the family. Each case takes as long as the
demo, on two quiet cores:

    python -m pytest -q tests/test_fine_tune_families.py -m slow -k tensorpack
"""

import keras
import numpy as np
import pytest
from family_parts import FAMILIES, faults

import keras_maskrcnn as km
from keras_maskrcnn.cli.demo import BATCH_SIZE, IMAGE_SIZE, LEARNING_RATE, MAX_SHAPES, NUM_TRAIN, NUM_VAL, shapes_config

MINUTES = 4.0
# The sizes of the demo's model; what makes a family stays as it is. Norms are trained: the statistics by rule are none.
SIZES = (
    "backbone", "norm", "fpn_channels", "anchor_sizes", "rpn_samples", "train_pre_nms", "train_post_nms",
    "test_pre_nms", "test_post_nms", "roi_samples", "roi_positive_fraction", "mask_samples", "box_features",
    "mask_channels", "max_detections", "max_instances",
)  # fmt: skip
PREDICTORS = (
    "cls_score", "bbox_pred", "cls_logits", "fc_cls", "fc_reg", "rpn_cls", "rpn_reg", "objectness", "anchor_deltas",
    "rpn/class", "rpn/box", "outputs/", "rpn_class_raw", "mrcnn_class_logits", "mrcnn_bbox_fc",
)  # fmt: skip


def small_fields(name):
    """The fields that make a family's model as small as the demo's, for images of its size."""
    demo = shapes_config()
    fields = {field: getattr(demo, field) for field in SIZES} | {"min_size": IMAGE_SIZE, "max_size": 2 * IMAGE_SIZE}
    fields |= {"trainable_layers": 5, "score_threshold": 0.05, "class_names": demo.class_names}
    if name == "matterport":  # the canvas is a square of 64s; all levels share their numbers of boxes
        fields |= {"max_size": 128, "rpn_channels": 64, "train_pre_nms": 600, "test_pre_nms": 600}
    return fields


def by_rule(state, seed=0):
    """Kernels of a spread that keeps the size of features, small predictors, norms that change nothing, no biases."""
    rng = np.random.default_rng(seed)
    return {name: _tensor(rng, name, array.shape) for name, array in state.items()}


def _tensor(rng, name, shape):
    if len(shape) < 2:
        ones = name.endswith(("running_var", "moving_variance:0", "variance/EMA", "gamma:0", "/gamma"))
        ones |= name.endswith(".weight")  # of a norm
        return np.full(shape, float(ones), np.float32)
    inputs = np.prod(shape[:-1] if "/" in name else shape[1:])
    spread = 0.01 if any(word in name for word in PREDICTORS) else np.sqrt(2 / inputs)
    return (rng.standard_normal(shape) * spread).astype(np.float32)


def shapes(folder, count, seed):
    annotations = km.data.generate_shapes(folder, count, IMAGE_SIZE, seed, MAX_SHAPES)
    return km.CocoDataset(annotations, folder / "images")


def converted(name):
    """A model of the family, with weights by rule that were read as the family's."""
    model, rows, state = FAMILIES[name](**small_fields(name))
    state = by_rule(state)
    receipt = km.load_weights(model, state)
    assert receipt.complete and faults(rows, state) == []
    model.compile(keras.optimizers.AdamW(LEARNING_RATE, weight_decay=1e-4, beta_2=0.99, global_clipnorm=5.0))
    return model


def loader_of(model, dataset):
    augment = [km.data.RandomFlip(horizontal=True, vertical=True), km.data.RandomRotate90()]
    return km.DataLoader(dataset, model.config, BATCH_SIZE, transforms=augment, shuffle=True)


@pytest.mark.slow
@pytest.mark.tensorflow
@pytest.mark.parametrize(
    "name", ["detectron2", "mmdetection", "mmdetection caffe", "tensorpack", "matterport", "torchvision"]
)
def test_a_fine_tune_reaches_an_ap50_of_80_percent(name, tmp_path):
    model = converted(name)
    train, val = shapes(tmp_path / "train", NUM_TRAIN, 1), shapes(tmp_path / "val", NUM_VAL, 2)
    metrics = km.train_model(
        model, loader_of(model, train), val, tmp_path / "run", minutes=MINUTES, warmup_steps=30, evaluate_every=100
    )
    print(name, km.format_metrics(metrics))
    assert metrics["segm_AP50"] >= 0.8
