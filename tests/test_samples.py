"""The samples run: two steps each on made-up data in the layouts they are for, and leave behind what they should."""

import contextlib
import csv
import importlib.util
import json
import pathlib
import runpy
import sys

import keras
import numpy as np
import pytest
from known_answers import KnownModel, small_config
from PIL import Image

import keras_maskrcnn as km
from keras_maskrcnn.cli import demo
from keras_maskrcnn.weights import zoo

SAMPLES = pathlib.Path(__file__).parents[1] / "samples"
SIDE = 64  # pixels of made-up images
ROWS, COLUMNS = np.mgrid[:SIDE, :SIDE] + 0.5
SMALL = {
    "backbone": "resnet10",
    "fpn_channels": 32,
    "train_pre_nms": 60,
    "train_post_nms": 60,
    "test_pre_nms": 60,
    "test_post_nms": 20,
    "roi_samples": 32,
    "box_features": 32,
    "mask_convs": 1,
    "mask_channels": 16,
}

pytestmark = pytest.mark.tensorflow


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Few and narrow layers in every config.

    The steps of the first samples are compiled and optimised, as they are for users. The others call the same
    `train_model`: see `both_ways`.
    """
    real = km.MaskRCNNConfig
    for module in (km, zoo, demo):
        monkeypatch.setattr(module, "MaskRCNNConfig", lambda **fields: real(**(fields | SMALL)))


@pytest.fixture(params=["eager", pytest.param("compiled", marks=pytest.mark.slow)])
def both_ways(request):
    """In `make test` eagerly, since two steps take a tenth of the time that tracing them takes; else compiled."""
    from backend_tools import without_graphs

    with without_graphs() if request.param == "eager" else contextlib.nullcontext():
        yield


def load_sample(name):
    """A sample as a module, for what is inside it."""
    path = SAMPLES / name
    spec = importlib.util.spec_from_file_location(f"sample_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def discs(number):
    """A picture with two bright discs on a dark ground: uint8 (H, W, 3), [(x, y, radius)]."""
    rng = np.random.default_rng(number)
    found = [(*(corner + rng.integers(-4, 5, 2)), 8) for corner in ((16, 16), (40, 44))]
    image = np.full((SIDE, SIDE, 3), 20, np.uint8)
    for x, y, radius in found:
        image[(COLUMNS - x) ** 2 + (ROWS - y) ** 2 < radius**2] = (200, 40, 90)
    return image, found


def check_run(run, overlays):
    """A run folder of two steps: finite losses, figures, weights, pictures, a page. Returns its config."""
    (row,) = csv.DictReader(open(run / "metrics.csv", encoding="utf-8"))
    losses = [float(value) for name, value in row.items() if name.endswith("loss")]
    assert len(losses) == 6 and np.isfinite(losses).all() and 0.5 < float(row["loss"]) < 20
    metrics = json.loads((run / "metrics.json").read_text())
    assert 0 <= metrics["segm_AP"] <= 1
    assert len(list((run / "overlays").glob("*.png"))) == overlays
    page = (run / "index.html").read_text()
    assert page.count("<img") == 1 + overlays and f"{metrics['segm_AP']:.3f}" in page
    assert {"best.keras", "last.keras", "curves.png"} <= {path.name for path in run.iterdir()}
    return json.loads((run / "config.json").read_text())["model"]


# balloon ---------------------------------------------------------------------------------------------------


def write_balloons(folder, count, regions_as):
    """Images of discs as the published balloons are: .jpg beside via_region_data.json, regions without attributes."""
    folder.mkdir(parents=True)
    content, angles = {}, np.arange(24) * (2 * np.pi / 24)
    for number in range(count):
        image, found = discs(number)
        path = folder / f"{number}_photo.jpg"
        Image.fromarray(image).save(path, quality=95)
        regions = []
        for x, y, radius in found:
            points = {
                "all_points_x": np.rint(x + radius * np.cos(angles)).astype(int).tolist(),
                "all_points_y": np.rint(y + radius * np.sin(angles)).astype(int).tolist(),
            }
            regions.append({"region_attributes": {}, "shape_attributes": {"name": "polygon", **points}})
        content[f"{path.name}{path.stat().st_size}"] = {
            "fileref": "",
            "size": path.stat().st_size,
            "filename": path.name,
            "base64_img_data": "",
            "file_attributes": {},
            "regions": {str(k): region for k, region in enumerate(regions)} if regions_as is dict else regions,
        }
    (folder / "via_region_data.json").write_text(json.dumps(content))


def test_balloons_train(tmp_path, capsys):
    write_balloons(tmp_path / "balloon" / "train", 3, dict)
    write_balloons(tmp_path / "balloon" / "val", 1, list)
    arguments = ["--data", str(tmp_path / "balloon"), "--output", str(tmp_path / "run"), "--weights", "random"]
    arguments += ["--min-size", str(SIDE), "--steps", "2", "--batch-size", "1"]
    load_sample("balloon/balloon.py").main(["train", *arguments])
    config = check_run(tmp_path / "run", overlays=1)
    assert config["class_names"] == ["balloon"] and config["max_instances"] == 2 and config["norm"] == "batch"
    assert "\nballoon " in capsys.readouterr().out  # the row of the class


@pytest.fixture
def one_found(tmp_path, monkeypatch):
    """The sample with a model that finds the first of two discs and nothing else: its box, filled."""
    write_balloons(tmp_path / "balloon" / "val", 1, list)
    sample = load_sample("balloon/balloon.py")
    x, y, radius = discs(0)[1][0]
    box = (x - radius, y - radius, x + radius, y + radius)
    model = KnownModel(small_config(class_names=("balloon",)), [([box], [0.9], [0])])
    monkeypatch.setattr(sample, "load_model", lambda path: model)
    monkeypatch.chdir(tmp_path)
    return sample, [int(side) for side in box]


def test_balloons_evaluate(one_found, capsys):
    sample, _ = one_found
    sample.main(["evaluate", "--data", "balloon"])
    rows = {words[0]: words[1:] for words in map(str.split, capsys.readouterr().out.splitlines()) if words}
    # One of two objects, without a false one: 51 of COCO's 101 recall points. The box fits at every IoU; filled, it
    # fits the disc by the disc's share of it.
    disc = sample.read_part("balloon", "val")[0].instances[0].mask.window(SIDE, SIDE).pixels
    passed = sum(disc.sum() / 16**2 >= iou for iou in np.arange(50, 100, 5) / 100)
    assert rows["bbox"][:2] == ["0.505", "0.505"] and 5 < passed < 10
    assert rows["segm"][:2] == [f"{passed / 10 * 51 / 101:.3f}", "0.505"]


def test_balloons_splash(one_found, capsys):
    sample, (x1, y1, x2, y2) = one_found
    photo = pathlib.Path("balloon") / "val" / "0_photo.jpg"
    sample.main(["splash", str(photo)])
    target = pathlib.Path("splash") / "0_photo.png"
    assert f"{photo}: 1 balloons -> {target}" in capsys.readouterr().out
    image, picture = km.data.read_image(photo), np.asarray(Image.open(target))
    np.testing.assert_array_equal(picture[y1:y2, x1:x2], image[y1:y2, x1:x2])
    gray = np.repeat(np.asarray(Image.open(photo).convert("L"))[..., None], 3, axis=-1)
    gray[y1:y2, x1:x2] = image[y1:y2, x1:x2]
    np.testing.assert_array_equal(picture, gray)
    assert np.ptp(picture[y1:y2, x1:x2].astype(int), axis=-1).max() > 100  # the balloon is in colour


def test_a_splash_keeps_colour_exactly_inside_the_masks():
    image = discs(0)[0]
    windows = [(np.array([[True, False], [True, True]]), 15, 14), (np.ones((3, 1), bool), 63, 61)]
    found = type("Found", (), {"mask_windows": windows})
    picture = load_sample("balloon/balloon.py").color_splash(image, found)
    inside = np.zeros((SIDE, SIDE), bool)
    inside[[14, 15, 15, 61, 62, 63], [15, 15, 16, 63, 63, 63]] = True
    expected = np.where(inside[..., None], image, np.asarray(Image.fromarray(image).convert("L"))[..., None])
    np.testing.assert_array_equal(picture, expected)
    assert (np.ptp(picture[16, 14:18].astype(int), axis=-1) == 0).all()  # a disc outside of the masks is gray


def test_balloons_start_from_a_file_but_for_the_last_layers(tmp_path):
    sample = load_sample("balloon/balloon.py")
    donor = zoo.maskrcnn_resnet50_fpn(5)
    donor.fpn.weights[0].assign(np.full(donor.fpn.weights[0].shape, 0.25, np.float32))
    donor.save(tmp_path / "donor.keras")
    model = sample.make_model(str(tmp_path / "donor.keras"), "resnet50", SIDE, 2)
    assert (keras.ops.convert_to_numpy(model.fpn.weights[0]) == 0.25).all()
    assert model.config.num_classes == 1 and model.config.max_size == round(SIDE * 5 / 3)


# coco ------------------------------------------------------------------------------------------------------


@pytest.fixture
def coco_folder(tmp_path):
    """COCO's layout with two categories whose ids have a gap; the validation part lists only one of them."""
    folder = tmp_path / "coco"
    (folder / "annotations").mkdir(parents=True)
    for part, categories in (("train2017", {3: "car", 7: "train"}), ("val2017", {7: "train"})):
        (folder / part).mkdir()
        images, annotations = [], []
        for number in range(1, 4):
            picture, found = discs(number)
            name = f"{number:012d}.jpg"
            Image.fromarray(picture).save(folder / part / name)
            images.append({"id": number, "file_name": name, "height": SIDE, "width": SIDE})
            for (x, y, r), category in zip(found, (7, min(categories)), strict=True):
                corners = [x - r, y - r, x + r, y - r, x + r, y + r, x - r, y + r]
                fields = {"bbox": [x - r, y - r, 2 * r, 2 * r], "area": 4 * r * r, "iscrowd": 0}
                annotation = {"id": len(annotations) + 1, "image_id": number, "category_id": category}
                annotations.append(annotation | fields | {"segmentation": [[int(value) for value in corners]]})
        listed = [{"id": key, "name": name} for key, name in categories.items()]
        content = {"images": images, "annotations": annotations, "categories": listed}
        (folder / "annotations" / f"instances_{part}.json").write_text(json.dumps(content, default=int))
    return folder


