"""Where the images of a large run are: files, folders, lists and Parquet tables, here or at addresses.

In: what the user names. Out: units of work, each some images that one task reads; and the rows of a unit for
`RowPredictor`. A unit is plain data, so that any engine can send it to another machine. Imports no framework. Called by
`on_ray.py`.
"""

import concurrent.futures
import dataclasses
import os

from keras_maskrcnn.data.readers.folders import read_text, walk_images
from keras_maskrcnn.host.addresses import as_path, is_address, open_file
from keras_maskrcnn.host.messages import argument

LISTS, TABLES = (".txt",), (".parquet", ".pq")
_ROWS = 16  # of a unit, in memory at a time, and read at a time
_LARGE = 2**26  # bytes: larger files on a disk are not carried around; the model's process reads them in place
_NO_FILE = (FileNotFoundError, IsADirectoryError, NotADirectoryError, PermissionError)


@dataclasses.dataclass(frozen=True)
class Files:
    """A unit of image files. Args: paths: tuple of str, paths and addresses."""

    paths: tuple

    def __len__(self):
        return len(self.paths)

    def rows(self):
        """Yield dicts of columns for RowPredictor: path, bytes, error."""
        with concurrent.futures.ThreadPoolExecutor(_ROWS) as pool:
            for at in range(0, len(self.paths), _ROWS):
                paths = self.paths[at : at + _ROWS]
                read = list(pool.map(_read, paths))
                yield {
                    "path": [name_of(path) for path in paths],
                    "bytes": [data for data, _ in read],
                    "error": [error for _, error in read],
                }


@dataclasses.dataclass(frozen=True)
class Table:
    """A unit of the rows in a row group of a Parquet file.

    Args:
        path: str, path or address. group: int. column: str, of the images: bytes, or structures with `bytes`.
        first: int, of the group's first row in the file.
        wanted: tuple of int, rows of the group.
    """

    path: str
    group: int
    column: str
    first: int
    wanted: tuple

    def __len__(self):
        return len(self.wanted)

    def rows(self):
        """Yield dicts of columns for RowPredictor: path, bytes, error. `path` is FILE#ROW."""
        import pyarrow.parquet

        wanted, row = set(self.wanted), 0
        with open_file(self.path) as file:
            table = pyarrow.parquet.ParquetFile(file)
            for batch in table.iter_batches(_ROWS, row_groups=[self.group], columns=[self.column]):
                chosen = [k for k in range(len(batch)) if row + k in wanted]
                images = [_bytes_of(batch.column(0)[k].as_py()) for k in chosen]
                if chosen:
                    yield {
                        "path": [f"{name_of(self.path)}#{self.first + row + k}" for k in chosen],
                        "bytes": images,
                        "error": [None if data is not None else "the row holds no image" for data in images],
                    }
                row += len(batch)


def name_of(path):
    """A path as text that every table holds: bytes that are no UTF-8 are escaped."""
    return str(path).encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _read(path):
    """(bytes or None, error or None) of a file. A large one on a disk has neither: it is read where it lies.

    Raises:
        OSError: a server failed for another reason than that there is no such file.
    """
    try:
        if is_address(path):
            return as_path(path).read_bytes(), None
        if os.path.getsize(path) > _LARGE and name_of(path) == path:
            return None, None
        with open(path, "rb") as file:
            return file.read(), None
    except _NO_FILE as error:
        return None, f"An image file must exist and be readable. Received {name_of(path)}: {error}. Check its name."
    except OSError as error:
        if is_address(path):
            raise
        return None, f"An image file must be readable. Received {name_of(path)}: {error}. Copy it again."


def _bytes_of(value):
    """The image in a cell: bytes, or a structure with `bytes`, as Hugging Face's datasets have it."""
    return value.get("bytes") if isinstance(value, dict) else value


