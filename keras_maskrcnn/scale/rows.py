"""The computation of every engine: a batch of rows in, a batch of rows out.

In: rows with the images' paths, bytes or pixels. Out: a row for each image with its instances, or with what is wrong
with it. Plain numbers, texts and lists, so that Ray Data, Spark and Beam carry them. Called by `on_ray.py` and users.
"""

import functools
import importlib
import json
import sys

import numpy as np

COLUMNS = {  # of the rows that come out -> type, as Spark writes it
    "path": "string",
    "height": "bigint",
    "width": "bigint",
    "error": "string",
    "boxes": "array<array<double>>",
    "scores": "array<double>",
    "category_ids": "array<bigint>",
    "class_names": "array<string>",
    "segmentations": "array<string>",
    "other": "string",
}
_OF_INSTANCES = ("image_id", "bbox", "score", "category_id", "segmentation")  # of a COCO result; the rest is `other`


class RowPredictor:
    """Finds the instances in a batch of rows. The same class runs on Ray Data, in Spark and in Beam.

    Rows that come in have a column `path`, the image's name, and may have

        bytes    the encoded file. Without it the image is read from its path or address
        pixels   bytes of decoded pixels, with `shape` (H, W, C) and `dtype`, as `sources.decoded` gives
        error    what is wrong with the image; such rows are handed on

    Rows that come out are in the same order and have the columns of `COLUMNS`:

        path           as it came in
        height, width  image pixels; None if the image cannot be read
        error          None, or why it cannot be read; then the lists are empty
        boxes          list of [x, y, width, height], image pixels, by descending score
        scores, category_ids, class_names     lists, one entry for each box
        segmentations  list of str, COCO's compressed run lengths (`counts`); their `size` is [height, width]
        other          None, or JSON: a list with what further branches of the model found

    Args:
        model: `.keras` file, run folder or SavedModel, as `open_predictor` takes it; or a function of no argument that
            returns a predictor.
        score_threshold, tile, overlap: as for `Predictor`.
        batch_size: int, most images that the model sees at once; None: 8 on a GPU or TPU, 1 on CPUs.
    """

    SPARK_SCHEMA = ", ".join(f"{name} {kind}" for name, kind in COLUMNS.items())

    def __init__(self, model, score_threshold=None, tile=None, overlap=0.2, batch_size=None):
        _need_package()
        if not callable(model):
            from keras_maskrcnn.scale.models import open_predictor

            model = functools.partial(open_predictor, model, score_threshold, tile, overlap)
        self.predictor = model()
        self.batch_size = batch_size

    def __call__(self, rows):
        """Detect in a batch.

        Args:
            rows: dict of columns, list of dicts, pandas.DataFrame or pyarrow.Table.

        Returns:
            The rows that come out, as the same kind of table.
        """
        columns = as_columns(rows)
        errors = columns.get("error") or [None] * len(columns["path"])
        sources = [source_of(columns, number) for number in range(len(errors))]
        todo = [number for number, error in enumerate(errors) if not error]
        found = [faulty_row(path, error) for path, error in zip(columns["path"], errors, strict=True)]
        answers = self.predictor.stream([sources[number] for number in todo], self._row, self.batch_size)
        for number, answer in zip(todo, answers, strict=True):
            path = columns["path"][number]
            if answer.error is None:
                found[number] = {"path": path, **answer.result}
            else:
                found[number] = faulty_row(path, told(answer.error, path, sources[number]))
        return like(rows, {name: [row[name] for row in found] for name in COLUMNS})

    def _row(self, index, image, found):
        """The columns of an image but `path`. Called in threads."""
        del index
        results = found.to_coco(0)
        other = [{key: value for key, value in one.items() if key not in _OF_INSTANCES} for one in results]
        return {
            "height": int(image.shape[0]),
            "width": int(image.shape[1]),
            "error": None,
            "boxes": [one["bbox"] for one in results],
            "scores": [one["score"] for one in results],
            "category_ids": [one["category_id"] for one in results],
            "class_names": [str(found.class_names[label]) for label in found.labels],
            "segmentations": [one["segmentation"]["counts"] for one in results if "segmentation" in one],
            "other": json.dumps(other) if any(other) else None,
        }


def _need_package():
    """Execute the package's `__init__`, if this process has registered the package without it: Keras' classes."""
    package = sys.modules["keras_maskrcnn"]
    if not hasattr(package, "__version__"):
        importlib.import_module("keras_maskrcnn_launcher").prepare_models()


# Rows that come in -----------------------------------------------------------------------------------------


def source_of(columns, number):
    """The image of a row: an array, bytes, or its path.

    Args:
        columns: dict of lists. number: of the row.
    """
    data, pixels = (columns[name][number] if name in columns else None for name in ("bytes", "pixels"))
    if pixels is not None:
        shape = tuple(int(side) for side in columns["shape"][number])
        return np.frombuffer(pixels, columns["dtype"][number]).reshape(shape)
    return columns["path"][number] if data is None else bytes(data)


def as_columns(rows):
    """A table of any kind as a dict of lists.

    Args:
        rows: dict of columns, list of dicts, pandas.DataFrame or pyarrow.Table.

    Raises:
        ValueError: there is no column `path`.
    """
    if isinstance(rows, (list, tuple)):
        names = dict.fromkeys(name for row in rows for name in row)
        columns = {name: [row.get(name) for row in rows] for name in names} if rows else {"path": []}
    elif hasattr(rows, "to_pydict"):
        columns = rows.to_pydict()
    else:
        columns = {name: [_given(value) for value in rows[name]] for name in rows}
    if "path" not in columns:
        raise ValueError(f"Rows need a column `path`. Received the columns {list(columns)}. Rename the one with names.")
    return columns


def _given(value):
    """A value of a column, None if it is missing: pandas writes NaN there."""
    return None if isinstance(value, float) and value != value else value


# Rows that come out ----------------------------------------------------------------------------------------


def faulty_row(path, error):
    """The row of an image that cannot be read."""
    lists = {name: [] for name, kind in COLUMNS.items() if kind.startswith("array")}
    return {name: None for name in COLUMNS} | lists | {"path": path, "error": error}


def told(error, path, source):
    """What is wrong with an image; bytes without a name get its path."""
    text = str(error) or type(error).__name__
    return text.replace(f"<{len(source)} bytes>", path) if isinstance(source, bytes) else text


def like(rows, columns):
    """Columns as a table of the kind of `rows`."""
    if isinstance(rows, (list, tuple)):
        return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    if hasattr(rows, "to_pydict"):
        return type(rows).from_pydict(columns, arrow_schema())
    return columns if isinstance(rows, dict) else type(rows)(columns)


def arrow_schema():
    """`COLUMNS` as a pyarrow.Schema."""
    import pyarrow

    simple = {"string": pyarrow.string(), "bigint": pyarrow.int64(), "double": pyarrow.float64()}

    def arrow(kind):
        return pyarrow.list_(arrow(kind[6:-1])) if kind.startswith("array<") else simple[kind]

    return pyarrow.schema([(name, arrow(kind)) for name, kind in COLUMNS.items()])
