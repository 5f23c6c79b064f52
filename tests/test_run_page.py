"""The page of a run: figures from the folder's files, worst class first, nothing of an earlier run."""

import json
import re

import pytest
from PIL import Image

from keras_maskrcnn.config import MaskRCNNConfig
from keras_maskrcnn.pages.run_page import write_run_page

FIGURES = {"AP": 0.5, "AP50": 0.75, "AP75": 0.25, "APs": -1.0, "APm": 0.125, "APl": 0.625}
CLASSES = {"good": 0.9, "absent": -1.0, "<b>bad</b>": 0.1}


def write_run(folder, measured=True):
    """A run folder of three epochs, of which the second is the best."""
    folder.mkdir()
    config = MaskRCNNConfig(num_classes=3, class_names=tuple(CLASSES), min_size=320)
    content = {"model": config.to_dict(), "settings": {"minutes": 6.0, "seed": None}}
    content |= {"backend": "tensorflow", "versions": {"keras": "3.9", "jax": None}}
    (folder / "config.json").write_text(json.dumps(content))
    columns = ["epoch,minutes,learning_rate,loss", "1,1.5,0.001,3.25", "2,3.04,0.0005,2.125", "3,4.55,0.0001,1.0625"]
    if measured:
        figures = ("val_segm_AP,val_segm_AP50,val_bbox_AP", ",,", "0.5,0.75,0.4375", "0.25,0.5,0.375")
        columns = [f"{row},{more}" for row, more in zip(columns, figures, strict=True)]
    (folder / "metrics.csv").write_text("\n".join(columns))
    metrics = {f"{kind}_{name}": value for kind in ("segm", "bbox") for name, value in FIGURES.items()}
    metrics |= {f"{kind}_AP/{name}": value for kind in ("segm", "bbox") for name, value in CLASSES.items()}
    (folder / "metrics.json").write_text(json.dumps(metrics | {"max_detections": 100.0, "images_at_cap": 2.0}))
    (folder / "overlays").mkdir()
    for name in ("01-photo.png", "02-a'b.png"):
        Image.new("RGB", (4, 4)).save(folder / "overlays" / name)
    Image.new("RGB", (4, 4)).save(folder / "curves.png")
    return folder


def cells(page):
    """The rows of the tables, as lists of text."""
    rows = [re.split(r"<t[dh][^>]*>", row) for row in re.findall(r"<tr>(.*?)(?=<tr>|</table>)", page)]
    return [[re.sub(r"<[^>]*>", "", cell) for cell in row[1:]] for row in rows]


def test_a_run_on_one_page(tmp_path):
    page = write_run_page(write_run(tmp_path / "run")).read_text()
    rows = cells(page)
    assert ["masks", "0.500", "0.750", "0.250", "-", "0.125", "0.625"] in rows
    names = [row[0] for row in rows if row[0] in ("good", "absent", "&lt;b&gt;bad&lt;/b&gt;")]
    assert names == ["&lt;b&gt;bad&lt;/b&gt;", "good", "absent"]  # worst first, without ground truth last
    tiles = dict(re.findall(r"<b>([^<]*)</b>([^<]*)</div>", page))
    assert tiles == {
        "3": "epochs", "4.5": "minutes", "1.06": "loss", "0.500": "mask AP", "0.750": "mask AP50", "0.438": "box AP",
        "2": "best epoch, kept",
    }  # fmt: skip
    assert ["minutes", "6.0"] in rows and ["seed", "None"] not in rows and ["keras", "3.9"] in rows
    changed = cells(page.split("that are not the default")[1].split("</details>")[0])
    assert [row[0] for row in changed] == ["num_classes", "class_names", "category_ids", "min_size"]
    assert ["2", "3.04", "0.0005", "2.125", "0.5", "0.75", "0.4375"] in rows
    assert "2 images have as many detections as max_detections allows" in page
    assert f"keras-maskrcnn predict {tmp_path / 'run' / 'best.keras'} photo.jpg" in page


def test_pictures_are_the_folders_own(tmp_path):
    page = write_run_page(write_run(tmp_path / "run")).read_text()
    sources = [name or bare for name, bare in re.findall(r"<img src=(?:'([^']*)'|(\S+))", page)]
    assert sources == ["curves.png", "overlays/01-photo.png", "overlays/02-a&#x27;b.png"]
    assert "http" not in page.replace("http-equiv", "")


def test_a_run_without_validation_shows_no_figures_of_an_earlier_one(tmp_path):
    page = write_run_page(write_run(tmp_path / "run", measured=False)).read_text()
    assert "Not measured" in page and "overlays" not in page and "mask AP" not in page
    assert f"{tmp_path / 'run' / 'last.keras'}" in page and "best.keras" not in page


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError):
        write_run_page(tmp_path)
