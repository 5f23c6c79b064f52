"""Read and write COCO run-length encoding without a mask of the whole image in memory.

A mask of height H and width W is stored column by column; `counts` alternates runs of 0 and of 1,
starting with 0. The compressed form packs each count into characters of 6 bits (pycocotools'
`rleToString`). Called by `data/records.py` and the readers. pycocotools decodes to full (H, W) masks:
for one 3024 x 4032 image with 450 objects that is 5 GB.
"""

import numpy as np

from keras_maskrcnn.geometry import native

_LONGEST = 2**38  # pixels
_AT_ONCE = 500  # codes: of more the arrays do not stay in the processor's cache
_LONGEST_CODE = 8  # characters of a run: of 5 bits each


def parse_counts(counts):
    """Run lengths from COCO's compressed string or its uncompressed list.

    Args:
        counts: str or bytes (compressed), or a sequence of whole numbers (uncompressed).

    Returns:
        int64 (runs,), each from 0 to 2^38, so that their sum is exact.

    Raises:
        ValueError: it is no run-length code, or a run is negative or longer than any image.
    """
    if isinstance(counts, (str, bytes)):
        text = _as_bytes(counts)
        runs = native.parse_runs(text)
        if runs is not None:
            return runs
        runs = _decompress(text)
    else:
        runs = _whole_numbers(counts)
    _check_lengths(runs)
    return runs


def totals_and_areas(texts):
    """What the run lengths of many compressed codes sum to, and the pixels in each mask.

    Args:
        texts: list of str or bytes.

    Returns:
        (int64 (n,), the pixels of each image; int64 (n,), those of its mask).

    Raises:
        ValueError: one of them is nothing that `parse_counts` would take.
    """
    wrong = [text for text in texts if not isinstance(text, (str, bytes))]
    if wrong:
        raise ValueError(f"Compressed run lengths are text. Received {str(wrong[0])[:40]}. Compress them.")
    parts = [_totals_and_areas(texts[start : start + _AT_ONCE]) for start in range(0, len(texts), _AT_ONCE)]
    totals, areas = zip(*parts) if parts else ([np.zeros(0, np.int64)],) * 2
    return np.concatenate(totals), np.concatenate(areas)


def _totals_and_areas(texts):
    runs, first = _decompress_all([_as_bytes(text) for text in texts])
    _check_lengths(runs)
    return np.add.reduceat(runs, first), np.add.reduceat(runs * _is_odd(first, len(runs)), first)


def _as_bytes(counts):
    return counts.encode("utf-8", "surrogatepass") if isinstance(counts, str) else counts


def _check_lengths(runs):
    least, most = runs.min(initial=0), runs.max(initial=0)
    if least < 0 or most > _LONGEST:
        raise ValueError(
            "Run lengths must not be negative, nor longer than an image. "
            f"Received {least if least < 0 else most}. The run-length code is damaged. Export the mask again."
        )


def extent(runs, height):
    """Bounding box of the mask, int [x1, y1, x2, y2] with x2 and y2 exclusive; None if it is empty."""
    box = native.runs_extent(runs, height)
    if box is not None:
        return box if box[2] > box[0] else None
    starts, stops = _spans(runs)
    if len(starts) == 0:
        return None
    x1, x2 = starts[0] // height, (stops[-1] - 1) // height + 1
    first_column, last_column = starts // height, (stops - 1) // height
    if (first_column != last_column).any():  # the run contains the last row of one column and row 0 of the next
        return np.array([x1, 0, x2, height], np.int64)
    return np.array([x1, (starts % height).min(), x2, ((stops - 1) % height).max() + 1], np.int64)


def decode_window(runs, height, box):
    """The pixels of a run-length code inside a box.

    Args:
        runs: int (runs,), from `parse_counts`.
        height: int, image pixels.
        box: int [x1, y1, x2, y2], whole image pixels.

    Returns:
        uint8 0/1 (y2 - y1, x2 - x1).
    """
    pixels = native.runs_window(runs, height, box)
    if pixels is not None:
        return pixels
    x1, y1, x2, y2 = (int(v) for v in box)
    starts, stops = _spans(runs)
    first, last = x1 * height, x2 * height
    shown = (stops > first) & (starts < last)
    edges = np.zeros(2 * np.count_nonzero(shown) + 2, np.int64)  # positions where 0 and 1 alternate
    edges[1:-1:2] = np.maximum(starts[shown] - first, 0)
    edges[2:-1:2] = np.minimum(stops[shown], last) - first
    edges[-1] = last - first
    turns = (np.arange(len(edges) - 1) & 1).astype(np.uint8)
    columns = np.repeat(turns, np.diff(edges)).reshape(x2 - x1, height)
    return np.ascontiguousarray(columns.T[y1:y2])


