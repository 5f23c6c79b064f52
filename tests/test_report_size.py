"""The page of errors of 500 images: below 20 MB, opened from disk without a network, wide and narrow."""

import copy
import json

import numpy as np
import pytest
from browser import Browser, find_chromium
from perturbed import perturbed
from PIL import Image
from test_errors_page import Page

from keras_maskrcnn import cli

LIMIT = 20 * 2**20
NUM_IMAGES = 500


def photos(folder):
    """(ground truth of coco_tiny's 160 photos, COCO results of a poor detector)."""
    truth = {"images": [], "annotations": []}
    for part in ("train", "val"):
        content = json.loads((folder / "annotations" / f"instances_{part}2017.json").read_text())
        for image in content["images"]:
            image["file_name"] = f"{part}2017/{image['file_name']}"
        truth |= {name: truth[name] + content[name] for name in ("images", "annotations")}
        truth["categories"] = content["categories"]
    return truth, perturbed(truth, 5)


def repeated(truth, found, count):
    """The same photos with other ids, until there are `count` images."""
    out, results = {"images": [], "annotations": [], "categories": truth["categories"]}, []
    rounds = -(-count // len(truth["images"]))
    for turn in range(rounds):
        kept = {image["id"] for image in truth["images"][: count - len(out["images"])]}
        move = lambda key, turn=turn: key * 10 + turn  # noqa: E731
        images, annotations, more = (
            copy.deepcopy([one for one in entries if one[name] in kept])
            for entries, name in ((truth["images"], "id"), (truth["annotations"], "image_id"), (found, "image_id"))
        )
        for image in images:
            image["id"] = move(image["id"])
        for entry in (*annotations, *more):
            entry["image_id"] = move(entry["image_id"])
        for entry in annotations:
            entry["id"] = move(entry["id"])
        out["images"] += images
        out["annotations"] += annotations
        results += more
    return out, results


def write_report(folder, images, truth, found):
    """`evaluate --results --report`. Returns the path of the page."""
    folder.mkdir(parents=True)
    (folder / "truth.json").write_text(json.dumps(truth))
    (folder / "found.json").write_text(json.dumps(found))
    line = ["evaluate", "--results", folder / "found.json", "--images", images]
    line += ["--annotations", folder / "truth.json", "--report", folder / "errors"]
    assert cli.main([str(one) for one in line]) == cli.SUCCESS
    return folder / "errors" / "index.html"


@pytest.fixture(scope="module")
def report(shared_data, tmp_path_factory):
    folder = shared_data / "coco_tiny"
    truth, found = repeated(*photos(folder), NUM_IMAGES)
    assert len(truth["images"]) == NUM_IMAGES and len(found) > 3000
    return write_report(tmp_path_factory.mktemp("report") / "photos", folder, truth, found)


@pytest.mark.slow
def test_a_page_of_500_photos_is_small(report):
    page = Page(report)
    assert report.stat().st_size < LIMIT / 2
    assert len(page.pictures) == 120 and len(page.labels) == 24
    assert (report.parent / "report.json").stat().st_size < LIMIT / 4


@pytest.mark.slow
def test_a_page_of_500_images_of_noise_is_small(tmp_path):
    """JPEG can shorten noise least."""
    rng = np.random.default_rng(0)
    for k in range(5):
        Image.fromarray(rng.integers(0, 255, (400, 400, 3), np.uint8)).save(tmp_path / f"{k}.png")
    images, annotations, found = [], [], []
    for k in range(NUM_IMAGES):
        images.append({"id": k, "file_name": f"{k % 5}.png", "height": 400, "width": 400})
        for number, category in enumerate((1, 2)):
            box = [20 + 200 * number, 30, 150, 300]
            corners = [box[0], 30, box[0] + 150, 30, box[0] + 150, 330, box[0], 330]
            entry = {"image_id": k, "category_id": category, "bbox": box, "segmentation": [corners]}
            annotations.append(entry | {"id": 2 * k + number + 1, "iscrowd": 0, "area": 45000})
            right = {"image_id": k, "category_id": category, "bbox": box, "score": 0.5 + k / 1000}
            # In turn right, duplicate, wrong class, poor place, both, nothing.
            moved = {"bbox": [box[0], 180, 150, 200]}
            other = {"category_id": 3 - category}
            found += [
                [right], [right, right | {"score": 0.4}], [right | other], [right | moved], [right | other | moved], [],
            ][k % 6]  # fmt: skip
    truth = {"images": images, "annotations": annotations}
    truth["categories"] = [{"id": 1, "name": "one"}, {"id": 2, "name": "two"}]
    page = write_report(tmp_path / "noise", tmp_path, truth, found)
    assert len(Page(page).pictures) >= 80 and LIMIT / 10 < page.stat().st_size < LIMIT


@pytest.mark.slow
@pytest.mark.skipif(not find_chromium(), reason="needs Chromium")
@pytest.mark.parametrize("width", [1280, 390])
def test_it_opens_from_disk_without_a_network(report, tmp_path, width):
    with Browser(tmp_path / "browser") as browser:
        browser.send("Network.enable")
        browser.send(
            "Network.emulateNetworkConditions", offline=True, latency=0, downloadThroughput=0, uploadThroughput=0
        )
        browser.resize(width, 900)
        browser.open(report.as_uri())
        browser.wait("document.readyState == 'complete' && document.images.length > 100")
        shown = browser.run("Promise.all([...document.images].map(one => one.decode())).then(all => all.length)")
        assert shown == browser.run("document.images.length") == 144
        assert browser.run("performance.getEntriesByType('resource').every(one => one.name.startsWith('data:'))")
        # Nothing makes the page itself scroll sideways, and no text lies outside of it.
        assert browser.run("document.documentElement.scrollWidth") <= width
        outside = browser.run(
            "[...document.querySelectorAll('p, h1, h2, h3, figure, li, .tile, svg.chart')].filter(one => "
            f"one.getBoundingClientRect().right > {width} + 1).map(one => one.textContent.slice(0, 40))"
        )
        assert outside == []
        # Every place that is linked is there.
        assert browser.run("[...document.querySelectorAll('nav a')].every(one => document.querySelector(one.hash))")
