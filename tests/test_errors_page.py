"""The page of errors and `evaluate --results`: figures, pictures of bounded number and size, harmless names."""

import base64
import html.parser
import io
import json

import numpy as np
import pytest
from PIL import Image
from test_error_kinds import square

from keras_maskrcnn import cli
from keras_maskrcnn.evaluation import analyse, coco_metrics
from keras_maskrcnn.pages.error_pictures import draw_part, part_around
from keras_maskrcnn.pages.errors_page import PICTURES, write_errors_page

BAD = "<script>alert('bad')</script>"
BLUE, ORANGE = (0, 190, 255), (255, 150, 0)


class Page(html.parser.HTMLParser):
    """The parts of a page: ids, links, pictures with their texts, tables, tags; elements must be closed in order."""

    def __init__(self, path):
        super().__init__()
        self.ids, self.links, self.pictures, self.rows, self.tags, self.open = [], [], [], [], set(), []
        self.labels = []  # pictures of suspicious labels
        self.text = ""
        self.feed(path.read_text(encoding="utf-8"))
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.tags.add(tag)
        self.ids += [attributes["id"]] if "id" in attributes else []
        self.links += [attributes[name] for name in ("href", "src") if name in attributes]
        if tag == "img":
            group = self.labels if attributes["alt"].startswith("Suspicious labels") else self.pictures
            group.append((attributes["alt"], attributes["src"]))
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data
        if self.open and self.rows and {"td", "th"} & set(self.open):
            self.rows[-1][-1] += data.strip()


def write_data(folder, annotations, images=1, names=("dog", BAD), channels=3):
    """A COCO dataset of gray images of 100 x 400 pixels. Returns its file and what is in it."""
    (folder / "images").mkdir(parents=True)
    for k in range(images):
        pixels = np.full((100, 400, channels) if channels > 1 else (100, 400), 90, np.uint8)
        Image.fromarray(pixels).save(folder / "images" / f"photo {k + 1}.png")
    truth = {
        "images": [
            {"id": k + 1, "height": 100, "width": 400, "file_name": f"photo {k + 1}.png"} for k in range(images)
        ],
        "annotations": [one | {"id": k} for k, one in enumerate(annotations, start=1)],
        "categories": [{"id": k, "name": name} for k, name in enumerate(names, start=1)],
    }
    (folder / "truth.json").write_text(json.dumps(truth))
    return truth


def errors_in(folder, annotations, found, images=1, **more):
    """Write data and its page by the command line. Returns the Page, the JSON and the truth."""
    truth = write_data(folder, annotations, images, **more)
    (folder / "found.json").write_text(json.dumps(found))
    arguments = ["--results", folder / "found.json", "--images", folder / "images"]
    arguments += ["--annotations", folder / "truth.json", "--report", folder / "errors"]
    assert cli.main(["evaluate", *map(str, arguments)]) == cli.SUCCESS
    page = folder / "errors" / "index.html"
    return Page(page), json.loads((folder / "errors" / "report.json").read_text()), truth


def one_of_each():
    """Annotations and results on one image: an error of each kind, and one right detection."""
    annotations = [square(10), square(60), square(110), square(160), square(280)]
    found = [
        square(10, score=0.9),
        square(11, score=0.8),
        square(60, category=2, score=0.7),
        square(110, y=40, score=0.6),
        square(160, y=40, category=2, score=0.55),
        square(340, score=0.3),
    ]
    return annotations, found


