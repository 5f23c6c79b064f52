"""Datasets and images at addresses: the same as those on a disk, and messages that name the address."""

import http.server
import pathlib
import warnings

import numpy as np
import pytest
from PIL import Image
from reader_tools import save_image, save_turned
from remote_folders import STORES, elsewhere, in_memory
from test_finding_files import touch
from test_opener import MAKERS
from web_servers import Quiet, answering, served

from keras_maskrcnn.checkup import inspect_dataset
from keras_maskrcnn.data import generate_shapes, open_dataset, read_image
from keras_maskrcnn.data.images.reading import ImageError, image_size
from keras_maskrcnn.data.loading.choosing import choose_workers
from keras_maskrcnn.data.loading.options import LoaderOptions
from keras_maskrcnn.data.readers.fields import FaultyAnnotation
from keras_maskrcnn.data.readers.folders import common_folder
from keras_maskrcnn.data.readers.image_finder import ImageFinder
from keras_maskrcnn.host import remote_paths, remote_servers
from keras_maskrcnn.host.addresses import as_path, is_address, relative_name, walk

pytest.importorskip("fsspec")
pytest.importorskip("aiohttp")
KINDS = ("memory", "http", *STORES)


@pytest.fixture
def cache(cache_folder):
    return cache_folder / "remote"


# Addresses -------------------------------------------------------------------------------------------------


def test_addresses_are_told_from_paths(tmp_path):
    assert all(map(is_address, ("s3://b/c", "simplecache::gs://b", "memory://a", "file:///a", "HTTP://h/a")))
    assert not any(map(is_address, ("a/b", "C:\\a", "/a:b", "c:/a", "://a", pathlib.Path("s3://b"), "::a", 5)))
    assert as_path("file:///a/b%20c.png") == pathlib.Path("/a/b c.png") and as_path("a") == pathlib.Path("a")


@pytest.mark.parametrize("kind", KINDS)
def test_a_path_elsewhere_has_the_methods_of_one_here(tmp_path, kind):
    (tmp_path / "in" / "sub").mkdir(parents=True)
    (tmp_path / "in" / "a b.x.png").write_bytes(bytes(range(256)) * 1000)
    (tmp_path / "in" / "sub" / "c.txt").write_bytes(b"c")
    with elsewhere(kind, tmp_path) as address:
        root = as_path(address)
        file = root / "in" / "a b.x.png"
        here = tmp_path / "in" / "a b.x.png"
        for name in ("name", "stem", "suffix"):
            assert getattr(file, name) == getattr(here, name)
        assert file.parent == root / "in" and file.parent.parent == root and file.with_suffix(".j").name == "a b.x.j"
        assert file.relative_to(root).as_posix() == "in/a b.x.png"
        assert root / "in/sub/../a b.x.png" == file == as_path(str(file))
        assert as_path("http://h/a") / ".." / ".." / "b" == as_path("http://h/b")
        assert file.is_file() and not file.is_dir() and (root / "in").is_dir() and not (root / "in").is_file()
        assert not (root / "no").exists() and not (file / "no").exists() and not as_path(f"{address}/no").exists()
        fresh = as_path(str(file))  # of a folder that was not listed
        assert fresh.exists() and not fresh.is_dir() and repr(fresh) == f"RemotePath({str(file)!r})"
        assert file.read_bytes() == here.read_bytes() == file.open().read() == file.open_head().read()
        with file.open_head() as opened:
            assert opened.read(10) == bytes(range(10)) and opened.seek(-5, 2) == 255995
            assert opened.read() == bytes(range(251, 256)) and opened.seek(3) == 3 and opened.read(2) == b"\3\4"
        names = [(str(place), sorted(folders), sorted(files)) for place, folders, files in walk(address)]
        assert names == [
            (f"{address}", ["in"], []),
            (f"{address}/in", ["sub"], ["a b.x.png"]),
            (f"{address}/in/sub", [], ["c.txt"]),
        ]


