"""The results of a large run: Parquet files in a folder or at an address, each written whole or not at all.

    part-000001.parquet   rows of `rows.COLUMNS`, one for each image, in any order
    detections.json       COCO results, and images.json with the images and categories, if they are asked for

What is in a part is finished: a run that starts again with the same folder leaves these images out. One process writes,
so that no row is there twice, whatever its workers do. Called by `on_ray.py`.
"""

import contextlib
import hashlib
import json
import pathlib
import tempfile
import time

from keras_maskrcnn.host.addresses import as_path, held_by, is_address, open_file
from keras_maskrcnn.host.files import write_atomically
from keras_maskrcnn.host.locks import locked_folder
from keras_maskrcnn.host.messages import argument

RESULTS, IMAGES = "detections.json", "images.json"
_SETTINGS = b"keras_maskrcnn"  # key of a part's metadata
_MOST_ROWS, _SECONDS = 5000, 30  # of a part: what a killed run loses at most
_AT_ONCE = 1024  # rows


class ResultStore:
    """Finished rows, and more of them (a context manager).

    Args:
        place: folder or address, made if it is missing.
        settings: dict of what the results depend on, such as the model. A place holds results of the same ones only.

    Attributes:
        images, instances: int, rows and what was found, those of earlier runs included.
        faulty: list of (path, error), at most `MOST_TOLD`; num_faulty: int.
    """

    MOST_TOLD = 20

    def __init__(self, place, settings):
        self.place = as_path(place)
        self.settings = settings
        self.images = self.instances = self.num_faulty = 0
        self.faulty = []
        self._seen = set()
        self._waiting, self._count, self._since = [], 0, time.monotonic()
        self._stack = contextlib.ExitStack()

    def __enter__(self):
        if not is_address(self.place):
            self._stack.enter_context(locked_folder(self.place))
        try:
            for part in self.parts():
                self._remember(part)
        except BaseException:
            self._stack.close()
            raise
        self._next = 1 + max((_number(part.name) for part in self.parts()), default=0)
        return self

    def __exit__(self, *error):
        try:
            self.flush()
        finally:
            self._stack.close()

    def parts(self):
        """Paths of the parts, in order."""
        # A new RemotePath asks the server anew.
        names = (
            held_by(as_path(str(self.place)))
            if is_address(self.place)
            else [path.name for path in self.place.glob("*.parquet")]
        )
        return [self.place / name for name in sorted(names) if _number(name)]

    def is_new(self, path):
        """Whether the image of this `path` is neither finished nor asked about before."""
        key = hashlib.blake2b(path.encode(), digest_size=16).digest()
        if key in self._seen:
            return False
        self._seen.add(key)
        return True

    def add(self, table):
        """Add finished rows, a pyarrow.Table; they are written some time later, at the latest at the end."""
        self._count_in(table)
        self._waiting.append(table)
        self._count += len(table)
        if self._count >= _MOST_ROWS or time.monotonic() - self._since > _SECONDS:
            self.flush()

    def flush(self):
        """Write what was added."""
        import pyarrow
        import pyarrow.parquet

        if self._waiting:
            table = pyarrow.concat_tables(self._waiting)
            table = table.replace_schema_metadata({_SETTINGS: json.dumps(self.settings)})
            self._put(f"part-{self._next:06d}.parquet", lambda place: pyarrow.parquet.write_table(table, place))
            self._next += 1
        self._waiting, self._count, self._since = [], 0, time.monotonic()

    def _put(self, name, write):
        """Write a file, as a whole, here or at an address. `write`: function of a pathlib.Path."""
        if not is_address(self.place):
            write_atomically(self.place / name, write)
            return
        with tempfile.TemporaryDirectory(prefix="keras-maskrcnn-") as folder:
            write(pathlib.Path(folder, name))
            (self.place / name).write_bytes(pathlib.Path(folder, name).read_bytes())

    def _remember(self, part):
        """Take the images of a part for finished.

        Raises:
            ValueError: it is damaged, or of other settings.
        """
        import pyarrow

        try:
            for table in _tables(part, ("path", "error", "scores")):
                self._check(table.schema.metadata, part)
                self._count_in(table)
                for path in table["path"].to_pylist():
                    self.is_new(path)
        except (pyarrow.ArrowException, OSError, KeyError) as error:
            raise ValueError(
                f"The results of an earlier run must be whole. Received {part}: {error}. "
                "Remove this file: its images are done again."
            ) from error

    def _check(self, metadata, part):
        found = json.loads((metadata or {}).get(_SETTINGS, b"{}"))
        different = [key for key in self.settings if found.get(key) != self.settings[key]]
        if different:
            raise ValueError(
                f"A folder holds the results of one model with the same options. Received {part}, where "
                + "; ".join(f"{argument(key)} is {found.get(key)}, not {self.settings[key]}" for key in different)
                + f". Write to another folder ({argument('output')}), or remove the earlier results."
            )

    def _count_in(self, table):
        import pyarrow.compute

        self.images += len(table)
        self.instances += pyarrow.compute.sum(pyarrow.compute.list_value_length(table["scores"])).as_py() or 0
        wrong = table.filter(pyarrow.compute.is_valid(table["error"]))
        self.num_faulty += len(wrong)
        for row in wrong.slice(0, max(0, self.MOST_TOLD - len(self.faulty))).select(["path", "error"]).to_pylist():
            self.faulty.append((row["path"], row["error"]))

    # COCO ------------------------------------------------------------------------------------------------------

    def write_coco(self):
        """Write detections.json and images.json of all parts; images are numbered from 1. Few rows are in memory."""
        self.flush()
        categories = {}
        self._put(RESULTS, lambda place: _write_list(place, self._results(categories)))
        found = [{"id": key, "name": categories[key]} for key in sorted(categories)]
        head = f'{{"info": {{}}, "annotations": [], "categories": {json.dumps(found)}, "images": '
        self._put(IMAGES, lambda place: _write_list(place, self._entries(), head, "}"))

    def _rows(self):
        """Yield (image id, row) of the images that could be read."""
        image_id = 0
        for part in self.parts():
            for table in _tables(part):
                for row in table.to_pylist():
                    if row["error"] is None:
                        image_id += 1
                        yield image_id, row

    def _entries(self):
        for image_id, row in self._rows():
            yield {"id": image_id, "file_name": row["path"], "height": row["height"], "width": row["width"]}

    def _results(self, categories):
        for image_id, row in self._rows():
            categories.update(zip(row["category_ids"], row["class_names"], strict=True))
            yield from coco_results(row, image_id)


