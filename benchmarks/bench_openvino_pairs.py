"""Our graph and torchvision's in OpenVINO, in turns: the machine's speed changes from minute to minute, ratios do not.

python benchmarks/bench_openvino_pairs.py FILES

FILES is the folder of `bench_runtimes.py --files FILES`, with theirs.onnx, model.onnx and openvino/ in it. Float32, one
800x1056 image, 100 detections. Prints the median of each, and how long its kinds of layers take.
"""

import argparse
import collections
import pathlib
import time

import numpy as np
import openvino
import twins
from bench_runtimes import HEIGHT, WIDTH, their_input

GRAPHS = {"torchvision": "theirs.onnx", "ours, .onnx": "model.onnx", "ours, IR": "openvino/model.xml"}
HINTS = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY", "PERF_COUNT": True}


def main():
    """Compile all, run them in turns, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", type=pathlib.Path)
    parser.add_argument("--turns", type=int, default=7)
    args = parser.parse_args()
    ours = {"images": twins.make_images(1, HEIGHT, WIDTH)}
    inputs = {name: their_input() if name == "torchvision" else ours for name in GRAPHS}
    core = openvino.Core()
    requests = {
        name: core.compile_model(str(args.files / file), "CPU", HINTS).create_infer_request()
        for name, file in GRAPHS.items()
    }
    seconds, layers = collections.defaultdict(list), {name: collections.Counter() for name in GRAPHS}
    for turn in range(args.turns + 1):
        for name, request in requests.items():
            began = time.perf_counter()
            request.infer(inputs[name])
            if turn:  # the first one warms up
                seconds[name].append(time.perf_counter() - began)
                for layer in request.profiling_info:
                    layers[name][layer.node_type] += layer.real_time.total_seconds() / args.turns
    for name in GRAPHS:
        kinds = ", ".join(f"{kind} {spent:.3f}" for kind, spent in layers[name].most_common(8))
        print(f"{name:12} {np.median(seconds[name]):6.3f} s   {kinds}")


if __name__ == "__main__":
    main()