def test_the_head_of_a_file_is_read_without_the_rest(tmp_path, monkeypatch):
    noise = np.random.default_rng(0).integers(0, 256, (300, 310, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "a.jpg", quality=95)
    asked = []
    part = remote_paths.RemotePath.part
    monkeypatch.setattr(remote_paths.RemotePath, "part", lambda self, *at: asked.append(at) or part(self, *at))
    monkeypatch.setattr(remote_paths.RemotePath, "read_bytes", lambda self: pytest.fail("read whole"))
    assert image_size(f"{in_memory(tmp_path)}/a.jpg") == (300, 310) and asked == [(0, 2**16)]


def test_cached_files_are_asked_for_once(tmp_path, cache):
    save_image(tmp_path / "a.png", 3)
    with served(tmp_path) as address:
        first = read_image(f"simplecache::{address}/a.png")
    assert np.array_equal(first, read_image(f"simplecache::{address}/a.png"))  # the server has ended
    path = as_path(f"simplecache::{address}/a.png")
    assert path.read_bytes() == path.open().read() == (tmp_path / "a.png").read_bytes()
    assert [path.suffix for path in cache.iterdir()] == [".png"]


def test_a_server_that_stumbles_is_asked_again(tmp_path, monkeypatch):
    save_image(tmp_path / "a.png", 3)
    path, tries = as_path(f"{in_memory(tmp_path)}/a.png"), []
    system = type(path._system()[0])
    real = system.cat_file

    def stumble(self, *args, **options):
        tries.append(1)
        if len(tries) < 3:
            raise ConnectionResetError("stumbled")
        return real(self, *args, **options)

    monkeypatch.setattr(system, "cat_file", stumble)
    monkeypatch.setattr(remote_servers, "_WAITS", (0, 0))
    assert path.read_bytes() == (tmp_path / "a.png").read_bytes() and len(tries) == 3
    tries[:] = [1] * -5
    monkeypatch.setattr(remote_servers, "_WAITS", ())
    with pytest.raises(OSError, match=r"within reach. Received memory://.*/a\.png: ConnectionResetError: stumbled"):
        path.read_bytes()


class Refusing(Quiet, http.server.BaseHTTPRequestHandler):
    """Answers every question with 403."""

    asked = 0

    def do_GET(self):  # noqa: N802
        type(self).asked += 1
        self.send_error(403, "for members")

    do_HEAD = do_GET  # noqa: N815


def test_a_server_that_refuses_is_not_asked_again():
    with answering(Refusing) as address:
        told = rf"{address}/a.png may not be read: the server refuses it: ClientResponseError: 403.*for members"
        with pytest.raises(PermissionError, match=told):
            as_path(f"{address}/a.png").read_bytes()
        assert Refusing.asked == 1
        with pytest.raises(ImageError, match=rf"must be readable. Received {address}/a.png: .*{told}"):
            read_image(f"{address}/a.png")


def test_a_server_that_shows_an_empty_list_may_hold_anything(tmp_path):
    with served(tmp_path) as address:
        assert as_path(address).names() is None and as_path(address).is_unlisted()
        (tmp_path / "a.png").write_bytes(b"a")
        assert as_path(address).names() == {"a.png": False}


@pytest.mark.parametrize(
    "file, folder, name",
    [
        ("memory://a/b/c.png", "memory://a", "b/c.png"),
        ("memory://a/c.png", "memory://b", "memory://a/c.png"),
        ("memory://a/c.png", "/a", "memory://a/c.png"),
        ("http://h/a%20b/c.png", "http://h", "a b/c.png"),
        ("http://h/a/c.png", "http://g/a", "http://h/a/c.png"),
        ("/a/b/c.png", "/a/d", "../b/c.png"),
    ],
)
def test_names_of_files_are_relative_to_their_folder_or_whole(file, folder, name):
    assert relative_name(file, folder) == name


@pytest.mark.parametrize(
    "files, folder",
    [
        (["memory://a/b/x.png", "memory://a/c/d/y.png"], "memory://a"),
        (["memory://a/x.png", "memory://a/b/y.png"], "memory://a"),
        (["http://h/a/x.png", "http://g/a/x.png"], None),
        (["http://h/a/x.png", "/a/x.png"], None),
    ],
)
def test_the_common_folder_of_files_elsewhere(files, folder):
    assert common_folder(files) == (folder and as_path(folder))


def test_images_are_found_elsewhere_as_on_a_disk(tmp_path):
    touch(tmp_path, "home/in/images/one/a.png", "home/in/images/two/a.png", "home/in/images/two/b.png", "other/c.png")
    address = in_memory(tmp_path)
    finder = ImageFinder(f"{address}/home/in/coco.json")
    with pytest.raises(FaultyAnnotation, match=rf"fits several files: {address}/.*one/a.png, {address}/.*two/a.png"):
        finder.find("a.png")
    as_path(f"{address}/home/in/images/one/a.png").write_bytes(b"images/two/a.png")
    as_path(f"{address}/home/in/images/two/a.png").write_bytes(b"images/two/a.png")
    assert str(finder.find("a.png")) == f"{address}/home/in/images/one/a.png"
    assert str(finder.find("images/two/b.png")) == f"{address}/home/in/images/two/b.png"  # there is no images/images
    assert str(finder.find("../in/images/two/b.png")) == f"{address}/home/in/images/two/b.png"
    assert str(finder.find("images/x/two/b.png")) == f"{address}/home/in/images/two/b.png"
    assert str(finder.find("../../other/c.png")) == f"{address}/other/c.png"
    assert [note.partition(": ")[0] for note in finder.notes] == [
        "An image was found by the last part of its name",
        f"An image was found outside {address}/home, where its name leads",
    ]


# Datasets --------------------------------------------------------------------------------------------------


def contents(dataset):
    """What a dataset holds, without where."""
    coco = dataset.to_coco()
    coco.pop("info", None)
    return coco, dataset.class_names, dataset.category_ids, [dataset.load_image(k) for k in range(len(dataset))]


def opened(source, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return open_dataset(source, **options)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", MAKERS)
def test_every_format_is_read_elsewhere_as_here(tmp_path, kind, name):
    source = MAKERS[name](tmp_path)
    inside = source.relative_to(tmp_path).as_posix()
    coco, *names, images = contents(opened(source))
    with elsewhere(kind, tmp_path) as address:
        for place in (address, address if inside == "." else f"{address}/{inside}"):
            dataset = opened(place)
            there, *names_there, images_there = contents(dataset)
            assert there == coco and names_there == names and address in dataset.name
            assert all(np.array_equal(*pair) for pair in zip(images, images_there, strict=True))
            assert {str(record.source).startswith(address) for record in dataset} == {True} or name == "labelme"


@pytest.mark.parametrize("kind", KINDS)
def test_images_beside_annotations_that_are_here_or_elsewhere(tmp_path, kind):
    file = generate_shapes(tmp_path / "data", 3, image_size=32)
    expected = contents(opened(file))
    with elsewhere(kind, tmp_path / "data") as address:
        for source, folder in (
            (file, f"{address}/images"), (f"{address}/annotations.json", tmp_path / "data" / "images"),
        ):  # fmt: skip
            coco, *_, images = contents(opened(source, image_dir=folder))
            assert coco == expected[0] and all(np.array_equal(*pair) for pair in zip(images, expected[3], strict=True))


def test_a_server_that_lists_no_folders_has_the_images_that_coco_names(tmp_path):
    file = generate_shapes(tmp_path, 3, image_size=32)
    (tmp_path / "images").rename(tmp_path / "a b")
    expected = contents(opened(file, image_dir=tmp_path / "a b"))
    with served(tmp_path, lists_folders=False) as address:
        dataset = opened(f"{address}/annotations.json", image_dir=f"{address}/a%20b")
        coco, *_, images = contents(dataset)
        assert coco == expected[0] and all(np.array_equal(*pair) for pair in zip(images, expected[3], strict=True))
        next((tmp_path / "a b").iterdir()).unlink()
        with pytest.raises(ImageError, match=rf"must exist. Received {address}/a%20b/"):
            contents(dataset)


def test_a_turned_photo_and_one_from_the_command_line(tmp_path):
    save_turned(tmp_path / "a.jpg")
    address = f"{in_memory(tmp_path)}/a.jpg"
    assert np.array_equal(read_image(address), read_image(tmp_path / "a.jpg"))
    assert image_size(address) == image_size(tmp_path / "a.jpg")


@pytest.mark.parametrize("kind", KINDS)
def test_check_data_finds_elsewhere_what_it_finds_here(tmp_path, kind):
    file = generate_shapes(tmp_path, 3, image_size=32)
    names = sorted((tmp_path / "images").iterdir())
    names[1].write_bytes(names[0].read_bytes())
    save_image(tmp_path / "images" / "unlisted.png", 5)
    here = inspect_dataset(opened(file))
    with elsewhere(kind, tmp_path) as address:
        there = inspect_dataset(opened(f"{address}/annotations.json"))
        told = [(one.kind, one.message.replace(address, str(tmp_path))) for one in there.findings]
        assert told == [(one.kind, one.message) for one in here.findings] and len(told) >= 2
        assert there.digests == here.digests


def test_names_that_are_urls_are_looked_for_below_the_folder(tmp_path):
    file = generate_shapes(tmp_path, 2, image_size=32)
    names = {"00001.png": "s3://bucket/images/00001.png", "00002.png": "http://h/images/00002.png?x=1"}
    text = file.read_text()
    for name, url in names.items():
        assert f'"{name}"' in text
        text = text.replace(f'"{name}"', f'"{url}"')
    file.write_text(text)
    with served(tmp_path, lists_folders=False) as address:
        dataset = opened(file, image_dir=address)
        assert [record.source for record in dataset] == [f"{address}/images/{name}" for name in names]
        assert dataset.load_image(1).shape == (32, 32, 3)


# Messages --------------------------------------------------------------------------------------------------


def test_messages_name_the_address(tmp_path):
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\nhalf")
    for address in (in_memory(tmp_path),):
        with pytest.raises(ImageError, match=rf"Received {address}/a\.png: a PNG that is cut off"):
            read_image(f"{address}/a.png")
        with pytest.raises(ImageError, match=rf"An image file must exist. Received {address}/b\.png"):
            read_image(f"{address}/b.png")
        with pytest.raises(ValueError, match=rf"Received {address}/no, which does not exist"):
            open_dataset(f"{address}/no")
        with pytest.raises(ValueError, match=rf"Received the folder {address} with \['a.png'\]"):
            open_dataset(address)
        with pytest.raises(ValueError, match=rf"A folder of images must exist. Received {address}/no, which is not a"):
            ImageFinder(tmp_path / "coco.json", f"{address}/no")
    with pytest.raises(ValueError, match=r"a protocol that fsspec has.* Received s4://a/b: .*s4"):
        open_dataset("s4://a/b")
    with pytest.raises(ImageError, match=r"must be readable. Received s4://a/b.png: .*protocol"):
        read_image("s4://a/b.png")


def test_a_missing_package_is_named_with_its_remedy(monkeypatch):
    import fsspec

    def missing(protocol):
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr(fsspec, "filesystem", missing)
    with pytest.raises(ValueError, match=r"Received s3://b/c: Install s3fs.*keras-maskrcnn\[remote\]"):
        open_dataset("s3://b/c")


def test_images_in_memory_are_read_by_threads(tmp_path):
    from known_answers import small_config

    dataset = opened(in_memory(generate_shapes(tmp_path, 2, image_size=32).parent))
    options = LoaderOptions(workers=3, worker_type="process")
    chosen = choose_workers(options, dataset.image_sizes, small_config(), files=dataset.records.files())
    assert (chosen.kind, chosen.count) == ("thread", 2) and "memory:// are in this process alone" in chosen.why
