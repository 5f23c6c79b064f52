"""Splitting: copies of an image stay in one part, classes keep their shares, the same seed gives the same parts."""

import json

import numpy as np
import pytest
from PIL import Image, ImageEnhance
from reader_tools import scene

from keras_maskrcnn import cli
from keras_maskrcnn.data import ArrayDataset, CocoDataset, generate_shapes, open_dataset
from keras_maskrcnn.data.duplicates import connected, duplicate_groups, near_pairs, perceptual_hash
from keras_maskrcnn.data.split import split_dataset


def labelled(labels):
    """A dataset of tiny images with the labels given for each."""
    square = np.zeros((8, 8), np.uint8)
    square[2:5, 2:5] = 1
    count = max((label for image in labels for label in image), default=0) + 1
    images = [np.full((8, 8, 3), number % 251, np.uint8) for number in range(len(labels))]
    return ArrayDataset(images, [[square] * len(image) for image in labels], labels, class_names=list("abcdef")[:count])


def shares(parts, label):
    """How many images of each part show a class; None counts images without objects."""
    return [
        sum(any(i.label == label for i in r.instances) if label is not None else not r.instances for r in part.records)
        for part in parts
    ]


def test_every_image_is_in_one_part_and_classes_keep_their_shares():
    rng = np.random.default_rng(0)
    labels = [[0] * int(rng.integers(1, 4)) + [1] * (n % 5 == 0) + [2] * (n % 20 == 0) for n in range(200)] + [[]] * 50
    dataset = labelled(labels)
    parts = split_dataset(dataset, (0.8, 0.2), seed=3)
    assert sorted(k for part in parts for k in part.image_ids) == dataset.image_ids
    assert [len(part) for part in parts] == [200, 50]
    assert shares(parts, 0) == [160, 40] and shares(parts, 1) == [32, 8]
    assert shares(parts, 2) == [8, 2] and shares(parts, None) == [40, 10]
    assert all(part.class_names == dataset.class_names and part.category_ids == dataset.category_ids for part in parts)


def test_the_seed_decides():
    dataset = labelled([[n % 3] for n in range(30)])
    ids = [[part.image_ids for part in split_dataset(dataset, (0.5, 0.3, 0.2), seed)] for seed in (1, 1, 2)]
    assert ids[0] == ids[1] != ids[2] and [len(part) for part in ids[0]] == [15, 9, 6]


def test_groups_stay_together():
    dataset = labelled([[n % 2] for n in range(20)])
    groups = [[0, 7, 9], [1, 2], [15, 19]]
    for seed in range(10):
        parts = split_dataset(dataset, (0.5, 0.5), seed, groups)
        for group in groups:
            assert len({next(p for p, part in enumerate(parts) if k + 1 in part.image_ids) for k in group}) == 1
        assert sorted(len(part) for part in parts) == [10, 10]


def test_a_class_of_one_image_is_trained_on():
    parts = split_dataset(labelled([[0]] * 9 + [[1]]), (0.7, 0.3))
    assert shares(parts, 1) == [1, 0]


@pytest.mark.parametrize("fractions", [(1.0,), (0.5, 0.6), (1.2, -0.2), (0.5, 0.5, 0.0)])
def test_fractions_that_are_none_are_errors(fractions):
    with pytest.raises(ValueError, match="sum to 1"):
        split_dataset(labelled([[0]] * 4), fractions)


def test_a_part_without_image_is_an_error():
    with pytest.raises(ValueError, match=r"4 images in 1 groups.*\[0.5\]"):
        split_dataset(labelled([[0]] * 4), (0.5, 0.5), groups=[[0, 1, 2, 3]])


def test_perceptual_hash_knows_copies_and_tells_others_apart(tmp_path):
    scenes = [scene(seed) for seed in range(12)]
    scenes[0].save(tmp_path / "low.jpg", quality=30)
    copies = [
        Image.open(tmp_path / "low.jpg"),
        scenes[0].resize((80, 60)),
        scenes[0].resize((333, 251)),
        ImageEnhance.Brightness(scenes[0]).enhance(1.2),
        scenes[0].crop((2, 2, 160, 120)),
    ]
    hashes = np.stack([perceptual_hash(np.asarray(image)) for image in (*scenes, *copies)])
    assert hashes.shape == (17, 255) and abs(hashes.mean() - 0.5) < 0.01
    pairs = set(near_pairs(hashes))
    family = [0, 12, 13, 14, 15, 16]
    assert pairs == {(a, b) for a in family for b in family if a < b}
    naive = (hashes[:, None] != hashes[None]).sum(-1)
    assert {(int(a), int(b)) for a, b in np.argwhere(naive <= 20) if a < b} == set(near_pairs(hashes, 20))


