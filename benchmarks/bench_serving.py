"""An R50-FPN export on a server: size on disk, load time, first call and steady latency of each signature.

python benchmarks/bench_serving.py [--dtype bfloat16] [--show signatures.txt]

The weights are those of the other benchmarks, which give 100 detections on any image. Everything after the export runs
in a separate process, which imports TensorFlow but not this package.
"""

import argparse
import io
import json
import pathlib
import resource
import statistics
import subprocess
import sys
import tempfile
import time

HEIGHT, WIDTH = 480, 640  # pixels of the file; 800x1066 in the network
CASES = (("serving_default", 1), ("serve_bytes", 1), ("serve_rle", 1), ("serve_bytes", 4))


def main():
    """Export, then time the export in another process."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32", help="dtype of the convolutions")
    parser.add_argument("--calls", type=int, default=5, help="timed calls of each signature, after the first")
    parser.add_argument("--show", help="file for the output of `saved_model_cli show --all`")
    parser.add_argument("--directory", help="folder for the export (default: a temporary folder)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        version = export(args.directory or scratch, args.dtype)
        print_sizes(version)
        if args.show:
            show(version, args.show)
        subprocess.run([sys.executable, __file__, "--worker", str(version), str(args.calls)], check=True)


def export(directory, dtype):
    """Write the export; returns its folder."""
    import twins

    import keras_maskrcnn as km

    twins.write_state()
    model = twins.our_model(score_threshold=0.02, detection_candidates=8192)
    start = time.perf_counter()
    version = km.export_saved_model(model, directory, dtype=dtype)
    print(f"export: {time.perf_counter() - start:.1f} s")
    weights = sum(weight.numpy().nbytes for weight in model.weights)
    print(f"weights in memory: {weights / 1e6:.1f} MB")
    return version


def print_sizes(version):
    """Megabytes of each part of the export."""
    for path in sorted(pathlib.Path(version).rglob("*")):
        if path.is_file():
            print(f"{path.stat().st_size / 1e6:10.3f} MB  {path.relative_to(version)}")


def show(version, path):
    """Store the output of saved_model_cli for the export."""
    command = "from tensorflow.python.tools.saved_model_cli import main; main()"
    told = subprocess.run(
        [sys.executable, "-c", command, "show", "--dir", str(version), "--all"], capture_output=True, text=True
    )
    pathlib.Path(path).write_text(told.stdout, encoding="utf-8")
    print(f"saved_model_cli show --all: {len(told.stdout.splitlines())} lines in {path}")


def work(version, calls):
    """Load and call, in a process without this package."""
    import numpy as np
    import tensorflow as tf
    from PIL import Image

    start = time.perf_counter()
    loaded = tf.saved_model.load(version)
    print(f"load: {time.perf_counter() - start:.1f} s")
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (HEIGHT // 16, WIDTH // 16, 3), np.uint8).repeat(16, axis=0).repeat(16, axis=1)
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=90)
    inputs = {
        "images": lambda count: tf.constant(np.stack([image] * count)),
        "image_bytes": lambda count: tf.constant([file.getvalue()] * count),
    }
    for name, count in CASES:
        signature = loaded.signatures[name]
        (key,) = signature.structured_input_signature[1]
        tensors = {key: inputs[key](count)}
        times = []
        for _ in range(calls + 1):
            start = time.perf_counter()
            answer = {output: value.numpy() for output, value in signature(**tensors).items()}
            times.append(time.perf_counter() - start)
        size = sum(_payload(value) for value in answer.values())
        print(
            f"{name}, {count} of {HEIGHT}x{WIDTH}, {answer['num_detections'].tolist()} detections: first call "
            f"{times[0] * 1e3:.0f} ms, then {statistics.median(times[1:]) * 1e3:.0f} ms (median of {calls}), answer "
            f"{size / 1e3:.0f} kB"
        )
    print(f"largest memory: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3:.0f} MB")
    assert "keras_maskrcnn" not in sys.modules
    about = json.loads((pathlib.Path(version) / "assets" / "about.json").read_text())
    print(f"dtype {about['dtype']}, TensorFlow {tf.__version__}")


def _payload(array):
    return sum(map(len, array.ravel())) if array.dtype == object else array.nbytes


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        work(sys.argv[2], int(sys.argv[3]))
    else:
        main()
