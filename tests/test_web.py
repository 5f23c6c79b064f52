"""The export for browsers: what stands in its folder, its mask pasting and run lengths, and the page in Chromium."""

import base64
import hashlib
import io
import json
import pathlib
import shutil
import subprocess
import tarfile
import types

import numpy as np
import pytest
from browser import Browser, find_chromium
from converter_models import export_by_command, noise, small_model
from onnxruntime_web import runtime_package
from PIL import Image
from pycocotools import mask as coco_mask
from test_onnx_models import resnet18
from tiny import tiny_config
from web_servers import served

import keras_maskrcnn as km
from keras_maskrcnn import cli
from keras_maskrcnn.geometry.pasting import PASTING_RULES, paste_mask_windows, stack_windows
from keras_maskrcnn.serving import web

PAGE = pathlib.Path(web.__file__).parent / "browser"


# The folder ------------------------------------------------------------------------------------------------


@pytest.fixture
def package(tmp_path, monkeypatch):
    """An archive with the names of onnxruntime-web's files, which counts as the real one."""
    path = tmp_path / "runtime.tgz"
    with tarfile.open(path, "w:gz") as archive:
        for name in web.RUNTIME_FILES:
            content = json.dumps({"version": web.RUNTIME_VERSION}).encode() if name == "package.json" else name.encode()
            entry = tarfile.TarInfo(f"package/{name}")
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    digest = base64.b64encode(hashlib.sha512(path.read_bytes()).digest()).decode()
    monkeypatch.setattr(web, "RUNTIME_SHA512", digest)
    return path


@pytest.fixture
def quick(monkeypatch):
    """Models without weights, and an export to ONNX that writes `content`."""
    made = types.SimpleNamespace(content=b"a graph", model=types.SimpleNamespace(config=tiny_config(), weights=[]))
    monkeypatch.setattr(web, "export_onnx", lambda model, path, dtype: path.write_bytes(made.content))
    return made


@pytest.mark.tensorflow
def test_a_folder_holds_the_page_the_model_and_the_runtime(quick, package, tmp_path):
    folder = web.export_web(quick.model, tmp_path / "page", package)
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    runtime = {f"onnxruntime/{pathlib.PurePosixPath(name).name}" for name in web.RUNTIME_FILES}
    assert names == {path.name for path in PAGE.iterdir()} | runtime | {"model.onnx", "model.json"}
    about = json.loads((folder / "model.json").read_text())
    assert about["class_names"] == ["class 0", "class 1", "class 2"] and about["category_ids"] == [1, 2, 3]
    assert about["model_bytes"] == 7 and about["mask_pasting"] == "subpixel" and about["num_channels"] == 3
    worker = (folder / "service-worker.js").read_text()
    kept = json.loads("[" + worker.split("const FILES = [")[1].split("];")[0] + "]")
    unkept = {"model.onnx", "service-worker.js", "onnxruntime/package.json", "onnxruntime/README.md"}
    assert set(kept) == {"./", *names} - unkept and "@" not in worker.split("const PREFIX")[0]
    assert list(tmp_path.glob(".*")) == []  # neither locks nor temporary folders