def encode_window(pixels, x, y, height, width):
    """Run lengths of an image-sized mask that is zero outside a window. Inverse of `decode_window`.

    Args:
        pixels: uint8 or bool (h, w), the window.
        x: int, first image column of the window.
        y: int, first image row of the window.
        height: int, image pixels.
        width: int, image pixels.

    Returns:
        int64 (runs,), their sum is height * width.
    """
    rows, columns = pixels.shape
    padded = np.zeros((columns, rows + 2), bool)
    padded[:, 1:-1] = pixels.T
    column, row = np.nonzero(padded[:, 1:] != padded[:, :-1])
    changes = (x + column) * height + y + row
    if rows == height:  # a run may go on from the last row of a column to row 0 of the next
        ends = np.flatnonzero(changes[1:] == changes[:-1])
        changes = np.delete(changes, np.concatenate([ends, ends + 1]))
    runs = np.diff(np.concatenate([[0], changes, [height * width]]))
    return runs[:-1] if len(changes) and changes[-1] == height * width else runs


def _whole_numbers(counts):
    try:
        runs = np.asarray(counts)
    except ValueError:  # lists inside the list
        runs = np.zeros((0, 0))
    whole = runs.dtype.kind in "iu" or runs.dtype.kind == "f" and (runs == np.trunc(runs)).all()
    if runs.ndim != 1 or not (whole and (np.abs(runs) < 2**62).all()) and len(runs):
        raise ValueError(
            f"Uncompressed run lengths must be a list of whole numbers. Received {str(counts)[:40]}. "
            "The mask is damaged. Export it again."
        )
    return runs.astype(np.int64)


def _decompress(text):
    """Run lengths of one code of bytes, int64 (runs,)."""
    values, _ = _stored_values(text, np.array([len(text)]))
    # From the fourth run on, the difference from the second last run is stored.
    values[1::2] = np.cumsum(values[1::2])
    values[2::2] = np.cumsum(values[2::2])
    return values


def _decompress_all(texts):
    """(int64 (runs,) of codes of bytes, one after the other; int64 (n,), the first run of each)."""
    sizes = np.array([len(text) for text in texts])
    stops = np.cumsum(sizes)
    values, ends = _stored_values(b"".join(texts), stops)
    first = np.searchsorted(ends, stops - sizes)
    odd = _is_odd(first, len(values))
    heads, values[first] = values[first], 0  # of the even ones the first is no difference
    for chain in (np.flatnonzero(odd), np.flatnonzero(~odd)):
        values[chain] = _summed(values[chain], np.searchsorted(chain, first))
    values[first] = heads
    return values, first


def _is_odd(first, count):
    """Bool (count,): whether a run has an odd position in its code. `first`: int (n,), the first run of each code."""
    codes_odd = np.repeat(first & 1 == 1, np.diff(first, append=count))
    return codes_odd ^ (np.arange(count) & 1 == 1)


def _summed(values, begins):
    """Cumulative sums that start anew at each position of `begins`, which may be equal or the end."""
    sums = np.concatenate([[0], np.cumsum(values)])
    return sums[1:] - np.repeat(sums[begins], np.diff(begins, append=len(values)))


def _stored_values(text, stops):
    """The numbers in compressed codes.

    Args:
        text: bytes, the codes one after the other. stops: int (n,), where each ends.

    Returns:
        (int64 (runs,), int64 (runs,): the last character of each run).
    """
    codes = np.frombuffer(text, np.uint8) - np.uint8(48)  # characters below "0" wrap around to large ones
    last = (codes & 0x20) == 0  # characters that end a run
    ends = np.flatnonzero(last)
    begins = np.concatenate([[0], ends[:-1] + 1]) if len(ends) else ends
    lengths = ends - begins + 1
    whole = stops[0] > 0 and (stops[1:] > stops[:-1]).all() and last[stops - 1].all() and lengths.max() <= _LONGEST_CODE
    if not whole or codes.max() > 63:
        raise ValueError(
            "Compressed run lengths must be the text of pycocotools' `encode`. "
            f"Received {text[:40]!r}. The mask is damaged. Export it again."
        )
    values = (codes[begins] & 0x1F).astype(np.int64)
    for place in range(1, lengths.max()):
        longer = np.flatnonzero(lengths > place)
        values[longer] += (codes[begins[longer] + place] & 0x1F).astype(np.int64) << 5 * place
    negative = np.flatnonzero(codes[ends] & 0x10)
    values[negative] -= np.int64(1) << (5 * lengths[negative])
    return values, ends


def _spans(runs):
    """Starts and stops of the runs of 1, column-major positions, without empty runs."""
    stops = np.cumsum(runs)
    starts = stops - runs
    starts, stops = starts[1::2], stops[1::2]
    filled = stops > starts
    return starts[filled], stops[filled]
