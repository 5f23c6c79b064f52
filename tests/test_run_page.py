"""The page of a run: figures from the folder's files, worst class first, nothing of an earlier run."""

import html.parser
import json

import pytest
from PIL import Image

from keras_maskrcnn.config import MaskRCNNConfig
from keras_maskrcnn.evaluation.figures import main_figure
from keras_maskrcnn.pages.run_page import write_run_page

FIGURES = {"AP": 0.5, "AP50": 0.75, "AP75": 0.25, "APs": -1.0, "APm": 0.125, "APl": 0.625}
BAD = "<script>alert('bad')</script>"
CLASSES = {"good": 0.9, "absent": -1.0, BAD: 0.1}


def write_run(folder, measured=("segm", "bbox")):
    """A run folder of three epochs, of which the second is the best."""
    folder.mkdir()
    config = MaskRCNNConfig(num_classes=3, class_names=tuple(CLASSES), min_size=320)
    content = {"model": config.to_dict(), "settings": {"minutes": 6.0, "seed": None}}
    content |= {"backend": "tensorflow", "versions": {"keras": "3.9", "jax": None}}
    (folder / "config.json").write_text(json.dumps(content))
    columns = ["epoch,minutes,learning_rate,loss", "1,1.5,0.001,3.25", "2,3.04,0.0005,2.125", "3,4.55,0.0001,1.0625"]
    figures = {"segm": ("val_segm_AP,val_segm_AP50", ",", "0.5,0.75", "0.25,0.5")}
    figures["bbox"] = ("val_bbox_AP,val_bbox_AP50", ",", "0.4375,0.625", "0.375,0.5")
    for kind in measured:
        columns = [f"{row},{more}" for row, more in zip(columns, figures[kind], strict=True)]
    (folder / "metrics.csv").write_text("\n".join(columns))
    metrics = {f"{kind}_{name}": value for kind in measured for name, value in FIGURES.items()}
    metrics |= {f"{kind}_AP/{name}": value for kind in measured for name, value in CLASSES.items()}
    (folder / "metrics.json").write_text(json.dumps(metrics | {"max_detections": 100.0, "images_at_cap": 2.0}))
    (folder / "overlays").mkdir()
    for name in ("01-photo.png", "02-a'b#c.png"):
        Image.new("RGB", (4, 4)).save(folder / "overlays" / name)
    Image.new("RGB", (4, 4)).save(folder / "curves.png")
    return folder


class Reader(html.parser.HTMLParser):
    """What a browser would show: rows of cells, tiles, sources of pictures, text; and the tags that there are."""

    def __init__(self, page):
        super().__init__()
        self.rows, self.tiles, self.pictures, self.text, self.tags = [], [], [], "", set()
        self.open = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.tags.add(tag)
        if tag not in ("meta", "img"):
            self.open.append((tag, attributes.get("class")))
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")
        elif attributes.get("class") == "tile":
            self.tiles.append(["", ""])
        elif tag == "img":
            self.pictures.append(attributes["src"])

    def handle_endtag(self, tag):
        assert self.open.pop()[0] == tag  # every element is closed where it was opened

    def handle_data(self, data):
        self.text += data
        if any(tag in ("td", "th") for tag, _ in self.open):
            self.rows[-1][-1] += data
        if any(name == "tile" for _, name in self.open):
            self.tiles[-1][self.open[-1][0] != "b"] += data.strip()


def read_page(folder):
    return Reader(write_run_page(folder).read_text(encoding="utf-8"))


def test_a_run_on_one_page(tmp_path):
    page = read_page(write_run(tmp_path / "run"))
    assert ["masks", "0.500", "0.750", "0.250", "-", "0.125", "0.625"] in page.rows
    classes = page.rows[page.rows.index(["class", "mask AP", "box AP", ""]) + 1 :][:3]
    # The worst class first, those without ground truth last.
    assert classes == [[BAD, "0.100", "0.100", ""], ["good", "0.900", "0.900", ""], ["absent", "-", "-", ""]]
    assert page.tiles == [
        ["3", "epochs"], ["4.5", "minutes"], ["1.06", "loss"], ["0.500", "mask AP"], ["0.750", "mask AP50"],
        ["0.438", "box AP"], ["2", "best epoch, kept"],
    ]  # fmt: skip
    assert ["minutes", "6.0"] in page.rows and ["seed", "None"] not in page.rows and ["keras", "3.9"] in page.rows
    names = [row[0] for row in page.rows]
    # The table of all numbers has every name; the one before it those that are not the default.
    twice = [name for name in dict.fromkeys(names) if names.count(name) == 2]
    assert twice == ["num_classes", "class_names", "category_ids", "min_size"] and names.count("max_size") == 1
    assert ["2", "3.04", "0.0005", "2.125", "0.5", "0.75", "0.4375", "0.625"] in page.rows
    assert ["1", "1.5", "0.001", "3.25", "", "", "", ""] in page.rows
    assert "2 images have as many detections as max_detections allows" in page.text
    assert f"keras-maskrcnn predict {tmp_path / 'run' / 'best.keras'} photo.jpg" in page.text