def decoded(columns, channels, dtype):
    """Decode the images of rows: columns path, pixels, shape, dtype and error, for RowPredictor.

    Args:
        columns: dict as `rows` yields. channels, dtype: as for `read_image`.
    """
    from keras_maskrcnn.data.images.reading import ImageError, read_image
    from keras_maskrcnn.scale.rows import source_of, told

    found = {"path": list(columns["path"]), "pixels": [], "shape": [], "dtype": [], "error": []}
    for number, error in enumerate(columns["error"]):
        image = None
        if not error:
            source = source_of(columns, number)
            try:
                image = read_image(source, channels, dtype)
            except (ImageError, MemoryError) as problem:
                error = told(problem, columns["path"][number], source)
        found["pixels"].append(None if image is None else image.tobytes())
        found["shape"].append(None if image is None else list(image.shape))
        found["dtype"].append(None if image is None else str(image.dtype))
        found["error"].append(error)
    return found


# Units -----------------------------------------------------------------------------------------------------


def list_units(sources, is_new, size=None, column=None):
    """The images that are named, without those that are finished or named before.

    Args:
        sources: list of image files, folders (with their subfolders), `.txt` files with a path or address a line, and
            `.parquet` files; paths or addresses.
        is_new: function from the `path` of a row to whether it is to be done; called once for each image.
        size: int, images of a unit; None: by their number.
        column: str, of the images in Parquet files; None finds it.

    Returns:
        List of Files and Table.

    Raises:
        ValueError: there is no image, or a source cannot be read.
    """
    units, paths, seen = [], [], 0
    for source in map(as_path, sources):
        for file in _files_in(source):
            if file.lower().endswith(TABLES):
                found, count = _table_units(file, is_new, column)
                units += found
                seen += count
            else:
                seen += 1
                if is_new(name_of(file)):
                    paths.append(file)
    if not seen:
        raise ValueError(
            f"predict needs at least one image. Received {[str(one) for one in sources]}, without an image file. "
            "Name image files, folders, a .txt file that lists images, or .parquet files."
        )
    size = size or min(256, max(8, len(paths) // 256))
    return units + [Files(tuple(paths[at : at + size])) for at in range(0, len(paths), size)]


def _files_in(source):
    """Image files and Parquet files, str, that a source stands for."""
    if source.suffix.lower() in LISTS:
        folder = source.parent
        lines = (line.strip() for line in read_text(source).splitlines())
        for line in lines:
            if line and not line.startswith("#"):
                yield line if is_address(line) else str(folder / line)
    elif source.is_dir():
        images = walk_images(source)
        first = next(images, None)
        if first is None:
            yield from _tables_in(source)
        else:
            yield first
            yield from images
    else:
        yield str(source)


def _tables_in(folder):
    from keras_maskrcnn.data.readers.folders import files_with

    return map(str, files_with(folder, *TABLES, deep=True))


def _table_units(path, is_new, column):
    """(list of Table, number of rows) of a Parquet file."""
    import pyarrow
    import pyarrow.parquet

    try:
        with open_file(path) as file:
            table = pyarrow.parquet.ParquetFile(file)
            column = image_column(table.schema_arrow, path, column)
            sizes = [table.metadata.row_group(group).num_rows for group in range(table.num_row_groups)]
    except (pyarrow.ArrowException, OSError) as error:
        raise ValueError(
            f"A table of images must be a Parquet file. Received {path}: {error}. Write it again."
        ) from error
    units, first = [], 0
    for group, size in enumerate(sizes):
        wanted = tuple(row for row in range(size) if is_new(f"{name_of(path)}#{first + row}"))
        units += [Table(path, group, column, first, wanted)] if wanted else []
        first += size
    return units, first


def image_column(schema, path, column=None):
    """The column that holds encoded images: the one that is named, or the only one with bytes.

    Args:
        schema: pyarrow.Schema. path: for messages. column: str or None.

    Raises:
        ValueError: there is no such column, or several.
    """
    import pyarrow

    def holds_bytes(kind):
        if pyarrow.types.is_struct(kind):
            return any(field.name == "bytes" and holds_bytes(field.type) for field in kind)
        return pyarrow.types.is_binary(kind) or pyarrow.types.is_large_binary(kind)

    fitting = [field.name for field in schema if holds_bytes(field.type)]
    if column is not None and column in fitting:
        return column
    if column is None and len(fitting) == 1:
        return fitting[0]
    raise ValueError(
        f"One column must hold the bytes of encoded images. Received {path} with the columns {schema.names}, of which "
        f"{fitting or 'none'} hold bytes{'' if column is None else f', and {column!r}'}. "
        f"Name it: {argument('image_column')}."
    )
