"""docs/extending: each patch is a new file and a few lines of one other file, and what it adds works.

The patches are applied to a copy of the package, which a new process imports.
"""

import os
import pathlib
import shutil
import subprocess
import sys

import pytest
from child_processes import python_path

ROOT = pathlib.Path(__file__).parents[1]
PATCHES = ROOT / "docs" / "extending"
TOUCHED = {  # patch -> (the new file, the file that lists it)
    "dataset_format": ("data/readers/datumaro.py", "data/readers/opener.py"),
    "exporter": ("serving/npz.py", "cli/export.py"),
    "weight_family": ("weights/benchmark.py", "weights/loading.py"),
}


def git(folder, *arguments):
    """Run git in a folder that is no repository, even if a folder above is one."""
    environment = os.environ | {"GIT_CEILING_DIRECTORIES": str(folder.resolve().parent)}
    done = subprocess.run(["git", *arguments], cwd=folder, env=environment, capture_output=True, text=True)
    assert not done.returncode, done.stderr
    return done.stdout


@pytest.fixture
def patched(tmp_path):
    """A folder with a copy of the package, all patches applied."""
    folder = tmp_path / "copy"
    shutil.copytree(ROOT / "keras_maskrcnn", folder / "keras_maskrcnn", ignore=shutil.ignore_patterns("*.so"))
    for name in TOUCHED:
        git(folder, "apply", str(PATCHES / f"{name}.patch"))
    return folder