def coco_results(row, image_id):
    """COCO results of one row, as `FoundInstances.to_coco` gives them, with the `file` of each.

    Args:
        row: dict as of `rows.COLUMNS`. image_id: int.
    """
    size = [row["height"], row["width"]]
    other = json.loads(row["other"]) if row["other"] else [{}] * len(row["scores"])
    codes = row["segmentations"]
    for k, more in enumerate(other):
        mask = {"segmentation": {"size": size, "counts": codes[k]}} if codes else {}
        yield {
            "image_id": image_id,
            "category_id": row["category_ids"][k],
            "bbox": row["boxes"][k],
            "score": row["scores"][k],
            **mask,
            **more,
            "file": row["path"],
        }


def _write_list(path, items, head="", tail=""):
    """Write a JSON list one entry a line, between two texts."""
    with open(path, "w", encoding="utf-8") as file:
        file.write(f"{head}[")
        for number, item in enumerate(items):
            file.write(("," if number else "") + "\n" + json.dumps(item))
        file.write(f"\n]{tail}\n")


def _tables(part, columns=None):
    """Yield the rows of a part, some at a time, as pyarrow.Table."""
    import pyarrow
    import pyarrow.parquet

    with open_file(part) as file:
        found = pyarrow.parquet.ParquetFile(file)
        metadata = found.schema_arrow.metadata
        if not found.metadata.num_rows:
            return
        for batch in found.iter_batches(_AT_ONCE, columns=columns):
            yield pyarrow.Table.from_batches([batch]).replace_schema_metadata(metadata)


def _number(name):
    """The number of a part by its name; 0 of any other file."""
    stem, _, ending = name.partition(".")
    digits = stem.removeprefix("part-")
    return int(digits) if ending == "parquet" and stem.startswith("part-") and digits.isdigit() else 0
