"""Train keypoints on generated stick figures: python samples/keypoints/train.py --minutes 14."""

import argparse
import pathlib

import keras
from PIL import Image

import keras_maskrcnn as km
from keras_maskrcnn.branches import KeypointBranch

IMAGE_SIZE = 96  # pixels a side
NUM_TRAIN, NUM_VAL = 4000, 60
TRAIN_SEED, VAL_SEED = 1, 2  # different seeds: no validation image is trained on


def figures_config(dataset):
    """A small Keypoint R-CNN for a dataset that names its keypoints: ResNet-10, a head of four narrow convolutions."""
    scheme = dataset.keypoints
    keypoints = KeypointBranch(scheme["names"], scheme["skeleton"], channels=64, num_convs=4)
    return km.MaskRCNNConfig(
        num_classes=1,
        class_names=dataset.class_names,
        branches=(keypoints,),
        backbone="resnet10",
        norm="batch",
        image_scale=1.0,
        fpn_channels=64,
        anchor_sizes=(16, 32, 64, 128, 256),
        rpn_samples=64,
        train_pre_nms=200,
        train_post_nms=200,
        test_pre_nms=200,
        test_post_nms=50,
        roi_samples=32,
        roi_aligned=True,
        box_features=256,
        max_detections=20,
        max_instances=8,
    )


def main():
    """Generate, train, measure OKS AP, draw."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=14, help="training time")
    parser.add_argument("--images", type=int, default=NUM_TRAIN)
    parser.add_argument("--directory", default="keypoints_run", help="folder for the data and the run")
    options = parser.parse_args()
    folder = pathlib.Path(options.directory)
    counts = {"train": (options.images, TRAIN_SEED), "val": (NUM_VAL, VAL_SEED)}
    train, val = (
        km.CocoDataset(km.data.generate_figures(folder / "data" / name, count, IMAGE_SIZE, seed))
        for name, (count, seed) in counts.items()
    )
    config = figures_config(train)
    loader = km.DataLoader(train, config, 8, shuffle=True, augmentation=[km.data.RandomFlip()])
    model = km.MaskRCNN(config)
    model.compile(keras.optimizers.AdamW(2e-3, weight_decay=1e-4, beta_2=0.99, global_clipnorm=5.0))
    run = folder / "run"
    # Only the last epoch is measured: that takes as long as twenty steps.
    plan = {"minutes": options.minutes, "warmup_steps": 30, "evaluate_every": 100, "overwrite": True}
    metrics = km.train_model(model, loader, val, run, **plan)
    print(km.format_metrics(metrics))
    best = keras.saving.load_model(run / "best.keras", compile=False)
    image = val.load_image(0)
    picture = km.draw_instances(image, km.Predictor(best, 0.5)(image), enlarge=5)
    Image.fromarray(picture).save(folder / "figures.png")
    print(f"keypoints_AP {metrics['keypoints_AP']:.3f}; drawn: {folder / 'figures.png'}")


if __name__ == "__main__":
    main()
