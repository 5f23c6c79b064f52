"""Read a table of text (.csv): its columns and rows, with their line numbers. Called by the readers of CSV files."""

import csv
import io
import itertools

from keras_maskrcnn.data.limits import CSV_CELL
from keras_maskrcnn.data.readers.folders import read_text

_DELIMITERS = ",;\t"


def read_header(path):
    """The names of a table's columns."""
    rows = _read_rows(path, None, 1)
    return [name.strip() for name in rows[0][1]] if rows else []


def read_table(path, delimiter=None, digest=None):
    """The rows of a table.

    Args:
        path: path of a UTF-8 file.
        delimiter: str; None takes the commonest of comma, semicolon and tab in the first line.
        digest: object with `update`, given the file's bytes; or None.

    Returns:
        (columns: dict from name to position, rows: list of (line number, list of text)). Rows are as long as the
        header: cells that are missing are "". Of several columns with one name the last one counts.

    Raises:
        ValueError: the file is missing, no UTF-8 or no table.
    """
    rows = _read_rows(path, delimiter, digest=digest)
    names = [name.strip() for name in rows[0][1]] if rows else []
    cells = [(line, row + [""] * (len(names) - len(row))) for line, row in rows[1:] if row]
    return {name: position for position, name in enumerate(names)}, cells


def _read_rows(path, delimiter, most=None, digest=None):
    """[(line number, cells)], the header included; `most` limits their number."""
    text = read_text(path, digest).lstrip("#")  # VIA begins its first line with #
    first = text.split("\n", 1)[0]
    reader = csv.reader(io.StringIO(text), delimiter=delimiter or max(_DELIMITERS, key=first.count))
    before = csv.field_size_limit(CSV_CELL)  # Python's 131072 characters are too few for polygons
    try:
        return [(reader.line_num, row) for row in itertools.islice(reader, most)]
    except csv.Error as error:
        raise ValueError(
            f"A table must be CSV. Received {path}: line {reader.line_num}: {error}. Look for a quotation mark that "
            "is not closed, and for zero bytes."
        ) from error
    finally:
        csv.field_size_limit(before)
