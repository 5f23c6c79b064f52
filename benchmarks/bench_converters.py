"""Time of an export in each runtime, and deviation of its detections from the model's, on real images.

python benchmarks/bench_converters.py --images coco/val2017

R50-FPN with the weights of tests/golden (100 detections in any image, the maximum), or --model. Images are cropped or
repeated to one size, because LiteRT needs a fixed size. Runtimes take turns; medians. For each detection of the model
it finds the nearest box of the export with the same label. "within 1 px" is the share of detections with such a box.
"""

import argparse
import pathlib
import statistics
import sys
import tempfile
import time

import numpy as np
import twins

import keras_maskrcnn as km
from keras_maskrcnn.data import read_image
from keras_maskrcnn.geometry.pasting import paste_mask_windows

OUTPUTS = ("boxes", "scores", "labels", "masks", "valid", "num_detections")


def main():
    args = parse()
    size = tuple(args.image_size)
    model = load(args)
    paths = sorted(pathlib.Path(args.images).glob("*.*"))[: args.count]
    images = [fit(read_image(path), size) for path in paths]
    expected = [km.Predictor(model)(image) for image in images]
    runners = {}
    with tempfile.TemporaryDirectory() as scratch:
        for name, prepare in RUNTIMES.items():
            if args.only and args.only not in name:
                continue
            try:
                began = time.perf_counter()
                path, run = prepare(model, pathlib.Path(scratch), size)
                runners[name] = Runner(run, megabytes(path), time.perf_counter() - began)
            except Exception as error:  # failures of runtimes are part of the result
                print(f"{name}: does not run: {' '.join(str(error).split())[:300]}", flush=True)
        for _ in range(args.runs):
            for runner in runners.values():
                for image in images:
                    runner.answer(image)
    found = sum(map(len, expected))
    print(f"{len(images)} images of {size[0]}x{size[1]}, {found} detections; medians of {args.runs} turns")
    heads = zip(("ms", "MB", "export s", "within 1 px", "box px", "score", "mask pixels"), (7, 6, 9, 12, 8, 8, 12))
    print(" " * 22, *(f"{head:>{width}}" for head, width in heads))
    for name, runner in runners.items():
        print(f"{name:22} {runner.row(images, expected, model.config)}", flush=True)


class Runner:
    """One runtime: its detections and its times."""

    def __init__(self, run, size, seconds):
        self.run, self.size, self.seconds, self.times, self.answers = run, size, seconds, [], {}

    def answer(self, image):
        """Run one image; keep the time and the detections. The first turn is not timed."""
        began = time.perf_counter()
        answer = self.run(image[None])
        if id(image) in self.answers:
            self.times.append(time.perf_counter() - began)
        self.answers[id(image)] = answer

    def row(self, images, expected, config):
        """The figures, as the table's line."""
        pairs = [compare(self.answers[id(image)], found, config) for image, found in zip(images, expected)]
        near, boxes, scores, agree = (np.concatenate(column) for column in zip(*pairs))
        milliseconds = statistics.median(self.times) * 1e3
        return (
            f"{milliseconds:7.0f} {self.size:6.1f} {self.seconds:9.0f} {near.mean():12.2%} "
            f"{boxes.max():8.4f} {scores.max():8.1e} {agree.mean():12.4%}"
        )


def compare(answer, found, config):
    """For each expected detection: whether there is one within a pixel, and its deviation.

    Returns:
        near bool (n,); of the near ones box errors, score errors and the share of equal pixels inside the box.
    """
    count = int(answer["num_detections"][0])
    boxes, labels = answer["boxes"][0, :count], answer["labels"][0, :count]
    apart = np.abs(found.boxes[:, None] - boxes[None]).max(-1)
    apart = np.where(found.labels[:, None] == labels[None], apart, np.inf)
    apart = np.concatenate([apart, np.full((len(found), 1), np.inf)], axis=1)
    nearest = apart.argmin(1)
    near = apart.min(1) < 1
    rows = nearest[near]
    scores = np.abs(answer["scores"][0, rows] - found.scores[near])
    # Paste both in the expected box, to compare masks without the effect of box rounding.
    windows = [
        paste_mask_windows(masks, found.boxes[near], found.image_size, pasting=config.mask_pasting)
        for masks in (found.box_masks[near], answer["masks"][0, rows])
    ]
    agree = np.array([(one[0] == other[0]).mean() for one, other in zip(*windows)])
    return near, apart.min(1)[near], scores, agree


def saved_model(model, scratch, size):
    import tensorflow as tf

    folder = km.export_saved_model(model, scratch / "saved_model")
    loaded = tf.saved_model.load(str(folder))
    signature = loaded.signatures["serving_default"]
    return folder, lambda images: {k: v.numpy() for k, v in signature(images=tf.constant(images)).items() if loaded}


def onnx(model, scratch, size):
    import onnxruntime

    path = km.export_onnx(model, scratch / "model.onnx")
    session = onnxruntime.InferenceSession(str(path))
    return path, lambda images: dict(zip(OUTPUTS, session.run(list(OUTPUTS), {"images": images})))


def litert(quantization):
    def prepare(model, scratch, size):
        import os

        from ai_edge_litert.interpreter import Interpreter

        path = km.export_litert(model, scratch / f"{quantization}.tflite", size, quantization=quantization)
        run = Interpreter(str(path), num_threads=os.cpu_count()).get_signature_runner("serving_default")
        return path, lambda images: run(images=images)

    return prepare


def openvino(name, write):
    def prepare(model, scratch, size):
        import openvino

        path = scratch / name
        if not path.exists():  # written in another runtime's turn
            write(model, path, size)
        compiled = openvino.Core().compile_model(
            openvino.convert_model(path), "CPU", {"INFERENCE_PRECISION_HINT": "f32"}
        )
        return path, lambda images: {output.any_name: value for output, value in compiled(images).items()}

    return prepare


RUNTIMES = {
    "SavedModel": saved_model,
    "ONNX, onnxruntime": onnx,
    "LiteRT float32": litert(None),
    "LiteRT float16": litert("float16"),
    "LiteRT dynamic_range": litert("dynamic_range"),
    "OpenVINO from .onnx": openvino("model.onnx", lambda model, path, size: km.export_onnx(model, path)),
    "OpenVINO from .tflite": openvino("None.tflite", lambda model, path, size: km.export_litert(model, path, size)),
}


def fit(image, size):
    """Repeat and cut an image to a size."""
    repeats = [-(-side // own) for side, own in zip(size, image.shape[:2])]
    return np.tile(image, (*repeats, 1))[: size[0], : size[1]]


def megabytes(path):
    """Size of a file or folder."""
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return sum(file.stat().st_size for file in files) / 1e6


def load(args):
    """The model of --model, or R50-FPN that does not resize images of the size."""
    if args.model:
        import keras

        return keras.saving.load_model(args.model, compile=False)
    if not twins.STATE.exists():
        twins.write_state()
    return twins.our_model(min_size=min(args.image_size), max_size=max(args.image_size), score_threshold=0.02)


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", required=True, help="folder of images")
    parser.add_argument("--count", type=int, default=4, help="images")
    parser.add_argument("--model", help="a .keras file")
    parser.add_argument("--image-size", type=int, nargs=2, default=(480, 640), metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--runs", type=int, default=5, help="turns, the first untimed")
    parser.add_argument("--only", help="runtimes whose name contains this")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