def test_connected_joins_chains():
    assert connected([(5, 2), (2, 9), (7, 1), (9, 11)]) == [[1, 7], [2, 5, 9, 11]]


def coco_of(folder, images):
    entries = []
    for number, (name, image, options) in enumerate(images, start=1):
        image.save(folder / name, **options)
        entries.append({"id": number, "file_name": name, "height": image.height, "width": image.width})
    square = [[5, 5, 20, 5, 20, 20, 5, 20]]
    marks = [{"id": e["id"], "image_id": e["id"], "category_id": 1, "segmentation": square} for e in entries]
    content = {"images": entries, "annotations": marks, "categories": [{"id": 1, "name": "thing"}]}
    (folder / "all.json").write_text(json.dumps(content))
    return folder / "all.json"


@pytest.fixture
def copied(tmp_path):
    """Ten pictures, one of them also as the same file and as a small JPEG, another one as a PNG once more."""
    images = [(f"{n}.png", scene(n), {}) for n in range(10)]
    images += [("same.png", scene(0), {}), ("small.jpg", scene(0).resize((80, 60)), {"quality": 50})]
    images += [("again.png", scene(4), {"compress_level": 1})]
    return coco_of(tmp_path, images)


def test_copies_are_found_by_file_and_by_look(copied, tmp_path):
    dataset = CocoDataset(copied, tmp_path)
    told = []
    assert duplicate_groups(dataset, progress=told.append) == [[0, 10, 11], [4, 12]]
    assert told == list(range(1, 14))
    assert duplicate_groups(dataset, near_bits=None) == [[0, 10]]
    arrays = ArrayDataset([np.asarray(scene(n)) for n in (1, 2, 1)], [[], [], []])
    assert duplicate_groups(arrays) == [[0, 2]]


@pytest.mark.parametrize(
    "how, told", [("damaged", "4.png: "), ("gone", "must be readable. Received .*4.png: .*No such")]
)
def test_an_unreadable_image_is_told_or_nobodys_copy(copied, tmp_path, how, told):
    strict, lenient = (CocoDataset(copied, tmp_path, on_error=on_error) for on_error in ("raise", "skip"))
    (tmp_path / "4.png").unlink() if how == "gone" else (tmp_path / "4.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match=told):
        duplicate_groups(strict)
    assert duplicate_groups(lenient) == [[0, 10, 11]]


def test_the_command_splits_without_leaks_into_files_that_open(copied, tmp_path, capsys):
    out = tmp_path / "parts"
    arguments = ["split", str(copied), str(out), "--images", str(tmp_path), "--fractions", "0.6", "0.4"]
    assert cli.main(arguments) == cli.SUCCESS
    told = capsys.readouterr().out
    parts = [CocoDataset(out / f"{name}.json", tmp_path) for name in ("train", "val")]
    names = [{record.source.name for record in part.records} for part in parts]
    assert not names[0] & names[1] and len(names[0] | names[1]) == 13
    for family in ({"0.png", "same.png", "small.jpg"}, {"4.png", "again.png"}):
        assert family <= names[0] or family <= names[1]
    assert json.loads((out / "copies.json").read_text()) == [["0.png", "same.png", "small.jpg"], ["4.png", "again.png"]]
    assert f"--annotations {out / 'train.json'}" in told and "2 groups of copies" in told
    first = (out / "train.json").read_text()
    assert cli.main([*arguments, "--seed", "0"]) == cli.SUCCESS and (out / "train.json").read_text() == first
    assert cli.main([*arguments, "--names", "one"]) == cli.MISTAKE and "name of its own" in capsys.readouterr().err
    for fraction in ("0", "1.5", "1"):
        with pytest.raises(SystemExit, match="2"):
            cli.main([*arguments[:-1], fraction])
        assert f"--fractions: must lie between 0 and 1, received {fraction}" in capsys.readouterr().err


def test_convert_data_writes_coco_and_says_how_to_use_it(tmp_path, capsys):
    generate_shapes(tmp_path / "shapes", 3, image_size=48)
    target = tmp_path / "out" / "coco.json"
    assert cli.main(["convert-data", str(tmp_path / "shapes"), str(target)]) == cli.SUCCESS
    told = capsys.readouterr().out
    images = tmp_path / "shapes" / "images"
    assert "3 images" in told and f"--images {images} --annotations {target}" in told
    ours, theirs = open_dataset(target, images), open_dataset(tmp_path / "shapes")
    assert ours.to_coco() == theirs.to_coco()
    assert cli.main(["convert-data", str(tmp_path / "shapes"), str(tmp_path / "out")]) == cli.MISTAKE
    assert ".json" in capsys.readouterr().err
    assert cli.main(["convert-data", str(tmp_path / "nothing"), str(target)]) == cli.MISTAKE
    assert "does not exist" in capsys.readouterr().err