def test_coco_trains_and_evaluates_on_a_handful_of_images(coco_folder, tmp_path, capsys, both_ways):
    sample = load_sample("coco/coco.py")
    data = ["--data", str(coco_folder), "--limit", "1", "--min-size", str(SIDE)]
    run = ["--weights", "random", "--steps", "2", "--batch-size", "1", "--output", str(tmp_path / "run")]
    sample.main(["train", *data, *run])
    config = check_run(tmp_path / "run", overlays=1)
    assert config["category_ids"] == [3, 7] and config["class_names"] == ["car", "train"]
    assert config["norm"] == "batch" and config["mask_targets"] == "torchvision"
    figures = tmp_path / "ap.json"
    sample.main(["evaluate", *data, "--weights", str(tmp_path / "run"), "--json", str(figures)])
    measured, kept = json.loads(figures.read_text()), json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert measured["segm_AP"] == pytest.approx(kept["segm_AP"], abs=1e-6) and measured["segm_AP/car"] == -1


def test_coco_evaluates_torchvisions_own_file_on_real_images(shared_data, tmp_path, capsys, both_ways):
    safetensors = pytest.importorskip("safetensors.numpy")
    donor = zoo.maskrcnn_resnet50_fpn(90)
    safetensors.save_file(km.torchvision_state_dict(donor), tmp_path / "coco.safetensors")
    sample = load_sample("coco/coco.py")
    data = ["--data", str(shared_data / "coco_tiny"), "--limit", "1", "--min-size", "64"]
    figures = tmp_path / "ap.json"
    sample.main(["evaluate", *data, "--weights", str(tmp_path / "coco.safetensors"), "--json", str(figures)])
    told = capsys.readouterr().out
    assert "tensors used" in told and "toothbrush" in told
    assert sum(name.startswith("segm_AP/") for name in json.loads(figures.read_text())) == 80