def test_the_page_shows_each_kind_with_its_cost_and_pictures(tmp_path, capsys):
    annotations, found = one_of_each()
    page, report, truth = errors_in(tmp_path, annotations, found)
    counts = {kind: 1 for kind in ("class", "localisation", "both", "duplicate", "background")} | {"missed": 2}
    for iou_type in ("segm", "bbox"):
        assert report["errors"][iou_type]["counts"] == counts
    metrics = coco_metrics(truth, found, iou_types=("bbox", "segm", "boundary"))
    assert report["metrics"] == pytest.approx(metrics)
    lost = report["errors"]["segm"]["ap_lost"]
    rows = {row[0]: row for row in page.rows if row}
    assert rows["Wrong class"][1:3] == ["1", f"{lost['class']:.3f}"] and lost["class"] > 0.1
    assert rows["Missed"][1:3] == ["2", f"{lost['missed']:.3f}"]
    titles = [title for title, _ in page.pictures]
    assert f"Wrong class: {BAD} 0.70, labelled dog, IoU 1.00: photo 1.png" in titles
    assert "Poor outline: dog 0.60, IoU 0.33: photo 1.png" in titles
    assert "Duplicate: dog 0.80, the first has 0.90, IoU 0.95: photo 1.png" in titles
    assert "Background: dog 0.30: photo 1.png" in titles
    assert "Missed: dog, 40 x 40 pixels, not found: photo 1.png" in titles and len(titles) == 7
    worst = report["worst_errors"]["class"][0]
    assert worst["detected"] == BAD and worst["labelled"] == "dog" and worst["annotation_id"] == 2
    assert worst["labelled_box"] == [60, 20, 40, 40] and worst["image_id"] == 1 and worst["iou"] == 1
    assert f"what the errors are: {tmp_path / 'errors' / 'index.html'}" in capsys.readouterr().out


def test_the_page_needs_no_network_and_no_script_and_every_link_has_its_place(tmp_path):
    page, _, _ = errors_in(tmp_path, *one_of_each())
    assert "script" not in page.tags and "link" not in page.tags
    assert len(set(page.ids)) == len(page.ids)
    for link in page.links:
        assert link.startswith("data:image/jpeg;base64,") or link.removeprefix("#") in page.ids, link[:80]
    assert all(title for title, _ in page.pictures)  # each picture is described in words


def test_pictures_are_the_worst_and_bounded(tmp_path):
    # 30 background detections of rising score, 30 missed objects of rising size.
    annotations = [square(20, side=10 + k, image_id=k + 1) for k in range(30)]
    found = [square(300, image_id=k + 1, score=0.3 + k / 100) for k in range(30)]
    page, report, _ = errors_in(tmp_path, annotations, found, images=30)
    for kind, first, last in (("Background", "dog 0.59", "dog 0.40"), ("Missed", "dog, 39 x 39", "dog, 20 x 20")):
        titles = [title for title, _ in page.pictures if title.startswith(kind)]
        assert len(titles) == PICTURES
        assert titles[0].startswith(f"{kind}: {first}") and titles[-1].startswith(f"{kind}: {last}")
    assert len(report["worst_errors"]["background"]) == len(report["worst_errors"]["missed"]) == 30
    for _, source in page.pictures:
        with Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2]))) as picture:
            assert picture.format == "JPEG" and max(picture.size) <= 320


def test_a_jpeg_of_noise_stays_small():
    # 120 of these in base64 are 7.7 MB: the page of any dataset.
    noise = np.random.default_rng(0).integers(0, 255, (320, 320, 3), np.uint8)
    assert len(draw_part(noise, (0, 0, 320, 320), [])) <= 48_000


def test_a_part_is_around_the_boxes_and_inside_the_image():
    assert part_around([[100, 100, 100, 50]], (1000, 1000)) == (65, 65, 235, 185)
    assert part_around([[100, 100, 20, 20], [140, 120, 40, 10]], (1000, 1000)) == (72, 72, 208, 158)
    assert part_around([[0, 0, 5, 5]], (30, 40)) == (0, 0, 27, 27)  # 21.5 pixels of surroundings
    assert part_around([[390, 90, 50, 50]], (100, 400)) == (371, 71, 400, 100)
    assert part_around([[-50, -50, 10, 10]], (100, 400)) == (0, 0, 25, 25)  # outside the image: its corner


def test_an_object_beyond_the_part_leaves_no_outline():
    gray, nothing = np.full((60, 60, 3), 90, np.uint8), np.zeros((60, 60), bool)
    assert draw_part(gray, (0, 0, 60, 60), [nothing], nothing, 0) == draw_part(gray, (0, 0, 60, 60), [])


