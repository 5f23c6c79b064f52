"""Images a second of one and of two single-core processes that train one model together.

    KERAS_BACKEND=tensorflow python benchmarks/bench_devices.py [--size 512] [--steps 6] [--images 2]

Each process is pinned to a core (`taskset`) and computes with one thread; a process trains on `--images` images a step,
so that two have twice the batch. The first two steps, which compile, do not count. Prints the median step, and the load
of the machine, which must be idle: another process on one of the two cores slows both.
"""

import argparse
import json
import os
import pathlib
import socket
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[1]
ONE_THREAD = {
    "OMP_NUM_THREADS": "1",
    "TF_NUM_INTRAOP_THREADS": "1",
    "TF_NUM_INTEROP_THREADS": "1",
    "TF_CPP_MIN_LOG_LEVEL": "3",
    "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1",
}


def environments(count):
    """The environment variables of processes on this machine."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    workers = [f"localhost:{port + place}" for place in range(count)]
    for place in range(count if count > 1 else 0):
        task = {"cluster": {"worker": workers}, "task": {"type": "worker", "index": place}}
        yield {
            "TF_CONFIG": json.dumps(task),
            "KERAS_DISTRIBUTION_JOB_ADDRESSES": workers[0],
            "KERAS_DISTRIBUTION_NUM_PROCESSES": str(count),
            "KERAS_DISTRIBUTION_PROCESS_ID": str(place),
        }
    if count == 1:
        yield {}


def measure(count, args):
    """Seconds of a step with so many processes."""
    processes = []
    for place, own in enumerate(environments(count)):
        command = ["taskset", "-c", str(place), sys.executable, __file__, "--child"]
        command += ["--size", str(args.size), "--steps", str(args.steps), "--images", str(args.images)]
        path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
        environment = os.environ | ONE_THREAD | own | {"PYTHONPATH": path}
        processes.append(subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True))
    outputs = [process.communicate()[0] for process in processes]
    return float(outputs[0].splitlines()[-1])


def child(args):
    """Train, and print the median seconds of a step."""
    import time

    import keras
    import numpy as np

    import keras_maskrcnn as km

    class Clock(keras.callbacks.Callback):
        def __init__(self):
            super().__init__()
            self.times = []

        def on_train_batch_end(self, batch, logs=None):
            float(logs["loss"])
            self.times.append(time.perf_counter())

    with km.use_devices(None) as team:
        config = km.MaskRCNNConfig(num_classes=3, backbone="resnet18", image_scale=1.0, roi_samples=128)
        model = km.MaskRCNN(config)
        model.compile(keras.optimizers.SGD(1e-4))
        rng, batch = np.random.default_rng(0), args.images * team.count
        masks = [np.zeros((3, args.size, args.size), bool) for _ in range(batch * (args.steps + 2))]
        for three in masks:
            for mask in three:
                y, x = rng.integers(0, args.size // 2, 2)
                mask[y : y + args.size // 3, x : x + args.size // 4] = True
        images = [rng.integers(0, 255, (args.size, args.size, 3), np.uint8) for _ in masks]
        dataset = km.data.ArrayDataset(images, masks, [[0, 1, 2]] * len(masks), class_names=("a", "b", "c"))
        loader = km.DataLoader(dataset, config, batch, shard=team.shard, workers=1)
        clock = Clock()
        model.fit(loader, epochs=1, shuffle=False, verbose=0, callbacks=[clock])
        print(float(np.median(np.diff(clock.times[1:]))))


def main():
    """Measure one process, then two."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--images", type=int, default=2)
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        child(args)
        return
    rates = {}
    for count in (1, 2):
        seconds = measure(count, args)
        rates[count] = count * args.images / seconds
        print(f"{count} processes: {seconds:.2f} s a step, {rates[count]:.2f} images/s, load {os.getloadavg()[0]:.1f}")
    print(f"two are {rates[2] / rates[1]:.2f} times as fast as one")


if __name__ == "__main__":
    main()