# own_data --------------------------------------------------------------------------------------------------


def test_ten_lines_from_a_folder_to_a_model_and_pictures(tmp_path, monkeypatch, capsys, both_ways):
    monkeypatch.chdir(tmp_path)
    write_balloons(tmp_path / "data" / "train", 4, list)
    write_balloons(tmp_path / "data" / "val", 1, list)
    source = (SAMPLES / "own_data" / "train.py").read_text()
    assert len([line for line in source.split("import keras_maskrcnn as km")[1].splitlines() if line]) == 10
    asked = {}

    def without_download(num_classes, weights, **fields):
        asked.update(fields, weights=weights)
        return zoo.maskrcnn_resnet18_fpn(num_classes, norm="batch", min_size=SIDE, score_threshold=0.0, **fields)

    monkeypatch.setattr(km, "maskrcnn_resnet50_fpn", without_download)
    train_model = km.train_model
    monkeypatch.setattr(
        km, "train_model", lambda *given, epochs: train_model(*given, epochs=1, steps_per_epoch=2, verbose=0)
    )
    monkeypatch.setattr(sys, "argv", ["train.py", "data", "data/val/0_photo.jpg"])
    runpy.run_path(str(SAMPLES / "own_data" / "train.py"))
    config = check_run(tmp_path / "run", overlays=1)
    assert asked["weights"] == "coco" and config["class_names"] == ["object"] and config["max_instances"] == 2
    assert "segm" in capsys.readouterr().out
    assert Image.open("found.png").size == (SIDE, SIDE)


