"""Images and a model without weights for the tests of large runs. Other processes import it, too."""

import pathlib

import numpy as np
from known_answers import ColourModel, small_config
from PIL import Image

NAMES = ("circle", "square", "triangle")


def colour_predictor():
    """A predictor whose answer depends on the colour of an image's first pixel."""
    from keras_maskrcnn.inference.predictor import Predictor

    return Predictor(ColourModel(small_config(3, class_names=NAMES, category_ids=(3, 5, 8), max_detections=4)))


def make_images(folder, count, first=0):
    """PNG files in two folders, each of another colour and one of three sizes; every tenth is damaged. List of str."""
    paths = []
    for number in range(first, first + count):
        path = pathlib.Path(folder, f"part {number % 2}", f"{number:05d}.png")
        path.parent.mkdir(parents=True, exist_ok=True)
        size = ((40, 60), (60, 40), (48, 48))[number % 3]
        Image.fromarray(np.full((*size, 3), number % 250, np.uint8)).save(path)
        if number % 10 == 9:
            path.write_bytes(path.read_bytes()[:30])
        paths.append(str(path))
    return paths


def expected_row(predictor, path):
    """(error or None, COCO results, height and width) of one image, by a call of the predictor."""
    try:
        found = predictor(path)
    except ValueError as error:
        return str(error), [], (None, None)
    return None, found.to_coco(0), found.image_size


def check_rows(rows, paths, predictor):
    """Each path has one row, and it is what the predictor finds. `rows`: list of dicts."""
    from keras_maskrcnn.scale.store import coco_results

    assert sorted(row["path"] for row in rows) == sorted(paths)
    for row in rows:
        error, results, size = expected_row(predictor, row["path"])
        assert row["error"] == error and (row["height"], row["width"]) == size
        found = [{key: one[key] for key in one if key != "file"} for one in coco_results(row, 0)] if not error else []
        assert found == results and [NAMES[(3, 5, 8).index(k)] for k in row["category_ids"]] == row["class_names"]


def read_part(part):
    """The rows of a Parquet file of results, here or at an address: list of dict."""
    import pyarrow.parquet

    from keras_maskrcnn.host.addresses import open_file

    with open_file(part) as file:
        return pyarrow.parquet.read_table(file).to_pylist()
