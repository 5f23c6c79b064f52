"""Write tide_figures.json: what tidecv 1.0.1 says of perturbed detections. Run it where tidecv is installed.

    pip install tidecv && PYTHONPATH=tests:. python tests/golden/make_tide_figures.py SHARED/data/coco_tiny

tidecv imports plotting libraries and OpenCV that no figure needs; they may be missing.
"""

import importlib.util
import json
import pathlib
import sys
import unittest.mock

for name in ("cv2", "seaborn", "pandas", "matplotlib", "matplotlib.pyplot", "matplotlib.lines", "appdirs"):
    if importlib.util.find_spec(name.partition(".")[0]) is None:
        sys.modules[name] = unittest.mock.MagicMock()

from perturbed import perturbed  # noqa: E402
from tidecv import TIDE, Data  # noqa: E402
from tidecv.functions import toRLE  # noqa: E402

CASES = (  # part, with crowd regions, seed, what is compared, IoU of a match
    ("train", False, 1, "bbox", 0.5),
    ("train", False, 1, "segm", 0.5),
    ("val", True, 0, "bbox", 0.5),
    ("val", True, 0, "segm", 0.5),
    ("val", True, 0, "segm", 0.75),
)
MODES = {"bbox": TIDE.BOX, "segm": TIDE.MASK}


def read_truth(folder, part, crowds):
    """A part of coco_tiny as a COCO dictionary, with or without its crowd regions."""
    truth = json.loads((pathlib.Path(folder) / "annotations" / f"instances_{part}2017.json").read_text())
    if not crowds:
        truth["annotations"] = [one for one in truth["annotations"] if not one["iscrowd"]]
    return truth


def figures(truth, found, iou_type, iou):
    """AP, the AP that each kind costs, and how many errors there are of each: as tidecv names and scales them.

    tidecv counts detections in crowd regions, which change no AP, among the errors, and corrects them. They are found
    in a first run ("as it is" holds its figures) and left out in a second one.
    """
    as_it_is, ignored = _run(truth, found, iou_type, iou)
    result, _ = _run(truth, [one for k, one in enumerate(found) if k not in ignored], iou_type, iou)
    return result | {"ignored": len(ignored), "as it is": as_it_is}


def _run(truth, found, iou_type, iou):
    gt, predictions = Data("truth"), Data("found")
    sizes = {image["id"]: (image["height"], image["width"]) for image in truth["images"]}
    for image in truth["images"]:
        gt.add_image(image["id"], str(image["id"]))
    for one in truth["annotations"]:
        height, width = sizes[one["image_id"]]
        mask = toRLE(one["segmentation"], width, height)
        add = gt.add_ignore_region if one.get("iscrowd") else gt.add_ground_truth
        add(one["image_id"], one["category_id"], one["bbox"], mask)
    for one in found:
        predictions.add_detection(one["image_id"], one["category_id"], one["score"], one["bbox"], one["segmentation"])
    tide = TIDE()
    run = tide.evaluate(gt, predictions, mode=MODES[iou_type], pos_threshold=iou)
    result = {
        "ap": run.ap,
        **next(iter(tide.get_main_errors().values())),
        **next(iter(tide.get_special_errors().values())),
        "counts": {kind.short_name: len(errors) for kind, errors in run.error_dict.items()},
    }
    return result, {one["_id"] for one in predictions.annotations if one.get("used", False) is None}


def main(folder):
    """Write the file."""
    golden = []
    for part, crowds, seed, iou_type, iou in CASES:
        truth = read_truth(folder, part, crowds)
        case = {"part": part, "crowds": crowds, "seed": seed, "iou_type": iou_type, "iou": iou}
        golden.append(case | figures(truth, perturbed(truth, seed), iou_type, iou))
    pathlib.Path(__file__).with_name("tide_figures.json").write_text(json.dumps(golden, indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1])