def test_outlines_are_solid_for_objects_and_dashed_for_detections():
    gray = np.full((100, 100, 3), 90, np.uint8)
    masks = np.zeros((2, 100, 100), bool)
    masks[0, 20:80, 20:50] = masks[1, 20:80, 60:90] = True
    with Image.open(io.BytesIO(draw_part(gray, (0, 0, 100, 100), [masks[0]], masks[1], 0))) as picture:
        pixels = np.asarray(picture).astype(int)
    left, right = pixels[80:240, 65], pixels[80:240, 193]  # inside the outlines' left edges, 3.2 times as large
    assert (np.abs(left - BLUE).sum(axis=1) < 120).all()
    orange = (np.abs(right - ORANGE).sum(axis=1) < 120).mean()
    assert 0.2 < orange < 0.7
    assert np.abs(pixels[160, 112] - 90).max() < 12  # nothing is painted over the object


def test_an_image_that_cannot_be_read_is_named(tmp_path):
    annotations, found = one_of_each()
    truth = write_data(tmp_path, annotations)
    dataset = dataset_in(tmp_path)
    (tmp_path / "images" / "photo 1.png").write_bytes(b"no image")
    page = Page(write_errors_page(tmp_path / "errors", analyse(truth, found), dataset, "Errors"))
    assert page.pictures == [] and page.text.count("(the image cannot be read)") == 8  # one is of a suspicious label


def test_gray_images_and_detections_without_masks(tmp_path):
    annotations, found = one_of_each()
    found = [{name: value for name, value in one.items() if name != "segmentation"} for one in found]
    page, report, _ = errors_in(tmp_path, annotations, found, channels=1)
    assert list(report["errors"]) == ["bbox"] and "segm_AP" not in report["metrics"]
    assert len(page.pictures) == 7


def test_without_errors_the_page_says_so(tmp_path):
    page, report, _ = errors_in(tmp_path, [square(10)], [square(10, score=0.9)])
    assert "There are no errors." in page.text and page.pictures == []
    assert report["metrics"]["segm_AP"] == pytest.approx(1) and report["confusion"]["counts"] == [[1, 0], [0, 0]]


def test_without_objects_and_detections_there_are_no_curves(tmp_path):
    truth = write_data(tmp_path, [])
    page = Page(write_errors_page(tmp_path / "errors", analyse(truth, []), dataset_in(tmp_path), "Errors"))
    assert "There are no errors." in page.text and "Precision over recall" not in page.text
    assert ["masks", *"-" * 6] in page.rows


def dataset_in(folder):
    from keras_maskrcnn.data import CocoDataset

    return CocoDataset(folder / "truth.json", folder / "images")


def test_a_class_that_the_data_lack_is_shown_by_its_id(tmp_path):
    page, report, _ = errors_in(tmp_path, [square(10)], [square(10, category=99, score=0.9)])
    assert [title for title, _ in page.pictures] == ["Wrong class: 99 0.90, labelled dog, IoU 1.00: photo 1.png"]
    assert report["confusion"]["classes"] == ["dog", "99", "background"]
    assert report["confusion"]["counts"] == [[0, 1, 0], [0, 0, 0], [0, 0, 0]]


def test_no_detection_at_all(tmp_path):
    page, report, _ = errors_in(tmp_path, [square(10)], [])
    assert report["errors"]["segm"]["counts"]["missed"] == 1 and len(page.pictures) == 1
    assert report["reliability"]["calibration_error"] is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "evaluate needs a model or detections that one has made. Received: neither."),
        (["m.keras", "--results", "r.json"], "Received: the model m.keras and --results r.json."),
        (["--results", "r.json", "--batch-size", "2"], "--batch-size belongs to a model. Received: --batch-size 2"),
        (["--results", "object.json"], "--results needs a list of COCO results. Received"),
        (["--results", "absent.json"], "absent.json"),
    ],
)
def test_arguments_that_do_not_belong_together_are_named(arguments, message, tmp_path, capsys, monkeypatch):
    write_data(tmp_path, [square(10)])
    (tmp_path / "object.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    data = ["--images", "images", "--annotations", "truth.json"]
    assert cli.main(["evaluate", *arguments, *data]) == cli.MISTAKE
    assert message in capsys.readouterr().err
