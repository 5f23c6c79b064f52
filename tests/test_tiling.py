"""Tiles: every object once, whole where it can be, joined where it is longer than the overlap; no stack of masks."""

import dataclasses
import tracemalloc

import numpy as np
import pytest
from known_answers import KnownModel, small_config
from pycocotools import mask as coco_mask
from scipy import ndimage

from keras_maskrcnn.data import MaskWindow
from keras_maskrcnn.data.images.reading import ImageError
from keras_maskrcnn.data.samples.resampling import resample_mask
from keras_maskrcnn.inference import predictor as predictor_module
from keras_maskrcnn.inference.found import TiledInstances
from keras_maskrcnn.inference.merging import merge_pieces
from keras_maskrcnn.inference.predictor import Predictor
from keras_maskrcnn.inference.tiling import Piece, Tile, pieces_of, tile_grid


@dataclasses.dataclass
class Found:
    boxes: list
    scores: list
    labels: list
    mask_windows: list
    values: dict = dataclasses.field(default_factory=dict)
    config: object = dataclasses.field(default_factory=small_config)

    def __len__(self):
        return len(self.boxes)


def ids_of(image):
    return image[..., 0].astype(np.int64) + 256 * image[..., 1].astype(np.int64)


def perfect(label_of):
    """A detector for pictures whose red and green say which object a pixel belongs to.

    It finds what it is shown, each connected part by itself.
    """

    def find(image):
        parts, _ = ndimage.label(image[..., 0] | image[..., 1])  # the objects of a picture do not touch
        found = Found([], [], [], [])
        for number, (rows, columns) in enumerate(ndimage.find_objects(parts), start=1):
            window = parts[rows, columns] == number
            found.boxes.append((columns.start, rows.start, columns.stop, rows.stop))
            found.scores.append(0.9)
            found.labels.append(label_of(int(ids_of(image[rows, columns])[window][0])))
            found.mask_windows.append((window, columns.start, rows.start))
        return found

    return find