def test_pictures_are_the_folders_own(tmp_path):
    folder = write_run(tmp_path / "run")
    page = read_page(folder)
    assert page.pictures == ["curves.png", "overlays/01-photo.png", "overlays/02-a%27b%23c.png"]
    assert "http" not in (folder / "index.html").read_text()


def test_nothing_that_a_user_named_is_taken_for_html(tmp_path):
    folder = write_run(tmp_path / "<script>run")
    config = json.loads((folder / "config.json").read_text())
    config["settings"] = {"<script>option": "<script>value</script>", "images": "a & b"}
    (folder / "config.json").write_text(json.dumps(config))
    Image.new("RGB", (4, 4)).save(folder / "overlays" / '03-"><script>.png')
    page = read_page(folder)
    assert "script" not in page.tags and "b" in page.tags
    assert ["<script>option", "<script>value</script>"] in page.rows and ["images", "a & b"] in page.rows
    assert "Training run: <script>run" in page.text
    assert page.pictures[-1] == "overlays/03-%22%3E%3Cscript%3E.png"
    # The commands can be pasted into a shell, and into Python.
    assert f"predict '{folder / 'best.keras'}' photo.jpg" in page.text
    assert f"load_model('{folder / 'best.keras'}', compile=False)" in page.text


def test_a_run_without_validation_shows_no_figures_of_an_earlier_one(tmp_path):
    page = read_page(write_run(tmp_path / "run", measured=()))
    assert "Not measured" in page.text and page.pictures == ["curves.png"] and "mask AP" not in page.text
    assert f"{tmp_path / 'run' / 'last.keras'}" in page.text and "best.keras" not in page.text
    assert page.tiles == [["3", "epochs"], ["4.5", "minutes"], ["1.06", "loss"]]


def test_a_model_without_masks_is_judged_by_its_boxes(tmp_path):
    page = read_page(write_run(tmp_path / "run", measured=("bbox",)))
    assert page.tiles[3:] == [["0.438", "box AP"], ["0.625", "box AP50"], ["2", "best epoch, kept"]]
    assert ["class", "box AP", ""] in page.rows and [BAD, "0.100", ""] in page.rows
    assert ["boxes", "0.500", "0.750", "0.250", "-", "0.125", "0.625"] in page.rows
    assert not [row for row in page.rows if row[0] == "masks"] and "mask AP" not in page.text


def test_the_main_figure_is_that_of_masks_where_there_are_any():
    assert main_figure({"loss": 1.0, "val_bbox_AP": 0.5, "val_segm_AP": 0.25}) == "val_segm_AP"
    assert main_figure({"val_bbox_AP": 0.5, "val_bbox_AP50": 0.75}) == "val_bbox_AP"
    assert main_figure(["bbox_AP", "segm_AP", "segm_AP/cat"]) == "segm_AP"
    assert main_figure({"bbox_AP": -1.0}) == "bbox_AP" and main_figure({"segm_AP50": 0.5}) is None


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(ValueError, match="config.json: it cannot be read"):
        write_run_page(tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("config.json", b"[1]", "it holds no JSON object"),
        ("config.json", b'{"settings": 3}', "`settings` is no dict"),
        ("config.json", b"\xff\xfe", "it cannot be read"),
        ("config.json", b"[" * 100_000, "it is no JSON"),
        ("metrics.csv", b"epoch,minutes\n", "it has no epoch"),
        ("metrics.csv", b"epoch,minutes\n1,two\n", "a cell is no number"),
        ("metrics.csv", b"epoch,loss\n1,2\n", "a row has no `epoch` or no `minutes`"),
        ("metrics.csv", b"epoch,minutes\n1,2,3\n", "a cell is no number"),
        ("metrics.json", b'{"segm_AP": "high"}', "`segm_AP` is no number"),
        pytest.param(
            "metrics.json", b'{"segm_AP": 1' + b"0" * 400 + b"}", "`segm_AP` is no number", id="beyond floats"
        ),
        ("metrics.json", b'{"segm_AP": 0.5}', "it has no AP, or no `max_detections`"),
        ("metrics.json", None, "it cannot be read"),
    ],
)
def test_damaged_files_of_a_run_are_named(tmp_path, name, content, problem):
    run_dir = write_run(tmp_path / "run")
    (run_dir / name).unlink()
    if content is not None:
        (run_dir / name).write_bytes(content)
    with pytest.raises(ValueError) as error:
        write_run_page(run_dir)
    assert f"Received {run_dir / name}: {problem}" in str(error.value) and "Restore the file" in str(error.value)
    assert not (run_dir / "index.html").exists()


def test_a_report_in_the_folder_is_linked(tmp_path):
    run = write_run(tmp_path / "run")
    assert "Why it errs" not in write_run_page(run).read_text()
    (run / "errors #1").mkdir()
    (run / "errors #1" / "suspicious.json").write_text("{}")
    assert '<a href="errors%20%231/index.html">Why it errs: errors #1</a>' in write_run_page(run).read_text()
