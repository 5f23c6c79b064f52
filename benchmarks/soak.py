"""Many images of different sizes through one engine: does its memory stay flat?

python benchmarks/soak.py model.keras --engine onnxruntime --images 500

The export that the engine needs is made of the model in another process, so that only predictions count. Prints the
resident memory after image 50 and after the last one, and fails if it grew by more than `--allowed` megabytes.
"""

import argparse
import pathlib
import subprocess
import sys
import tempfile
import time

import numpy as np

ENGINES = {  # engine -> options of `export`, name of what it writes
    "keras": None,
    "savedmodel": ((), "saved_model"),
    "onnxruntime": (("--format", "onnx"), "model.onnx"),
    "openvino": (("--format", "openvino"), "openvino"),
    "litert": (("--format", "litert", "--image-size", "480", "640"), "model.tflite"),
}
FIRST = 50  # images after which memory is compared: by then every size has been seen
SIZES = ((480, 640), (640, 480), (427, 640), (333, 500), (600, 400), (256, 256))


def main():
    """Export, run, compare."""
    args = parse()
    with tempfile.TemporaryDirectory() as scratch:
        predict = open_engine(args, export(args, pathlib.Path(scratch)))
        start = time.perf_counter()
        found = 0
        for number in range(1, args.images + 1):
            found += predict(make_image(number, args.engine))
            if number == FIRST:
                first = resident()
                print(f"image {number}: {first:.0f} MB", flush=True)
    last, seconds = resident(), (time.perf_counter() - start) / args.images
    print(f"image {args.images}: {last:.0f} MB; {found} detections, {seconds:.3f} s an image, {args.engine}")
    return int(last - first > args.allowed)


def export(args, scratch):
    """What the engine opens."""
    if ENGINES[args.engine] is None:
        return args.model
    options, name = ENGINES[args.engine]
    command = "from keras_maskrcnn_launcher import main; raise SystemExit(main())"
    target = scratch / name
    subprocess.run([sys.executable, "-c", command, "export", args.model, str(target), *options], check=True)
    return target


def open_engine(args, path):
    """A function of an image that returns the number of detections, with their masks pasted."""
    import keras_maskrcnn as km

    predictor = km.Predictor(path)

    def predict(image):
        found = predictor(image)
        return len(found.masks)

    return predict


def make_image(number, engine):
    """Smooth noise, uint8 (H, W, 3), another one for each number."""
    height, width = SIZES[0] if engine == "litert" else SIZES[number % len(SIZES)]
    coarse = np.random.default_rng(number).integers(0, 256, (-(-height // 16), -(-width // 16), 3), dtype=np.uint8)
    return coarse.repeat(16, axis=0).repeat(16, axis=1)[:height, :width]


def resident():
    """Resident memory of this process, MB."""
    pages = int(pathlib.Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 1e6


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a .keras file of an RGB model")
    parser.add_argument("--engine", choices=ENGINES, required=True)
    parser.add_argument("--images", type=int, default=500, help="more than 50")
    parser.add_argument("--allowed", type=float, default=50, help="growth after image 50 that passes, MB")
    args = parser.parse_args()
    if args.images <= FIRST:
        parser.error(f"--images must be more than {FIRST}. Received: {args.images}. 500 is enough.")
    return args


if __name__ == "__main__":
    sys.exit(main())