def contents(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*.py")}


def test_there_is_a_patch_for_each_row_and_no_other():
    assert {path.name for path in PATCHES.iterdir()} == {f"{name}.patch" for name in TOUCHED}


def test_each_patch_adds_one_file_and_changes_one(patched):
    before, after = contents(ROOT / "keras_maskrcnn"), contents(patched / "keras_maskrcnn")
    assert {name for name in after if name not in before} == {new for new, _ in TOUCHED.values()}
    assert {name for name in before if after[name] != before[name]} == {old for _, old in TOUCHED.values()}
    for name, files in TOUCHED.items():
        stat = git(patched, "apply", "--numstat", str(PATCHES / f"{name}.patch")).split()
        assert stat[2::3] == sorted(f"keras_maskrcnn/{file}" for file in files)
        assert dict(zip(stat[2::3], stat[1::3]))[f"keras_maskrcnn/{files[1]}"] in ("0", "1")  # lines removed


def test_patched_files_pass_the_linter(patched):
    names = [str(patched / "keras_maskrcnn" / file) for files in TOUCHED.values() for file in files]
    for command in (["check"], ["format", "--check"]):
        ruff = [sys.executable, "-m", "ruff", *command, "--config", str(ROOT / "pyproject.toml"), *names]
        done = subprocess.run(ruff, capture_output=True, text=True)
        assert not done.returncode, done.stdout + done.stderr


NEW_PROCESS = """
import json, pathlib, sys
import numpy as np
import keras_maskrcnn as km
from keras_maskrcnn import cli
from keras_maskrcnn.serving.npz import export_npz
from reader_tools import box, check, save_image
from tiny import scatter_weights, tiny_config

folder = pathlib.Path(sys.argv[1])
assert pathlib.Path(km.__file__).is_relative_to(folder / "copy"), km.__file__

# A dataset format: two polygons of one group are one object, a mask is its run lengths, a box is left out.
save_image(folder / "set" / "images" / "train" / "a.png")  # 40 x 60
save_image(folder / "set" / "images" / "train" / "b.png", seed=1)
def part(number, kind, label, group=0, **values):
    return {"id": number, "type": kind, "label_id": label, "group": group, "attributes": {}, **values}
items = [
    {"id": "a", "image": {"path": "a.png", "size": [40, 60]}, "annotations": [
        part(0, "polygon", 1, 7, points=[5, 4, 25, 4, 25, 14, 5, 14]),
        part(1, "mask", 0, rle={"counts": [2 * 40 + 3, 5, 35, 5, 40 * 60 - 2 * 40 - 48], "size": [40, 60]}),
        part(2, "polygon", 1, 7, points=[30, 20, 50, 20, 50, 30, 30, 30]),
        part(3, "bbox", 1, bbox=[0, 0, 9, 9]),
    ]},
    {"id": "b", "image": {"path": "b.png", "size": [40, 60]}, "annotations": []},
]
labels = [{"name": "dog", "parent": ""}, {"name": "cat", "parent": ""}]
source = folder / "set" / "annotations" / "train.json"
source.parent.mkdir()
source.write_text(json.dumps({"info": {}, "categories": {"label": {"labels": labels}}, "items": items}))
dataset = km.open_dataset(source)
assert type(dataset).__name__ == "DatumaroDataset" and dataset.class_names == ("dog", "cat")
assert [record.image_id for record in dataset.records] == ["a", "b"]
assert dataset[0].instances[0].box.tolist() == [5, 4, 50, 30] and dataset[0].instances[1].box.tolist() == [2, 3, 4, 8]
cat = box(5, 4, 25, 14) | box(30, 20, 50, 30)
check(dataset, {"a.png": [("cat", cat), ("dog", box(2, 3, 4, 8))], "b.png": []}, folder)
items[0]["annotations"][1]["rle"]["size"] = [60, 40]
source.write_text(json.dumps({"categories": {"label": {"labels": labels}}, "items": items}))
assert "must have the size [40, 60]" in str(km.open_dataset(source, on_error="skip").faults[0])

# An exporter: every weight under its path, and the config.
model = scatter_weights(km.MaskRCNN(tiny_config()))
model.save(folder / "model.keras")
target = folder / "model.npz"
assert cli.main(["export", str(folder / "model.keras"), str(target), "--format", "npz"]) == cli.SUCCESS
written = np.load(target)
assert set(written.files) == {weight.path for weight in model.weights} | {"config.json"}
assert len(written.files) == len(model.weights) + 1 > 90
for weight in model.weights:
    np.testing.assert_array_equal(written[weight.path], np.asarray(weight), err_msg=weight.path)
assert km.MaskRCNNConfig.from_dict(json.loads(str(written["config.json"]))) == model.config
for wrong, problem in ((target, "must not exist"), (folder / "model.npy", "must end in .npz")):
    try:
        export_npz(model, wrong)
    except ValueError as error:
        assert problem in str(error)
    else:
        raise AssertionError(f"{wrong} was accepted")

# A weight family: the same tensors under the other program's names and with its class rows.
ours = km.torchvision_state_dict(model)
PARTS = {  # maskrcnn-benchmark's layer -> torchvision's
    "rpn.head.conv": "rpn.head.conv.0.0",
    "rpn.head.cls_logits": "rpn.head.cls_logits",
    "rpn.head.bbox_pred": "rpn.head.bbox_pred",
    "roi_heads.box.feature_extractor.fc6": "roi_heads.box_head.fc6",
    "roi_heads.box.feature_extractor.fc7": "roi_heads.box_head.fc7",
    "roi_heads.box.predictor.cls_score": "roi_heads.box_predictor.cls_score",
    "roi_heads.box.predictor.bbox_pred": "roi_heads.box_predictor.bbox_pred",
    "roi_heads.mask.feature_extractor.mask_fcn1": "roi_heads.mask_head.0.0",
    "roi_heads.mask.predictor.conv5_mask": "roi_heads.mask_predictor.conv5_mask",
    "roi_heads.mask.predictor.mask_fcn_logits": "roi_heads.mask_predictor.mask_fcn_logits",
}
for level in range(4):
    PARTS[f"backbone.fpn.fpn_inner{level + 1}"] = f"backbone.fpn.inner_blocks.{level}.0"
    PARTS[f"backbone.fpn.fpn_layer{level + 1}"] = f"backbone.fpn.layer_blocks.{level}.0"
theirs = {f"{new}.{kind}": ours[f"{old}.{kind}"] for new, old in PARTS.items() for kind in ("weight", "bias")}
for name, array in ours.items():
    if name.startswith("backbone.body."):
        stem = name.startswith(("backbone.body.conv1.", "backbone.body.bn1."))
        theirs[name.replace("body.", "body.stem.", 1) if stem else name] = array
assert len(theirs) == len(ours)
theirs["backbone.body.stem.conv1.weight"] = theirs["backbone.body.stem.conv1.weight"][:, ::-1]  # BGR
anchors = {f"rpn.anchor_generator.cell_anchors.{level}": np.ones((3, 4), "float32") for level in range(5)}
other = km.MaskRCNN(tiny_config(), seed=1)
receipt = km.load_weights(other, {"model": {f"module.{name}": array for name, array in (theirs | anchors).items()}})
counters = [name for name in ours if name.endswith("num_batches_tracked")]
assert receipt.complete and len(receipt.used) == len(ours) - len(counters)
assert {name for name, _ in receipt.left_over} - set(anchors) <= set(counters)
for mine, read in zip(model.weights, other.weights, strict=True):
    np.testing.assert_array_equal(np.asarray(read), np.asarray(mine), err_msg=mine.path)
receipt = km.load_weights(other, theirs | {"roi_heads.extra.weight": np.zeros(3)}, skip_mismatch=True)
assert ("roi_heads.extra.weight", (3,)) in receipt.left_over and len(receipt.skipped) == 1
print("receipt:", len(receipt.used), "tensors")
"""


def test_what_the_patches_add_works(patched):
    environment = os.environ | {
        "PYTHONPATH": python_path(patched, ROOT / "tests"),
        "PYTHONDONTWRITEBYTECODE": "1",
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "KERAS_MASKRCNN_NATIVE": "0",
    }
    command = [sys.executable, "-c", NEW_PROCESS, str(patched.parent)]
    done = subprocess.run(command, env=environment, cwd=patched.parent, capture_output=True, text=True)
    assert not done.returncode, done.stdout[-1000:] + done.stderr[-3000:]
    assert "wrote" in done.stdout and "read it with numpy.load" in done.stdout
    assert done.stdout.splitlines()[-1].startswith("receipt:")