# nuclei, shapes --------------------------------------------------------------------------------------------


def write_bowl(folder, count):
    """Images of discs in the layout of the Data Science Bowl 2018: one mask file a disc, RGBA."""
    for number in range(count):
        image, found = discs(number)
        parts = {name: folder / f"{number:04d}" / name for name in ("images", "masks")}
        for part in parts.values():
            part.mkdir(parents=True)
        for disc, (x, y, radius) in enumerate(found):
            inside = (COLUMNS - x) ** 2 + (ROWS - y) ** 2 < radius**2
            Image.fromarray(inside.astype(np.uint8) * 255).save(parts["masks"] / f"{disc}.png")
        Image.fromarray(image).convert("RGBA").save(parts["images"] / f"{number:04d}.png")
    return folder


@pytest.mark.slow  # the reader's tests have the layout, the other samples the rest
def test_nuclei_on_the_bowls_own_layout(tmp_path, capsys):
    write_bowl(tmp_path / "data", 4)
    run = tmp_path / "run"
    arguments = ["--train", str(tmp_path / "data"), "--steps", "2", "--batch-size", "1", "--output", str(run)]
    load_sample("nuclei/train.py").main(arguments)
    assert "AP and AR400 count up to 400 detections per image" in capsys.readouterr().out
    config = check_run(run, overlays=1)  # one of four images is for validation
    assert config["class_names"] == ["nucleus"] and config["max_instances"] == 2 and config["image_scale"] == 2


