"""Loops in C for the host: pixels, run lengths, COCO's annotations. Built at installation if there is a compiler.

The files `*.c` have no Python and no framework in them; `load` opens their library once, by `ctypes`, which releases
the interpreter lock while they run. Each function here returns None where the library is missing, turned off by
`KERAS_MASKRCNN_NATIVE=0`, or of no help; the caller then takes numpy's or Pillow's way to the same bits.
"""

import ctypes
import functools
import os
import pathlib
import warnings

import numpy as np

SWITCH = "KERAS_MASKRCNN_NATIVE"  # environment variable: 0 turns native code off
_INTERFACE = 2  # of the functions, as `km_interface` in codes.c
_BITS = 22  # Pillow's fixed point
_LARGEST = 2**28  # sides and coordinates, pixels
_MOST_TEXT = 2**26  # bytes of annotations at once
_FLOATS = {np.dtype(np.uint8): 0, np.dtype(np.float32): 1}
_ROUNDING = 1e-9  # pixels: of a box that flips and scales have moved
_MARGIN = 8 * 2.0**-24  # of the largest value: how far two ways to round the sums of pasting can be apart


@functools.cache
def load():
    """The library, a `ctypes.CDLL`, or None. Warns if one exists but does not load."""
    if os.environ.get(SWITCH, "1") == "0":
        return None
    for path in sorted(pathlib.Path(__file__).parent.glob("_host.*")):
        try:
            library = ctypes.CDLL(str(path))
            if library.km_interface() != _INTERFACE:
                raise OSError("it was built from other sources; build it again: python setup.py build_ext --inplace")
            library.km_paste_codes.restype = ctypes.c_void_p
            library.km_free.argtypes = [ctypes.c_void_p]
            library.km_parse_runs.restype = ctypes.c_int64
        except (OSError, AttributeError) as error:
            warnings.warn(f"The native loops {path.name} cannot be loaded: {error}. numpy and Pillow run instead.")
            continue
        return library
    return None


def description():
    """Description of the loops in use."""
    return "numpy and Pillow" if load() is None else "native loops in C"


def enlarge_rgb(image, box, size, flipped=(False, False), matrix=None):
    """What Pillow's bilinear `resize` makes of a part of an RGB image that it enlarges.

    Args:
        image: uint8 (H, W, 3).
        box: [x1, y1, x2, y2] inside the image. If it does not begin and end between pixels, the result is None: the
            order in which Pillow then takes the axes, and so its rounding, depends on its version.
        size: (width, height), not smaller than the box.
        flipped: (x, y), whether the result is mirrored along that axis.
        matrix: float (3, [r, g, b, 1]) that `recolor_rgb` would apply next, or None.

    Returns:
        uint8 (height, width, 3), or None.
    """
    library = load()
    rgb, box = image.dtype == np.uint8 and image.shape[2:] == (3,), np.asarray(box, np.float32)
    if library is None or not (rgb and image.flags.c_contiguous) or (np.abs(box - np.rint(box)) > _ROUNDING).any():
        return None
    if max(*image.shape, *size) >= _LARGEST or not (matrix is None or _is_moderate(matrix)):
        return None
    x, of_x = _taps(image.shape[1], box[0], box[2], size[0], flipped[0])
    y, of_y = _taps(image.shape[0], box[1], box[3], size[1], flipped[1])
    x *= 3  # bytes
    matrix = None if matrix is None else np.ascontiguousarray(matrix, np.float32)
    out = np.empty((size[1], size[0], 3), np.uint8)
    done = library.km_enlarge_rgb(
        _address(image), *image.shape[:2], _address(x), _address(of_x), size[0], _address(y), _address(of_y), size[1],
        None if matrix is None else _address(matrix), _address(out),
    )  # fmt: skip
    return out if done else None


