"""Time of an answer in headless Chromium, and sizes of the files that it loads, beside onnxruntime in Python.

python benchmarks/bench_browser.py --image photo.jpg --onnxruntime-web onnxruntime-web-1.30.0.tgz

ResNet-18 with random weights, which finds the most detections that it may, or --model. The image is cropped or repeated
to --image-size. Chromium and Python take turns; medians. "page" is the time from the file to the drawn picture, "model"
that of the model alone. With one thread, as on servers that no service worker can be used with, and with all.
"""

import argparse
import pathlib
import statistics
import sys
import tempfile
import time

import numpy as np
from PIL import Image

import keras_maskrcnn as km

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "tests"))
from browser import Browser  # noqa: E402
from web_servers import served  # noqa: E402

READY = "document.getElementById('status').textContent.startsWith('Ready')"
WATCH = """new Promise((resolve) => document.addEventListener("found", ({ detail }) =>
    resolve([detail.milliseconds, detail.found.length]), { once: true }))"""


def main():
    args = parse()
    model = load(args)
    with tempfile.TemporaryDirectory() as scratch:
        scratch = pathlib.Path(scratch)
        folder = km.export_web(model, scratch / "page", args.onnxruntime_web)
        print_sizes(folder)
        picture = fit(km.data.read_image(args.image), args.image_size)
        Image.fromarray(picture).save(scratch / "image.png")
        predictor = km.serving.OnnxPredictor(folder / "model.onnx")
        with served(folder) as address:
            for threads in (1, None):
                with Browser(scratch / f"chromium-{threads}") as browser:
                    measure(browser, address, threads, scratch / "image.png", predictor, picture, args.runs)
    return 0


def measure(browser, address, threads, path, predictor, picture, runs):
    """Print the medians of Chromium and of Python in turns. `threads`: 1, or None for as many as the page takes."""
    if threads:
        script = "Object.defineProperty(navigator, 'hardwareConcurrency', { get: () => 1 })"
        browser.send("Page.addScriptToEvaluateOnNewDocument", source=script)
    began = time.perf_counter()
    browser.open(address)
    browser.wait(READY)
    loaded = time.perf_counter() - began
    pages, models, pythons, count = [], [], [], 0
    for run in range(runs + 1):
        browser.send("Runtime.evaluate", expression=f"self.watched = {WATCH}")
        began = time.perf_counter()
        browser.choose_file("#file", path)
        milliseconds, count = browser.run("self.watched")
        page = time.perf_counter() - began
        began = time.perf_counter()
        predictor(picture)
        if run:  # the first one warms up
            pages.append(page * 1e3)
            models.append(milliseconds)
            pythons.append((time.perf_counter() - began) * 1e3)
        browser.run("document.getElementById('file').value = ''")  # else the same file is no change
    used = browser.run("self.crossOriginIsolated ? Math.min(navigator.hardwareConcurrency, 8) : 1")
    print(
        f"{used} thread(s), {picture.shape[0]}x{picture.shape[1]}, {count} detections: model "
        f"{statistics.median(models):.0f} ms, page {statistics.median(pages):.0f} ms; "
        f"OnnxPredictor in Python {statistics.median(pythons):.0f} ms; the page was ready after {loaded:.1f} s"
    )


def print_sizes(folder):
    """Print the size of the model, the runtime and the page."""
    sizes = {path.relative_to(folder).as_posix(): path.stat().st_size for path in folder.rglob("*") if path.is_file()}
    runtime = sum(size for name, size in sizes.items() if name.startswith("onnxruntime/"))
    rest = sum(sizes.values()) - runtime - sizes["model.onnx"]
    print(
        f"model.onnx {sizes['model.onnx'] / 1e6:.1f} MB, onnxruntime {runtime / 1e6:.1f} MB, page {rest / 1e3:.0f} kB",
        flush=True,
    )


def fit(image, size):
    """Repeat and cut an image to a size."""
    repeats = [-(-side // own) for side, own in zip(size, image.shape[:2])]
    return np.tile(image, (*repeats, 1))[: size[0], : size[1]]


def load(args):
    """The model of --model, or ResNet-18 that does not resize images of the size."""
    if args.model:
        import keras

        return keras.saving.load_model(args.model, compile=False)
    return km.maskrcnn_resnet18_fpn(3, min_size=min(args.image_size), max_size=max(args.image_size))


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--image", required=True, help="an image file")
    parser.add_argument("--model", help="a .keras file")
    parser.add_argument("--onnxruntime-web", metavar="PATH", help="the npm package (default: downloaded once)")
    parser.add_argument("--image-size", type=int, nargs=2, default=(512, 512), metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--runs", type=int, default=7, help="turns, after an untimed one")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