def test_nuclei_takes_what_check_data_proposes(tmp_path):
    sample, report = load_sample("nuclei/train.py"), tmp_path / "report.json"
    proposal = {"min_size": 320, "max_size": 533, "anchor_sizes": [8, 16, 32, 64, 128], "crop": 512, "epochs": 12}
    report.write_text(json.dumps({"proposal": proposal}))
    config = sample.make_model(
        km.data.DsbDataset(write_bowl(tmp_path / "data", 1)), sample.read_proposal(report)
    ).config
    assert (config.image_scale, config.min_size, config.max_size) == (None, 320, 533)  # no scale
    assert config.anchor_sizes == (8, 16, 32, 64, 128) and config.max_detections == 400
    report.write_text(json.dumps({"proposal": {"image_scale": 2.5, "max_detections": 470, "epochs": 12}}))
    assert sample.read_proposal(report) == {"image_scale": 2.5, "max_detections": 470}


def test_shapes(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(demo, "NUM_TRAIN", 2 * demo.BATCH_SIZE)
    monkeypatch.setattr(demo, "NUM_VAL", 1)
    train_model = demo.train_model

    def two_steps(*given, minutes, **more):
        assert minutes == 7
        return train_model(*given, epochs=1, steps_per_epoch=2, **more)

    monkeypatch.setattr(demo, "train_model", two_steps)
    load_sample("shapes/train.py").main(["--directory", str(tmp_path), "--minutes", "7"])
    assert "triangle" in capsys.readouterr().out
    config = check_run(tmp_path / "run", overlays=1)
    assert config["class_names"] == ["circle", "square", "triangle"]


# walkthrough.ipynb -----------------------------------------------------------------------------------------


def run_notebook(path, **parameters):
    """Execute a notebook's code cells in order; `parameters` replace those of its cell of that tag. Returns names."""
    names = {}
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), f"{path.name}, {cell['id']}", "exec"), names)
            if "parameters" in cell["metadata"].get("tags", ()):
                assert set(parameters) <= set(names)
                names |= parameters
    return names


def test_the_notebook_holds_no_outputs():
    cells = json.loads((SAMPLES / "walkthrough.ipynb").read_text(encoding="utf-8"))["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert len(code) >= 12 and all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code)
    assert len({cell["id"] for cell in cells}) == len(cells)  # nbformat 4.5


def test_the_notebook_walks_the_whole_path(tmp_path, monkeypatch, capsys, both_ways):
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    plt.close("all")
    model = km.MaskRCNN(demo.shapes_config())
    model.save(tmp_path / "best.keras")
    names = run_notebook(SAMPLES / "walkthrough.ipynb", FOLDER=str(tmp_path), RUN=str(tmp_path))
    figures = [plt.figure(number) for number in plt.get_fignums()]
    assert len(figures) == 12
    for figure in figures:
        figure.canvas.draw()
        assert np.asarray(figure.canvas.buffer_rgba())[..., :3].std() > 10
    plt.close("all")

    count = len(names["gt_boxes"])
    assert count == len(names["truth_of"][names["dataset"].image_ids[names["PICTURE"]]]) > 1
    assert [len(level) for level in names["anchors"]] == [3 * (96 // stride) ** 2 for stride in (4, 8, 16, 32)] + [12]
    assert names["after"].shape[1] == 4 and 0 <= names["overlaps"].max() <= 1
    # Each object's own box is among the RoIs, and its mask target is the object's mask.
    rois = names["roi_boxes"][names["roi_positive"]]
    own = np.asarray(km.ops.pairwise_iou(names["gt_boxes"], rois))
    np.testing.assert_allclose(own.max(1), 1, atol=1e-5)
    for k, row in enumerate(own.argmax(1)):
        target = names["mask_targets"][row] >= 0.5
        mask = names["gt_masks"][k].reshape(28, 2, 28, 2).mean((1, 3)) >= 0.5
        assert (target & mask).sum() / (target | mask).sum() > 0.9
    assert names["total"] == pytest.approx(sum(names["values"].values()), rel=1e-5) and names["total"] > 0.5
    assert names["difference"] < 1e-3 and len(names["instances"]) == names["found"]["valid"].sum() > 0
