"""Images a second of `predict --engine ray`, and of a plain loop in the same number of processes.

    KERAS_BACKEND=tensorflow python benchmarks/bench_scale.py [--images 300] [--processes 2] [--side 512] [--rounds 2]

Both sides read the same JPEG files of `--side` x `--side` pixels, run the same model (ResNet-18-FPN of random weights,
20 detections), and make COCO run lengths of the masks. The plain loop is `Predictor.stream` in each process, over every
n-th file; Ray has `--processes` actors. Model work dominates, as it does in use: the script prints how long an image
takes, which should be at least 50 ms.

The rate counts from the moment a fifth of the images is finished until the last one is: without the start of Ray and
of the processes, and without loading and tracing the models, which are printed apart. The sides alternate; the ratio is
that of the best rounds. The machine must be idle. It needs Ray: pip install "keras-maskrcnn[ray]".
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[1]
SIDES = ("plain", "ray")


def prepare(folder, count, side):
    """Write the model and the images of a benchmark."""
    import keras
    import numpy as np
    from PIL import Image

    import keras_maskrcnn as km

    keras.utils.set_random_seed(0)
    values = {"score_threshold": 0.0, "max_detections": 20, "image_scale": 1.0}
    km.MaskRCNN(km.MaskRCNNConfig(num_classes=20, backbone="resnet18", **values)).save(folder / "model.keras")
    rng = np.random.default_rng(0)
    (folder / "images").mkdir()
    for number in range(count):
        cells = Image.fromarray(rng.integers(0, 256, (side // 16, side // 16, 3), np.uint8))
        cells.resize((side, side), Image.Resampling.BICUBIC).save(folder / "images" / f"{number:05d}.jpg", quality=90)


def told(count):
    """Print how many images a process has finished, with the time."""
    print(json.dumps([time.time(), count]), flush=True)


def plain(folder, share, processes):
    """One process of the plain loop."""
    from keras_maskrcnn_launcher import prepare_models, register_package

    register_package()
    prepare_models()
    from keras_maskrcnn.scale.models import open_predictor

    predictor, results = open_predictor(folder / "model.keras"), []
    files = sorted((folder / "images").iterdir())[share::processes]
    for answer in predictor.stream(files, lambda index, image, found: found.to_coco(index)):
        results += answer.result
        told(answer.index + 1)
    (folder / f"plain{share}.json").write_text(json.dumps(results))
    told(len(files))


def ray(folder, share, processes):
    """The driver of Ray."""
    from keras_maskrcnn_launcher import register_package

    register_package()
    from keras_maskrcnn.scale.on_ray import predict_on_ray

    with tempfile.TemporaryDirectory() as found:
        predict_on_ray(folder / "model.keras", [folder / "images"], found, actors=processes, progress=told)


def measure(side, folder, count, processes):
    """Run a side. Returns (images a second, seconds of the start, seconds of all)."""
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = os.environ | {"PYTHONPATH": path, "TF_CPP_MIN_LOG_LEVEL": "3"}
    begun, running = time.time(), []
    for share in range(processes if side == "plain" else 1):
        command = [sys.executable, __file__, "--child", side, str(folder), str(share), "--processes", str(processes)]
        running.append(subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True))
    outputs = [process.communicate()[0].splitlines() for process in running]
    ended = time.time()
    if any(process.returncode for process in running):
        sys.exit(f"A process of {side} failed.")
    finished = []  # a time for each image
    for lines in outputs:
        before = 0
        for line in lines:
            moment, done = json.loads(line)
            finished += [moment] * (done - before)
            before = done
    finished.sort()
    assert len(finished) == count, (side, len(finished))
    warm = count // 5
    rate = (count - 1 - warm) / (finished[-1] - finished[warm])
    return rate, finished[0] - begun, ended - begun


def main():
    """Measure both sides in turn."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=300)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--side", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        side, folder, share = args.child
        {"plain": plain, "ray": ray}[side](pathlib.Path(folder), int(share), args.processes)
        return
    best = dict.fromkeys(SIDES, 0.0)
    with tempfile.TemporaryDirectory() as folder:
        prepare(pathlib.Path(folder), args.images, args.side)
        for _ in range(args.rounds):
            for side in SIDES:
                rate, start, whole = measure(side, folder, args.images, args.processes)
                best[side] = max(best[side], rate)
                print(
                    f"{side}: {rate:.2f} images/s, {1000 * args.processes / rate:.0f} ms an image in each process; the "
                    f"first image after {start:.0f} s, all after {whole:.0f} s; load {os.getloadavg()[0]:.1f}",
                    flush=True,
                )
    print(f"Ray has {best['ray'] / best['plain']:.2f} of the images/s of the plain loop")


if __name__ == "__main__":
    main()