def recolor_rgb(pixels, matrix):
    """What Pillow's `convert("RGB", matrix)` makes of RGB pixels.

    Args:
        pixels: uint8 (h, w, 3). matrix: float (3, [r, g, b, 1]).

    Returns:
        uint8 (h, w, 3), or None.
    """
    library = load()
    if library is None or not pixels.flags.c_contiguous or not _is_moderate(matrix):
        return None
    out = np.empty_like(pixels)
    matrix = np.ascontiguousarray(matrix, np.float32)
    library.km_recolor_rgb(_address(pixels), ctypes.c_int64(pixels.size // 3), _address(matrix), _address(out))
    return out


def resize_floats(image, rows, columns, out):
    """Linear interpolation along x, then along y, each step rounded to float32.

    Args:
        image: uint8 or float32 (H, W, C).
        rows, columns: (low, high, weight) of each row and column of the result: int64, int64, float32.
        out: float32 (height, width, C), where to write it: contiguous, or the left part of a wider array that is.

    Returns:
        `out`, or None.
    """
    library = load()
    kind = _FLOATS.get(image.dtype)
    if library is None or kind is None or not image.flags.c_contiguous or max(image.shape) >= _LARGEST:
        return None
    if out.dtype != np.float32 or out.strides[1:] != (4 * out.shape[2], 4) or out.strides[0] % 4:
        return None
    rows, columns = ([np.ascontiguousarray(part) for part in parts] for parts in (rows, columns))
    done = library.km_resize_floats(
        _address(image), kind, image.shape[1], image.shape[2], *map(_address, columns), out.shape[1],
        *map(_address, rows), out.shape[0], _address(out), ctypes.c_int64(out.strides[0] // 4),
    )  # fmt: skip
    return out if done else None


def paste_codes(masks, boxes, image_size, threshold, torchvision):
    """Masks of detections as compressed run lengths of the image, without a window of pixels.

    Args:
        masks: float32 (n, m, m). boxes: float32 (n, [x1, y1, x2, y2]), image pixels.
        image_size: (height, width). threshold: float. torchvision: whether to paste by its rule.

    Returns:
        (list of n str, bool (n,): where a pixel is so near to the threshold that rounding decides), or None.
    """
    library = load()
    count, cells = masks.shape[:2]
    if library is None or not count or masks.shape[2] != cells or not cells or min(image_size) < 1:
        return None
    largest = max(np.abs(boxes).max(), *image_size)
    if not (largest < _LARGEST and np.isfinite(masks).all()):  # nor for NaN
        return None
    masks, boxes = np.ascontiguousarray(masks), np.ascontiguousarray(boxes)
    margin = _MARGIN * float(np.abs(masks).max())
    near, ends = np.zeros(count, np.uint8), np.zeros(count, np.int64)
    text = library.km_paste_codes(
        _address(masks), count, cells, _address(boxes), *map(int, image_size), int(torchvision),
        ctypes.c_float(threshold), ctypes.c_float(margin), _address(near), _address(ends),
    )  # fmt: skip
    if text is None:
        return None
    try:
        joined = ctypes.string_at(text, int(ends[-1])).decode("ascii")
    finally:
        library.km_free(text)
    ends = [0, *ends.tolist()]
    return [joined[start:stop] for start, stop in zip(ends, ends[1:])], near.astype(bool)


def parse_runs(text):
    """Run lengths of one compressed code: int64 (runs,), or None, also where the text is damaged.

    Args:
        text: bytes.
    """
    library = load()
    if library is None:
        return None
    runs = np.empty(len(text), np.int64)
    count = library.km_parse_runs(text, ctypes.c_int64(len(text)), _address(runs))
    return None if count < 0 else runs[:count]


def runs_extent(runs, height):
    """The box of the runs of 1: int64 [x1, y1, x2, y2], without pixels if there are none; or None.

    Args:
        runs: int (runs,). height: int, image pixels.
    """
    library = load()
    if library is None or height < 1:
        return None
    runs, box = np.ascontiguousarray(runs, np.int64), np.zeros(4, np.int64)
    library.km_runs_extent(_address(runs), ctypes.c_int64(len(runs)), ctypes.c_int64(height), _address(box))
    return box


def runs_window(runs, height, box):
    """The pixels of the runs in a box: uint8 0/1 (y2 - y1, x2 - x1), or None.

    Args:
        runs: int (runs,). height: int, image pixels. box: int [x1, y1, x2, y2], whole image pixels.
    """
    library = load()
    if library is None or height < 1:
        return None
    runs, box = np.ascontiguousarray(runs, np.int64), np.array(box, np.int64)
    out = np.zeros((box[3] - box[1], box[2] - box[0]), np.uint8)
    count, height = ctypes.c_int64(len(runs)), ctypes.c_int64(height)
    library.km_runs_window(_address(runs), count, height, _address(box), _address(out))
    return out


def scan_annotations(text, most_values):
    """The entries in a part of COCO's list of annotations.

    Those with ids, outlines, and perhaps `iscrowd`, `area` and `bbox`, all of them plain numbers, become rows.

    Args:
        text: bytes, dictionaries with commas between them. most_values: int, largest number of values in an outline.

    Returns:
        (rows: int64 (n, [id, image_id, category_id, iscrowd, parts, position]); floats: float64 (n, [area, x, y, width,
        height]), NaN where there are none; sizes: int64, values in each part; coordinates: float64; others: int64 (m,
        [position, begin, end]) of the entries that are no rows; int: all entries); or None.
    """
    library = load()
    size = len(text)
    if library is None or size > _MOST_TEXT:
        return None
    rows, floats = np.empty((size // 60 + 1, 6), np.int64), np.empty((size // 60 + 1, 5))
    sizes, coordinates = np.empty(size // 13 + 1, np.int64), np.empty(size // 2 + 1)
    others, slow = np.empty((size // 16 + 1, 3), np.int64), np.empty((size // 16 + 1, 4), np.int64)
    counts, outs = np.zeros(5, np.int64), (rows, floats, sizes, coordinates, others, slow)
    counted = *map(_address, outs), _address(counts)
    if not library.km_scan_annotations(text, ctypes.c_int64(size), ctypes.c_int64(most_values), *counted):
        return None
    num_rows, num_parts, num_others, num_slow, entries = counts.tolist()
    sizes = sizes[:num_parts]
    for place, index, begin, end in slow[:num_slow].tolist():  # more digits than one product in C rounds right
        (coordinates if place else floats.reshape(-1))[index] = float(text[begin:end])
    return rows[:num_rows], floats[:num_rows], sizes, coordinates[: sizes.sum()], others[:num_others], entries


def _address(array):
    """Where an array begins. It does not keep the array: give none that nothing else refers to."""
    return ctypes.c_void_p(array.__array_interface__["data"][0])


def _is_moderate(matrix):
    """Whether colours that a matrix makes stay in the range of int32."""
    return np.abs(matrix).sum() < 2**20


def _taps(source, start, stop, target, flipped):
    """Pillow's two taps of each pixel of an axis: int32 (target,) the first, int32 (target, 2) their weights."""
    centre = float(start) + (np.arange(target) + 0.5) * (float(stop - start) / target)
    first = np.maximum((centre - 0.5).astype(np.int32), 0)
    places = first[:, None] + np.arange(2, dtype=np.int32)
    weight = np.maximum(1 - np.abs(places - centre[:, None] + 0.5), 0)
    weight[places[:, 1] >= source, 1] = 0
    weight /= weight.sum(1, keepdims=True)
    fixed = (0.5 + weight * (1 << _BITS)).astype(np.int32)
    return (first[::-1].copy(), fixed[::-1].copy()) if flipped else (first, fixed)
