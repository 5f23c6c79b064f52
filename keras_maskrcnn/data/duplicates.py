"""Find duplicate images: the same file, or the same picture saved again.

A model looks better than it is if copies of its training images are in the validation data. Equal files have equal
digests. Pictures that were resized, re-encoded or made brighter are found by a perceptual hash. It is pHash with 255
bits instead of 64: a bit for each of the 255 lowest frequencies of the gray 64 x 64 picture, set if the frequency is
above the median.

Measured on 690 real images (530 micrographs, 160 of COCO) with benchmarks/near_duplicates.py: copies saved as JPEG of
quality 30 or 75, at half size, at 1.3 times the size, 20 % brighter or with 20 % more contrast differ in at most 36
bits; 99 % of the copies cropped by 2 % differ in at most 50; two different images differ in at least 82. A difference
hash (dHash) of 256 bits cannot separate them: re-saved copies differ in up to 82 bits, different images in only 13.
Mirrored and rotated copies are not found.

Called by `split` and by the command line.
"""

import dataclasses
import hashlib
import pathlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from PIL import Image

from keras_maskrcnn.data.images.reading import ImageError, stored_image
from keras_maskrcnn.data.images.showing import as_picture, picture_of
from keras_maskrcnn.geometry.groups import connected_groups
from keras_maskrcnn.host.addresses import as_path

NEAR_BITS = 50  # hashes of copies differ in at most this many of 255 bits; see above
_LARGEST = 4096  # pixels of the longest side from which a hash is made
_SIDE, _FREQUENCIES = 64, 16
_ROWS = 2048  # hashes compared at once: 2048 x 100 000 products take 0.8 GB


def duplicate_groups(dataset, near_bits=NEAR_BITS, workers=2, progress=None):
    """Group the images that are copies of each other.

    Args:
        dataset: Dataset.
        near_bits: int, the most bits in which the perceptual hashes of copies differ; None compares files only.
        workers: threads that read images.
        progress: function of the number of images read so far, or None.

    Returns:
        List of lists of positions, rising, each of two or more images.

    Raises:
        ImageError: an image cannot be read. If the dataset skips faults, the image is in no group instead.
    """
    digests, hashes = [], []

    def read(index):
        try:
            return describe(dataset, index, near_bits is not None)
        except ImageError:
            if dataset.on_error == "raise":
                raise
            return None, None

    with ThreadPoolExecutor(workers) as pool:
        for done, (digest, bits) in enumerate(pool.map(read, range(len(dataset))), start=1):
            digests.append(digest)
            hashes.append(bits)
            if progress is not None:
                progress(done)
    pairs = _equal_pairs(digests)
    known = [index for index, bits in enumerate(hashes) if bits is not None]
    if near_bits is not None and len(known) > 1:
        found = near_pairs(np.stack([hashes[index] for index in known]), near_bits)
        pairs += [(known[a], known[b]) for a, b in found]
    return connected(pairs)


def describe(dataset, index, perceptual=True):
    """Return (digest of an image's file or pixels, its perceptual hash or None). Raises ImageError."""
    source = dataset[index].source
    if not isinstance(source, (str, pathlib.Path)):
        pixels = dataset.load_image(index, None, None)
        return hashlib.sha256(pixels.tobytes()).hexdigest(), perceptual_hash(as_picture(pixels)) if perceptual else None
    try:
        digest = hashlib.sha256(as_path(source).read_bytes()).hexdigest()
    except OSError as error:
        raise ImageError(f"An image file must be readable. Received {source}: {error}. Check it.") from error
    return digest, perceptual_hash(picture_of(_thinned(stored_image(source)))) if perceptual else None


def _thinned(stored):
    """Every k-th pixel of a very large image: a hash of 64x64 pixels needs no more."""
    step = -(-max(stored.pixels.shape[:2]) // _LARGEST)
    return stored if step == 1 else dataclasses.replace(stored, pixels=stored.pixels[::step, ::step])


def perceptual_hash(image):
    """Hash a picture so that its copies differ in few bits.

    Args:
        image: uint8 (H, W, 3).

    Returns:
        bool (255,).
    """
    gray = Image.fromarray(image).convert("L").resize((_SIDE, _SIDE), Image.Resampling.BILINEAR)
    waves = _cosines()
    frequencies = (waves @ np.asarray(gray, np.float32) @ waves.T).ravel()[1:]  # the first is the mean brightness
    return frequencies > np.median(frequencies)


def near_pairs(hashes, near_bits=NEAR_BITS):
    """Find the pairs of hashes that differ in few bits.

    Args:
        hashes: bool (n, bits).
        near_bits: int, the most bits that may differ.

    Returns:
        List of (i, j), i < j.
    """
    signs = np.where(hashes, np.float32(1), np.float32(-1))
    bits = signs.shape[1]
    pairs = []
    for first in range(0, len(signs), _ROWS):
        # The product of two rows of signs is bits - 2 * differing bits, exact in float32.
        near = signs[first : first + _ROWS] @ signs[first:].T >= bits - 2 * near_bits
        rows, columns = np.nonzero(np.triu(near, 1))
        pairs += list(zip((rows + first).tolist(), (columns + first).tolist(), strict=True))
    return pairs


def connected(pairs):
    """Groups of numbers that pairs connect. Returns a list of rising lists, ordered by their first number."""
    count = 1 + max((max(pair) for pair in pairs), default=-1)
    return [group for group in connected_groups(count, pairs) if len(group) > 1]


def _equal_pairs(digests):
    first = {}
    return [
        (first[digest], index)
        for index, digest in enumerate(digests)
        if digest is not None and first.setdefault(digest, index) != index
    ]


def _cosines():
    """The lowest 16 rows of the discrete cosine transform, float32 (16, 64). Only the first row is scaled."""
    angles = np.pi / _SIDE * np.arange(_FREQUENCIES)[:, None] * (np.arange(_SIDE) + 0.5)
    waves = np.cos(angles).astype(np.float32)
    waves[0] /= np.sqrt(2)
    return waves
