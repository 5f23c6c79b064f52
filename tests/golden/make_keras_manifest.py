"""Write keras_0d7ef1d.json: what `.keras` files of commit 0d7ef1d hold, and what its code computes with them.

The file in the repository is the work of that commit's code. Run it again only in a checkout of 0d7ef1d:

    git worktree add /tmp/base 0d7ef1d
    PYTHONPATH=/tmp/base:tests python tests/golden/make_keras_manifest.py
"""

import json
import pathlib
import re
import tempfile

import keras
import numpy as np
from old_files import MANIFEST, batch_of, describe_archive, found_by, losses_of, write_archive

import keras_maskrcnn as km

TINY = {
    "num_classes": 3,
    "backbone": "resnet10",
    "norm": "frozen_batch",
    "image_scale": 1.0,
    "fpn_channels": 32,
    "anchor_sizes": (16, 32, 64, 128, 256),
    "train_pre_nms": 60,
    "train_post_nms": 60,
    "test_pre_nms": 60,
    "test_post_nms": 40,
    "rpn_samples": 64,
    "roi_samples": 32,
    "box_features": 32,
    "mask_convs": 1,
    "mask_channels": 16,
    "gt_mask_size": 14,
    "score_threshold": 0.0,
    "max_detections": 10,
    "max_instances": 6,
}
# Everything enters the losses: they are the same on all backends, whose random numbers differ.
OTHERS = {
    "class_names": ("cell", "debris", "bubble"),
    "category_ids": (4, 7, 90),
    "norm": "batch",
    "head_norm": "group",
    "anchor_spacing": "canvas",
    "mask_padding": False,
    "pixel_mean": (9000.0, 11000.0, 12000.0, 8000.0, 15000.0),
    "pixel_std": (4000.0, 5000.0, 6000.0, 7000.0, 8000.0),
    "image_dtype": "uint16",
    "box_convs": 1,
    "box_fcs": 1,
    "rpn_convs": 2,
    "mask_channels": 32,
    "rpn_samples": 10**6,
    "rpn_positive_fraction": 1.0,
    "roi_samples": 10**4,
    "roi_positive_fraction": 1.0,
}
CASES = {"tiny": TINY, "others": TINY | OTHERS}


def make_case(values, folder):
    """One model: its archive described, then filled with known values, loaded and run."""
    model = km.MaskRCNN(km.MaskRCNNConfig(**values), seed=3)
    model.compile(optimizer=km.sgd(batch_size=2, milestones=(600, 800)))
    model.save(folder / "written.keras")
    case = describe_archive(folder / "written.keras")
    batch = batch_of(model.config)
    for salt in range(100):
        case["salt"] = salt
        loaded = keras.saving.load_model(write_archive(case, folder / "known.keras"))
        found = found_by(loaded, batch)
        # Another processor's rounding must not change the order of the detections.
        if -np.diff(found["scores"], axis=1).max() > 2e-4:
            return case | {"found": found, "losses": losses_of(loaded, batch)}
    raise ValueError("A salt with scores 2e-4 apart was expected below 100. Received none: change `_scale`.")


def main():
    """Write the manifest, one array a line."""
    with tempfile.TemporaryDirectory() as folder:
        cases = {name: make_case(values, pathlib.Path(folder)) for name, values in CASES.items()}
    text = json.dumps(cases, indent=1)
    for _ in range(5):  # lists on one line
        text = _joined(text)
    MANIFEST.write_text(text + "\n", encoding="utf-8")
    print(f"{MANIFEST}: {MANIFEST.stat().st_size} bytes")


def _joined(text):
    """Innermost lists without line breaks."""
    return re.sub(r"\[\s+([^\[\]{}]*?)\s+\]", lambda found: "[" + re.sub(r"\s*\n\s*", " ", found.group(1)) + "]", text)


if __name__ == "__main__":
    main()
