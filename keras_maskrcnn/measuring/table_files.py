"""A table of measurements as a CSV or Parquet file, for any number of images in little memory.

Rows wait in a temporary file beside the table, because its columns (the channels) are those of all images. At the end,
also after an error, the table takes the place of an older one. Called by the command line.
"""

import contextlib
import csv
import importlib.util
import itertools
import json
import pathlib

from keras_maskrcnn.host.files import scratch_folder, write_atomically
from keras_maskrcnn.host.locks import locked_file
from keras_maskrcnn.host.messages import argument
from keras_maskrcnn.measuring.measurements import NAMES, SHAPE

ENDINGS = (".csv", ".parquet")
_KINDS = {"image": "string", "object": "int64", "class": "string", "touches_border": "bool"}  # others: float64
_BLOCK = 10_000  # rows of a Parquet file that are in memory


def check_table_file(path):
    """Raise ValueError unless a table can be written there by its ending and what is installed."""
    ending = pathlib.Path(path).suffix.lower()
    if ending not in ENDINGS:
        raise ValueError(
            f"{argument('measure')} must name a file that ends in {' or '.join(ENDINGS)}. Received: {path}. "
            "Choose .csv for spreadsheets."
        )
    if ending == ".parquet" and importlib.util.find_spec("pyarrow") is None:
        raise ValueError(
            f"Writing {path} needs pyarrow. Received: it is not installed. "
            "Install it (pip install 'keras-maskrcnn[parquet]'), or choose a .csv file."
        )


class TableFile:
    """Writes a table of measurements (a context manager).

    Args:
        path: file that ends in .csv or .parquet; its folder is made if it is missing.

    Raises:
        ValueError: another ending, or pyarrow is missing.
    """

    def __init__(self, path):
        check_table_file(path)
        self.path = pathlib.Path(path)
        self.num_rows = 0
        self._columns = dict.fromkeys(NAMES + SHAPE)

    def __enter__(self):
        with contextlib.ExitStack() as stack:
            stack.enter_context(locked_file(self.path))
            self._place = stack.enter_context(scratch_folder(self.path.parent)) / "rows.jsonl"
            self._rows = stack.enter_context(open(self._place, "w", encoding="utf-8"))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *error):
        with self._stack:
            self._rows.flush()
            write_atomically(self.path, self._write)

    def add(self, rows):
        """Add rows, dicts as `measured_rows` makes them."""
        for row in rows:
            self._columns |= dict.fromkeys(row)
            self._rows.write(json.dumps(row) + "\n")
            self.num_rows += 1

    def add_csv(self, path):
        """Add the rows of a table that `write_csv` or `gigapixels/` has written."""
        with open(path, encoding="utf-8", newline="") as file:
            self.add({name: _value(name, cell) for name, cell in row.items()} for row in csv.DictReader(file))

    def _write(self, place):
        writers = {".csv": write_csv, ".parquet": write_parquet}
        with open(self._place, encoding="utf-8") as lines:
            writers[self.path.suffix.lower()](place, map(json.loads, lines), tuple(self._columns))


def write_csv(place, rows, columns):
    """Write rows (dicts) as CSV, UTF-8: ten digits, `true` and `false`, nothing where there is no number."""
    with open(place, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        for row in rows:
            writer.writerow(csv_cells(row, columns))


def csv_cells(row, columns):
    """The cells of a row of a CSV file: list of str."""
    return [_cell(row.get(name)) for name in columns]


def _value(name, cell):
    """What `_cell` has made a cell of."""
    if cell == "":
        return "" if name == "image" else None
    readers = {"string": str, "int64": int, "bool": "true".__eq__}
    return readers.get(_KINDS.get(name), float)(cell)


def _cell(value):
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    return f"{value:.10g}" if isinstance(value, float) else str(value)


def write_parquet(place, rows, columns):
    """Write rows (dicts) as Parquet, a block at a time."""
    import pyarrow
    from pyarrow import parquet

    types = {"string": pyarrow.string(), "int64": pyarrow.int64(), "bool": pyarrow.bool_()}
    schema = pyarrow.schema([(name, types.get(_KINDS.get(name), pyarrow.float64())) for name in columns])
    rows = iter(rows)
    with parquet.ParquetWriter(place, schema) as writer:
        while block := list(itertools.islice(rows, _BLOCK)):
            writer.write_table(pyarrow.Table.from_pylist(block, schema=schema))