@pytest.mark.tensorflow
def test_the_command_writes_the_folder_and_says_how_to_serve_it(quick, package, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("keras_maskrcnn.cli.export.load_model", {"run": quick.model}.get)
    command = ["export", "run", str(tmp_path / "page"), "--format", "web", "--onnxruntime-web", str(package)]
    assert cli.main(command) == cli.SUCCESS
    assert (tmp_path / "page" / "model.onnx").read_bytes() == b"a graph"
    assert f"serve it: python -m http.server --directory {tmp_path / 'page'}, and open" in capsys.readouterr().out
    assert cli.main(command) == cli.MISTAKE
    assert (
        f"{tmp_path / 'page'}, which exists. Choose another name, or replace it: --overwrite."
        in capsys.readouterr().err
    )
    quick.content = b"a chart"
    assert cli.main([*command, "--overwrite"]) == cli.SUCCESS
    assert (tmp_path / "page" / "model.onnx").read_bytes() == b"a chart"


@pytest.mark.tensorflow
def test_the_version_of_the_worker_is_that_of_the_content(quick, package, tmp_path):
    def version():
        folder = web.export_web(quick.model, tmp_path / "page", package, overwrite=True)
        return (folder / "service-worker.js").read_text().split('VERSION = "')[1].split('"')[0]

    first = version()
    assert len(first) == 64 and version() == first
    quick.content = b"a chart"
    assert version() != first


@pytest.mark.tensorflow
def test_the_runtime_comes_from_a_folder_or_from_the_cache(quick, package, tmp_path, cache_folder, monkeypatch):
    with tarfile.open(package) as archive:
        archive.extractall(tmp_path / "node_modules", filter="data")
    unpacked = tmp_path / "node_modules" / "package"
    monkeypatch.setattr(web, "RUNTIME_URL", package.as_uri())
    folders = [web.export_web(quick.model, tmp_path / f"{i}", source) for i, source in enumerate((unpacked, None))]
    assert (cache_folder / f"onnxruntime-web-{web.RUNTIME_VERSION}.tgz").is_file()
    package.unlink()
    folders.append(web.export_web(quick.model, tmp_path / "2"))  # no second download
    wasm = [(folder / "onnxruntime" / "ort-wasm-simd-threaded.wasm").read_bytes() for folder in folders]
    assert wasm == [b"dist/ort-wasm-simd-threaded.wasm"] * 3


@pytest.mark.tensorflow
def test_what_cannot_be_written_is_refused_before_the_conversion(quick, package, tmp_path, cache_folder, monkeypatch):
    monkeypatch.setattr(web, "export_onnx", None)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("the only copy")
    (tmp_path / "other").mkdir()
    with pytest.raises(ValueError, match=r"must not exist.*mine.*overwrite=True"):
        km.export_web(quick.model, tmp_path / "mine", package)
    with pytest.raises(ValueError, match=r"overwrite=True replaces a folder of such an export.*model.json.*mine"):
        km.export_web(quick.model, tmp_path / "mine", package, overwrite=True)
    with pytest.raises(ValueError, match=r"onnxruntime_web=... must be the npm package.*none.tgz.*npm pack"):
        km.export_web(quick.model, tmp_path / "page", tmp_path / "none.tgz")
    with pytest.raises(ValueError, match=r"node_modules/onnxruntime-web.*other.*npm pack onnxruntime-web@"):
        km.export_web(quick.model, tmp_path / "page", tmp_path / "other")
    (tmp_path / "other" / "dist").mkdir()
    for name in web.RUNTIME_FILES:
        (tmp_path / "other" / name).write_text('{"version": "1.2.3"}')
    with pytest.raises(ValueError, match=r"Received: .*other of version 1.2.3"):
        km.export_web(quick.model, tmp_path / "page", tmp_path / "other")
    (tmp_path / "damaged.tgz").write_bytes(b"no package")
    with pytest.raises(ValueError, match=r"has the integrity sha512-.*damaged.tgz with sha512-"):
        km.export_web(quick.model, tmp_path / "page", tmp_path / "damaged.tgz")
    quick.model.config = tiny_config(image_dtype="uint16", pixel_mean=(1.0,) * 3, pixel_std=(1.0,) * 3)
    with pytest.raises(ValueError, match="gray or RGB images of 8 bits. Received: .* 3 channels of uint16"):
        km.export_web(quick.model, tmp_path / "page", package)
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "the only copy" and not (tmp_path / "page").exists()


@pytest.mark.slow  # unpacks 100 MB
def test_the_pinned_runtime_is_the_one_that_npm_serves():
    web._verify(runtime_package(), "")
    assert sorted(map(len, web._from_archive(runtime_package()).values()))[-1] == 14239897


# Masks and run lengths -------------------------------------------------------------------------------------

SCRIPT = """
import { readFileSync } from "node:fs";
import { pasteMask } from "./pasting.js";
import { compressed, runLengths } from "./coco.js";
const answers = JSON.parse(readFileSync("cases.json")).map(({ mask, side, box, height, width, pasting }) => {
  const image = { width, height };
  const window = pasteMask(Float32Array.from(mask), side, box, image, pasting);
  return { ...window, data: [...window.data], counts: compressed(runLengths(window, image)) };
});
console.log(JSON.stringify(answers));
"""


def test_javascript_pastes_masks_and_codes_runs_as_python_does(tmp_path):
    if shutil.which("node") is None:
        pytest.skip("Node.js is not installed")
    cases = [paste_case(number) for number in range(120)]
    for name in ("pasting.js", "coco.js"):
        shutil.copy(PAGE / name, tmp_path)
    (tmp_path / "package.json").write_text('{"type": "module"}')
    (tmp_path / "script.js").write_text(SCRIPT)
    (tmp_path / "cases.json").write_text(json.dumps(cases))
    done = subprocess.run(["node", "script.js"], cwd=tmp_path, capture_output=True, text=True, check=True)
    pixels = 0
    for case, answer in zip(cases, json.loads(done.stdout), strict=True):
        size = (case["height"], case["width"])
        mask = np.array(case["mask"], "float32").reshape(1, case["side"], case["side"])
        ((window, x0, y0),) = paste_mask_windows(mask, [case["box"]], size, pasting=case["pasting"])
        found = np.array(answer["data"], bool).reshape(answer["height"], answer["width"])
        np.testing.assert_array_equal(found, window.reshape(found.shape))
        full = stack_windows([(found, answer["x0"], answer["y0"])], size)[0]
        np.testing.assert_array_equal(full, stack_windows([(window, x0, y0)], size)[0])
        assert answer["counts"] == coco_mask.encode(np.asfortranarray(full, np.uint8))["counts"].decode()
        pixels += full.sum()
    assert pixels > 10_000


def paste_case(number):
    """A random mask and box: some reach over the border, are empty, cover the image, or lie on whole pixels."""
    rng = np.random.default_rng(number)
    side, (height, width) = (14, 28)[number % 2], rng.integers(1, 90, 2).tolist()
    xs, ys = np.sort(rng.uniform(-5, width + 5, 2)), np.sort(rng.uniform(-5, height + 5, 2))
    if number % 5 == 0:
        xs, ys = np.round(xs), np.round(ys)
    if number % 7 == 0:
        xs[1] = xs[0]
    if number % 11 == 0:
        xs, ys = np.array([0, width]), np.array([0, height])
    ramp = np.indices((side, side)).sum(0) / (2 * side)
    mask = rng.random((side, side)) if number % 2 else np.ones((side, side)) if number % 6 == 0 else ramp
    box = np.array([xs[0], ys[0], xs[1], ys[1]], "float32").tolist()
    mask = mask.astype("float32").ravel().tolist()
    place = {"side": side, "height": height, "width": width, "pasting": PASTING_RULES[number % 4]}
    return {"mask": mask, "box": box, **place}


# In Chromium -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model():
    return small_model()


@pytest.fixture(scope="module")
def folder(model, tmp_path_factory):
    for name in ("tf2onnx", "onnx"):
        pytest.importorskip(name, reason=f"{name} is not installed: pip install keras-maskrcnn[onnx]")
    if find_chromium() is None:
        pytest.skip("Chromium is not installed")
    options = ("--format", "web", "--onnxruntime-web", str(runtime_package()))
    return export_by_command(model, tmp_path_factory.mktemp("web") / "page", *options)


READY = "part('status').textContent.startsWith('Ready')"
PARTS = "const part = (id) => document.getElementById(id);"


def page_value(browser, script):
    return browser.run(f"(() => {{ {PARTS} return {script}; }})()")


def page_wait(browser, script):
    return browser.wait(f"(() => {{ {PARTS} return {script} || (!part('error').hidden && 'error'); }})()")


def answer(browser, path):
    """What the page finds in an image file: the COCO dataset that it saves."""
    browser.choose_file("#file", path)
    assert page_wait(browser, f"part('status').textContent.startsWith('{path.name}:')") is True, words(browser)
    lowest = "part('score').value = part('score').min, part('score').dispatchEvent(new Event('input'))"
    page_value(browser, f"({lowest}, part('save').click())")
    return json.loads(browser.downloaded(f"{path.stem}.json"))


def words(browser):
    return page_value(browser, "part('error').textContent")


def assert_same_dataset(dataset, found, path, boxes=0.05, scores=1e-4):
    """What the page saved is what Predictor finds."""
    height, width = found.image_size
    assert dataset["images"] == [{"id": 1, "file_name": path.name, "width": width, "height": height}]
    assert [one["name"] for one in dataset["categories"]] == list(found.class_names)
    expected, left = found.to_coco(1), list(dataset["annotations"])
    assert len(left) == len(expected)
    for other in expected:  # neighbours of nearly equal scores may change places
        same_class = [one for one in left if one["category_id"] == other["category_id"]]
        one = min(same_class, key=lambda one: np.abs(np.subtract(one["bbox"], other["bbox"])).max())
        left.remove(one)
        np.testing.assert_allclose(one["bbox"], other["bbox"], atol=boxes)
        assert one["score"] == pytest.approx(other["score"], abs=scores)
        ours, theirs = (coco_mask.decode(each["segmentation"]) for each in (one, other))
        assert (ours == theirs).mean() > 0.999 and one["area"] == ours.sum()


def transparent(height, width):
    """RGBA whose stored colours no browser's canvas keeps: of alpha 0, 1 and 128."""
    return np.dstack([noise(height, width, 3), np.resize(np.uint8([0, 1, 128, 255]), (height, width))])


@pytest.mark.slow
@pytest.mark.tensorflow
def test_chromium_finds_what_python_finds_and_goes_on_without_the_network(model, folder, tmp_path):
    photo = noise(96, 128)
    kinds = {
        "rgb.png": Image.fromarray(photo),
        "large.png": Image.fromarray(noise(300, 310, 1)),
        "alpha.png": Image.fromarray(transparent(90, 120)),
        "gray.png": Image.fromarray(noise(100, 90, 2)[..., 0]),
        "palette.png": Image.fromarray(noise(100, 130, 4)).quantize(64),
        "lossless.webp": Image.fromarray(photo),
        "none.png": Image.fromarray(noise(300, 40)),
    }
    turned = Image.Exif()
    turned[0x0112] = 6
    for name, image in kinds.items():
        image.save(tmp_path / name, **({"lossless": True} if name.endswith("webp") else {}))
    Image.fromarray(photo).save(tmp_path / "turned.jpg", quality=95, exif=turned)
    predictor = km.Predictor(model)
    with Browser(tmp_path / "chromium") as browser:
        with served(folder) as address:
            browser.open(address)
            assert page_wait(browser, READY) is True, words(browser)
            assert "without a network" in page_value(browser, "part('status').textContent")
            assert browser.run("self.crossOriginIsolated")  # several threads
            for name in kinds:
                assert_same_dataset(answer(browser, tmp_path / name), predictor(tmp_path / name), tmp_path / name)
            path = tmp_path / "turned.jpg"
            found = predictor(path)
            assert found.image_size == (128, 96)
            assert_same_dataset(answer(browser, path), found, path, boxes=0.5, scores=2e-3)  # another JPEG decoder
        path = tmp_path / "large.png"  # the server is gone
        assert_same_dataset(answer(browser, path), predictor(path), path)
        browser.open(address)
        assert page_wait(browser, READY) is True, words(browser)
        assert_same_dataset(answer(browser, path), predictor(path), path)


@pytest.mark.slow
@pytest.mark.tensorflow
def test_chromium_finds_in_twelve_photos_what_python_finds(shared_data, tmp_path):
    """ResNet-18 on photos of coco_tiny, all of different sizes, saved without loss."""
    for name in ("tf2onnx", "onnx"):
        pytest.importorskip(name, reason=f"{name} is not installed: pip install keras-maskrcnn[onnx]")
    if find_chromium() is None:
        pytest.skip("Chromium is not installed")
    model = resnet18()
    folder = km.export_web(model, tmp_path / "page", runtime_package())
    images = map(km.data.read_image, sorted((shared_data / "coco_tiny" / "val2017").glob("*.jpg")))
    by_size = list({image.shape: image for image in images}.values())[:12]
    assert len(by_size) == 12
    predictor, counts = km.Predictor(model), []
    with Browser(tmp_path / "chromium") as browser, served(folder) as address:
        browser.open(address)
        assert page_wait(browser, READY) is True, words(browser)
        for number, image in enumerate(by_size):
            path = tmp_path / f"photo{number}.png"
            Image.fromarray(image).save(path)
            found = predictor(path)
            assert_same_dataset(answer(browser, path), found, path)
            counts.append(len(found))
    assert sum(count > 0 for count in counts) >= 6


@pytest.mark.slow
@pytest.mark.tensorflow
def test_the_page_answers_the_keyboard_the_camera_and_wrong_files_in_words(folder, tmp_path):
    (tmp_path / "text.png").write_text("no image")
    Image.fromarray(noise(40, 40)[..., 0].astype(np.uint16) * 200).save(tmp_path / "deep.png")
    Image.fromarray(noise(96, 128)).save(tmp_path / "rgb.png")
    with Browser(tmp_path / "chromium") as browser, served(folder) as address:
        browser.open(address)
        assert page_wait(browser, READY) is True, words(browser)
        for name, told in (("text.png", "cannot read text.png as an image"), ("deep.png", "deep.png has 16 bits")):
            browser.choose_file("#file", tmp_path / name)
            assert page_wait(browser, "false") == "error" and told in words(browser)
        every = len(answer(browser, tmp_path / "rgb.png")["annotations"])
        assert every == 10 and page_value(browser, "part('rows').children.length") == every
        assert page_value(browser, "part('error').hidden")
        page_value(browser, "part('score').focus()")
        browser.press("ArrowRight", "ArrowRight", 39)
        above = page_value(browser, "part('rows').children.length")
        assert 0 < above < every and page_value(browser, "part('score-value').textContent") == "0.38"
        assert page_value(browser, "part('count').textContent") == f"{above} found with a score of at least 0.38"
        assert "class" in page_value(browser, "part('canvas').getAttribute('aria-label')")
        focusable = "[...document.querySelectorAll('button, input')].filter((one) => !one.closest('[hidden]'))"
        named = f"{focusable}.every((one) => one.labels.length || one.textContent)"
        assert browser.run(f"{focusable}.length") == 4 and browser.run(named)
        page_value(browser, "part('camera').focus()")
        browser.press("Enter", "Enter", 13, "\r")
        assert page_wait(browser, "part('video').videoWidth > 0") is True, words(browser)
        page_value(browser, "part('take').click()")
        assert page_wait(browser, "part('status').textContent.startsWith('camera.png:')") is True, words(browser)


@pytest.mark.slow
@pytest.mark.tensorflow
@pytest.mark.parametrize(
    "broken, told",
    [
        ("model.onnx", "model.onnx is missing on the server (status 404). Copy the whole exported folder"),
        ("onnxruntime/ort-wasm-simd-threaded.wasm", "The model cannot be started in this browser"),
    ],
)
def test_what_is_missing_on_the_server_is_named(folder, tmp_path, broken, told):
    shutil.copytree(folder, tmp_path / "page")
    (tmp_path / "page" / broken).unlink()
    with Browser(tmp_path / "chromium") as browser, served(tmp_path / "page") as address:
        browser.open(address)
        assert page_wait(browser, READY) == "error" and told in words(browser)


@pytest.mark.slow
@pytest.mark.tensorflow
def test_opened_as_a_file_the_page_says_how_to_serve_it(folder, tmp_path):
    with Browser(tmp_path / "chromium") as browser:
        browser.open((folder / "index.html").as_uri())
        assert page_wait(browser, "false") == "error" and "python -m http.server" in words(browser)
