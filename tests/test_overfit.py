"""The network can learn what it is shown: high AP on its own few training images."""

import json

import keras
import numpy as np
import pytest

import keras_maskrcnn as km


def learn_by_heart(config, dataset, steps, learning_rate):
    """Train on all images of a dataset at once, without augmentation, and return the COCO figures on them."""
    loader = km.DataLoader(dataset, config, batch_size=len(dataset), drop_last=False)
    batch = loader[0]
    model = km.MaskRCNN(config)
    schedule = keras.optimizers.schedules.CosineDecay(
        learning_rate / 10, steps, warmup_target=learning_rate, warmup_steps=steps // 10
    )
    model.compile(keras.optimizers.AdamW(schedule, weight_decay=0.0, global_clipnorm=5.0))
    for _ in range(steps):
        model.train_on_batch(batch)
    return km.evaluate_coco(model, dataset)


@pytest.mark.slow  # `make demo` learns shapes too; that the losses fall is in test_new_branch.py
@pytest.mark.tensorflow  # of JAX too, but there it takes three times as long
def test_generated_shapes(tmp_path):
    annotations = km.data.generate_shapes(tmp_path, num_images=2, image_size=64, seed=0, max_shapes=2)
    config = km.MaskRCNNConfig(
        num_classes=3,
        backbone="resnet10",
        norm="batch",
        image_scale=1.0,
        fpn_channels=48,
        anchor_sizes=(8, 16, 32, 64, 128),
        train_pre_nms=100,
        train_post_nms=100,
        test_pre_nms=100,
        test_post_nms=50,
        rpn_samples=64,
        roi_samples=48,
        box_features=128,
        mask_convs=2,
        mask_channels=48,
        max_detections=10,
        max_instances=4,
        score_threshold=0.3,
    )
    dataset = km.CocoDataset(annotations, tmp_path / "images")
    metrics = learn_by_heart(config, dataset, steps=100, learning_rate=3e-3)
    assert metrics["segm_AP"] >= 0.8 and metrics["segm_AP50"] >= 0.95


def easiest_images(folder, count, target):
    """Copy the annotations of the `count` COCO images whose smallest object is largest; crowds are left out."""
    content = json.loads((folder / "annotations" / "instances_train2017.json").read_text())
    smallest = {}
    for annotation in content["annotations"]:
        area = 0 if annotation["iscrowd"] else annotation["area"]
        image = annotation["image_id"]
        smallest[image] = min(area, smallest.get(image, np.inf))
    chosen = sorted(smallest, key=smallest.get)[-count:]
    content["images"] = [image for image in content["images"] if image["id"] in chosen]
    content["annotations"] = [a for a in content["annotations"] if a["image_id"] in chosen]
    target.write_text(json.dumps(content))
    return target


@pytest.mark.slow
def test_eight_coco_images(shared_data, tmp_path):
    coco = shared_data / "coco_tiny"
    annotations = easiest_images(coco, 8, tmp_path / "eight.json")
    dataset = km.CocoDataset(annotations, coco / "train2017")
    config = km.MaskRCNNConfig(
        num_classes=len(dataset.class_names),
        class_names=dataset.class_names,
        category_ids=dataset.category_ids,
        backbone="resnet18",
        norm="batch",
        min_size=224,
        max_size=320,
        fpn_channels=128,
        train_pre_nms=300,
        train_post_nms=300,
        test_pre_nms=300,
        test_post_nms=200,
        roi_samples=64,
        mask_samples=16,
        box_features=512,
        mask_channels=96,
        mask_size=56,
        gt_mask_size=112,
        max_instances=dataset.max_instances,
        score_threshold=0.2,
    )
    metrics = learn_by_heart(config, dataset, steps=300, learning_rate=1e-3)
    print(km.format_metrics(metrics))
    assert metrics["segm_AP"] >= 0.9