def paint(image, number, mask, x, y):
    area = image[y : y + mask.shape[0], x : x + mask.shape[1]]
    area[mask] = (number % 256, number // 256, 0)


def disc(radius):
    y, x = np.mgrid[-radius : radius + 1, -radius : radius + 1]
    return x**2 + y**2 <= radius**2


def assert_each_object_once(pieces, image, numbers, label_of):
    """Each found mask is, to the pixel, one object of the picture, with its box and label."""
    assert len(pieces) == len(numbers)
    seen = set()
    for piece in pieces:
        window = piece.window
        rows, columns = np.nonzero(window)
        number = int(ids_of(image[piece.y + rows[0], piece.x + columns[0]]))
        height, width = window.shape
        here = ids_of(image[piece.y : piece.y + height, piece.x : piece.x + width])
        np.testing.assert_array_equal(window, here == number)
        assert piece.box.tolist() == [piece.x, piece.y, piece.x + width, piece.y + height]
        assert piece.label == label_of(number)
        seen.add(number)
    assert seen == set(numbers)
    assert sum(int(piece.window.sum()) for piece in pieces) == np.count_nonzero(image.any(-1))


def find_in_tiles(image, find, tile, overlap):
    """What a function finds in each tile, merged."""
    tiles = tile_grid(*image.shape[:2], tile, overlap)
    pieces = [piece for k, one in enumerate(tiles) for piece in pieces_of(find(one.cut(image)), k, one)]
    return merge_pieces(pieces, tiles, image.shape[:2])


def test_tiles_cover_the_image_evenly_with_at_least_the_overlap():
    for height, width, tile, overlap in ((6000, 6000, 1024, 0.2), (100, 4000, 256, 0.25), (50, 60, 64, 0.2)):
        tiles = tile_grid(height, width, tile, overlap)
        covered = np.zeros((height, width), np.uint8)
        for t in tiles:
            assert (t.y2 - t.y1, t.x2 - t.x1) == (min(tile, height), min(tile, width))
            covered[t.y1 : t.y2, t.x1 : t.x2] += 1
        assert covered.min() >= 1
        starts = sorted({t.x1 for t in tiles})
        assert all(a + tile - b >= int(tile * overlap) for a, b in zip(starts, starts[1:], strict=False))
    assert tile_grid(50, 60, 64, 0.2) == [Tile(0, 0, 60, 50)]
    assert len(tile_grid(6000, 6000, 1024, 0.2)) == 64
    for tile, overlap in ((0, 0.2), (64, 1.0), (64, -0.1)):
        with pytest.raises(ValueError, match="Received tile="):
            tile_grid(500, 500, tile, overlap)


def test_a_6000_pixel_image_gives_each_of_400_objects_once_to_the_pixel():
    image = np.zeros((6000, 6000, 3), np.uint8)
    tiles = tile_grid(6000, 6000, 1024, 0.2)
    rng = np.random.default_rng(0)
    radii = rng.integers(20, 95, 400)  # up to 191 pixels: the strips have 204
    for k, radius in enumerate(radii):
        middle = 150 + 300 * (k % 20), 150 + 300 * (k // 20)
        x, y = (int(m + rng.integers(-40, 41)) - radius for m in middle)
        paint(image, k + 1, disc(radius), x, y)
    inner = {t.x1 for t in tiles} | {t.x2 for t in tiles}
    crossing = sum(
        any(150 + 300 * (k % 20) - r < b < 150 + 300 * (k % 20) + r for b in inner) for k, r in enumerate(radii)
    )
    assert crossing > 100
    label_of = lambda number: number % 3  # noqa: E731
    pieces = find_in_tiles(image, perfect(label_of), 1024, 0.2)
    assert_each_object_once(pieces, image, range(1, 401), label_of)


def test_objects_longer_than_the_strip_and_than_the_tile_are_joined():
    image = np.zeros((700, 900, 3), np.uint8)
    paint(image, 1, np.ones((12, 880), bool), 10, 20)  # a bar over all columns of tiles
    paint(image, 2, np.ones((640, 9), bool), 300, 50)
    paint(image, 3, disc(150), 420, 330)  # larger than a tile
    legs = np.zeros((200, 120), bool)  # a U: its legs come apart in the tile below
    legs[:, :20] = legs[:, -20:] = legs[:20] = True
    paint(image, 4, legs, 60, 130)
    pieces = find_in_tiles(image, perfect(lambda number: 0), 256, 0.2)
    assert_each_object_once(pieces, image, [1, 2, 3, 4], lambda number: 0)


class PerfectBatch:
    """In the place of a NetworkBatch: what `find` sees in the pixels of each row."""

    def __init__(self, predictor, sizes, rows=None):
        self.images = {}

    def fill(self, row, image):
        self.images[row] = image

    def run(self):
        pass

    def found(self, row, image):
        return perfect(lambda number: 2)(self.images[row])


def test_a_memory_mapped_image_is_read_tile_by_tile(tmp_path, monkeypatch):
    image = np.lib.format.open_memmap(tmp_path / "big.npy", "w+", np.uint8, (4000, 5000, 3))
    paint(image, 7, disc(60), 900, 1900)
    image.flush()
    monkeypatch.setattr(predictor_module, "NetworkBatch", PerfectBatch)
    predictor = Predictor(KnownModel(small_config(3), []), tile=512)
    tracemalloc.start()
    found = predictor(np.load(tmp_path / "big.npy", mmap_mode="r"))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert isinstance(found, TiledInstances) and found.labels.tolist() == [2]
    assert found.boxes.tolist() == [[900, 1900, 1021, 2021]]
    (result,) = found.to_coco(5)
    assert result["segmentation"]["size"] == [4000, 5000] and result["bbox"] == [900, 1900, 121, 121]
    assert peak < 30e6  # the image is 60 MB


class UnsureModel:
    """Finds objects as a trained model does: boxes a pixel or two off, masks in 28x28 cells, and what a border of
    the picture cuts it sees worse: half of the slivers not at all, others as another class."""

    def __init__(self):
        self.config = small_config(3, max_detections=60)
        self.rng = np.random.default_rng(1)
        self.num_found = 0

    def predict_on_batch(self, batch):
        height, width = batch["image_sizes"][0]
        image = batch["images"][0, :height, :width]
        parts, _ = ndimage.label(image.any(-1))
        out = {"boxes": [], "scores": [], "labels": [], "masks": []}
        for number, (rows, columns) in enumerate(ndimage.find_objects(parts), start=1):
            window = (parts[rows, columns] == number).astype(np.uint8)
            cut = rows.start == 0 or columns.start == 0 or rows.stop == height or columns.stop == width
            sliver = cut and min(window.shape) < 0.3 * max(window.shape)
            if sliver and self.rng.random() < 0.5:
                continue
            box = np.array([columns.start, rows.start, columns.stop, rows.stop]) + self.rng.normal(0, 1.0, 4)
            label = int(image[rows, columns][window > 0][0, 0]) % 3
            out["boxes"].append(np.clip(box, 0, (width, height, width, height)))
            out["labels"].append((label + 1) % 3 if sliver and self.rng.random() < 0.5 else label)
            out["scores"].append(self.rng.uniform(0.5, 0.8) if cut else self.rng.uniform(0.6, 0.99))
            out["masks"].append(resample_mask(MaskWindow(window, columns.start, rows.start), out["boxes"][-1], 28))
        shapes = {"boxes": (0, 4), "scores": 0, "labels": 0, "masks": (0, 28, 28)}
        answer = {key: np.array(value)[None] if value else np.zeros(shapes[key])[None] for key, value in out.items()}
        self.num_found += len(out["scores"])
        return answer | {"valid": np.ones((1, len(out["scores"])), bool)}


def test_an_unsure_model_finds_in_tiles_what_it_finds_in_small_images():
    rng = np.random.default_rng(2)
    image = np.zeros((3000, 3000, 3), np.uint8)
    truth = []
    for k in range(196):
        long, short = rng.uniform(15, 80), rng.uniform(10, 30)  # up to 160 long: the strips have 103
        long, short = (long, short) if rng.random() < 0.5 else (short, long)
        y, x = np.mgrid[-80:81, -80:81]
        mask = (x / long) ** 2 + (y / short) ** 2 <= 1
        corner = 25 + 210 * (k % 14) + int(rng.integers(40)), 25 + 210 * (k // 14) + int(rng.integers(40))
        paint(image, k + 1, mask, *corner)
        truth.append((k + 1, mask, corner))

    def right(found):
        """Positions of detections with the label and at least half of the mask (IoU) of an object, and whose it is."""
        owners = []
        for label, (window, x, y) in zip(found.labels, found.mask_windows, strict=True):
            here = image[y : y + window.shape[0], x : x + window.shape[1], 0]
            on = np.bincount(here[window], minlength=256)[1:]
            k = int(on.argmax())
            union = window.sum() + truth[k][1].sum() - on[k]
            owners.append(k if on[k] >= 0.5 * union and label == truth[k][0] % 3 else None)
        return owners

    small = 0
    for _, mask, (x, y) in truth:
        found = Predictor(UnsureModel())(np.where(mask[..., None], image[y : y + 161, x : x + 161], 0).astype(np.uint8))
        small += len(found) == 1 and (found.masks[0] & mask).sum() >= 0.5 * (found.masks[0] | mask).sum()
    assert small == 196
    model = UnsureModel()
    owners = right(Predictor(model, tile=512, overlap=0.2)(image))
    assert model.num_found > 250  # before merging
    recall = len(set(owners) - {None}) / 196
    precision = sum(owner is not None for owner in owners) / len(owners)
    assert recall >= 0.95 and precision >= 0.95
    hits = [owner for owner in owners if owner is not None]
    assert len(hits) == len(set(hits))  # no duplicates


def rectangle(tile, box, label, score):
    x1, y1, x2, y2 = box
    code = coco_mask.encode(np.ones((y2 - y1, x2 - x1), np.uint8, order="F"))
    return Piece(tile, np.array(box, float), score, label, x1, y1, code, {})


TWO = [Tile(0, 0, 100, 100), Tile(60, 0, 160, 100)]  # they share columns 60..100


@pytest.mark.parametrize(
    "entries, boxes, labels",
    [
        # Whole in both: the surer one, with its own box.
        ([(0, (70, 10, 90, 30), 0, 0.6), (1, (71, 10, 91, 30), 0, 0.8)], [(71, 10, 91, 30)], [0]),
        # Whole in both, of two classes: both stay, as in one image.
        ([(0, (70, 10, 90, 30), 0, 0.6), (1, (71, 10, 91, 30), 1, 0.8)], [(71, 10, 91, 30), (70, 10, 90, 30)], [1, 0]),
        # Cut by the left tile's border and whole in the right one, whatever score and class the cut one has.
        ([(0, (80, 10, 99, 30), 1, 0.9), (1, (80, 10, 130, 30), 0, 0.5)], [(80, 10, 130, 30)], [0]),
        # ... and where the right tile, which sees more, finds nothing there.
        ([(0, (80, 10, 99, 30), 1, 0.9)], [], []),
        # Longer than the strip: joined, the larger part names it, the surer one gives the score.
        ([(0, (10, 10, 100, 30), 0, 0.7), (1, (60, 11, 120, 31), 0, 0.9)], [(10, 10, 120, 31)], [0]),
        ([(0, (10, 10, 100, 30), 2, 0.7), (1, (60, 10, 120, 30), 1, 0.9)], [(10, 10, 120, 30)], [2]),
        # Two that meet in the strip without being one.
        (
            [(0, (10, 10, 100, 30), 0, 0.7), (1, (60, 28, 150, 50), 0, 0.6)],
            [(10, 10, 100, 30), (60, 28, 150, 50)],
            [0, 0],
        ),
        # At the image's own border nothing is cut.
        ([(0, (0, 10, 30, 30), 0, 0.7), (1, (130, 0, 160, 30), 0, 0.6)], [(0, 10, 30, 30), (130, 0, 160, 30)], [0, 0]),
        # Side by side in the strip, each whole in both.
        (
            [(0, (65, 10, 75, 30), 0, 0.7), (0, (77, 10, 90, 30), 0, 0.6)]
            + [(1, (65, 10, 76, 30), 0, 0.65), (1, (76, 10, 90, 30), 0, 0.5)],
            [(65, 10, 75, 30), (77, 10, 90, 30)],
            [0, 0],
        ),
    ],
)
def test_what_is_merged_and_what_is_not(entries, boxes, labels):
    merged = merge_pieces([rectangle(*entry) for entry in entries], TWO, (100, 160))
    assert [tuple(piece.box.astype(int)) for piece in merged] == boxes
    assert [piece.label for piece in merged] == labels
    assert [piece.score for piece in merged] == sorted((piece.score for piece in merged), reverse=True)


def test_the_predictor_tiles_what_is_larger_and_nothing_else():
    config = small_config(1, max_detections=5)
    answers = [([(80, 10, 99, 30)], [0.6], [0]), ([(18, 10, 68, 30)], [0.9], [0])]
    model = KnownModel(config, answers)
    found = Predictor(model, tile=100, overlap=0.2)(np.zeros((100, 162, 3), np.uint8))
    assert [batch["image_sizes"].tolist() for batch in model.batches] == [[[100, 100]]] * 2
    # The second tile begins at column 62 and has the object whole.
    assert found.boxes.tolist() == [[80, 10, 130, 30]] and found.scores.tolist() == [np.float32(0.9)]
    assert found.image_size == (100, 162) and found.masks.shape == (1, 100, 162)
    expected = np.zeros((100, 162), bool)
    expected[10:30, 80:130] = True
    np.testing.assert_array_equal(found.masks[0], expected)
    whole = Predictor(KnownModel(config, answers), tile=162)(np.zeros((100, 162, 3), np.uint8))
    assert not isinstance(whole, TiledInstances) and whole.boxes.tolist() == [[80, 10, 99, 30]]
    with pytest.raises(ValueError, match="overlap=1.5"):
        Predictor(model, tile=100, overlap=1.5)


def test_tiles_need_a_model_with_masks():
    model = KnownModel(small_config(1, branches=("keypoints",)), [])
    told = r"no branch of masks. Received the branches: keypoints. Leave tile=... out, and reduce images"
    with pytest.raises(ValueError, match=told):
        Predictor(model, tile=100)


def test_a_tile_that_cannot_be_read_is_an_error_of_its_image_alone(tmp_path):
    """A mapped image is not looked through before it is cut."""
    image = np.zeros((100, 162, 3), np.float32)
    image[50, 150] = np.nan
    np.save(tmp_path / "a.npy", image)
    mapped = np.load(tmp_path / "a.npy", mmap_mode="r")
    pixels = {"image_dtype": "float32", "pixel_mean": (0.0,) * 3, "pixel_std": (1.0,) * 3}
    predictor = Predictor(KnownModel(small_config(**pixels), [([], [], []), ([(1, 1, 9, 9)], [0.9], [0])]), tile=100)
    broken, whole = predictor.stream([mapped, np.zeros((20, 20, 3), np.float32)])
    assert isinstance(broken.error, ImageError) and "must be finite. Received an array with NaN" in str(broken.error)
    assert (broken.result, whole.error, len(whole.result)) == (None, None, 1)
    with pytest.raises(ImageError, match="must be finite"):
        Predictor(KnownModel(small_config(**pixels), [([], [], [])]), tile=100)(mapped)


def test_values_of_whole_boxes_are_lost_where_tiles_are_merged():
    found = Predictor(KnownModel(small_config(), [([(5, 5, 20, 20)], [0.9], [0])] * 2), tile=100)(
        np.zeros((100, 162, 3), np.uint8)
    )
    assert len(found) == 2 and repr(found) == "TiledInstances(2 in 162x100 pixels)"
    assert not hasattr(found, "box_masks")
    with pytest.raises(AttributeError, match="merged from tiles have no box_masks: take mask_windows, or masks"):
        found.box_masks  # noqa: B018


def test_no_object_gives_empty_arrays():
    found = Predictor(KnownModel(small_config(), [([], [], [])] * 4), tile=64)(np.zeros((100, 100, 3), np.uint8))
    assert len(found) == 0 and found.boxes.shape == (0, 4) and found.mask_windows == [] and found.to_coco(1) == []
