"""A training step of R50-FPN on one GPU, beside torchvision's: first step, step, memory, stages, kernels.

    python benchmarks/gpu_step.py --side ours --dtype mixed_bfloat16 --stages --kernels
    python benchmarks/gpu_step.py --side torchvision --dtype mixed_bfloat16

Four images of 1024x1024 with eight objects each. One process measures one side, because both reserve the GPU's memory.
`KERAS_BACKEND=jax` with a CUDA JAX. Prints one JSON object.
"""

import argparse
import collections
import json
import os
import pathlib
import statistics
import sys
import tempfile
import time

import twins
from bench_training import OBJECTS, ours_batch

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")


def median_ms(run, finish, runs):
    """Median milliseconds of `run`, each followed by `finish(result)`, which waits for the device."""
    times = []
    for _ in range(runs):
        began = time.perf_counter()
        finish(run())
        times.append((time.perf_counter() - began) * 1e3)
    return round(statistics.median(times), 2)


def ours(args):
    """First step, `fit` and `train_on_batch`, peak memory; stages and kernels if asked."""
    import jax
    import keras
    import numpy as np

    keras.config.set_dtype_policy(args.dtype)
    batch = ours_batch(args.batch, *args.image)
    model = twins.our_model(image_scale=1.0, trainable_layers=3)
    model.compile(keras.optimizers.SGD(1e-6, momentum=0.9))
    result = {"devices": str(jax.devices())}
    began = time.perf_counter()
    loss = model.train_on_batch(batch)
    result["first_step_s"] = round(time.perf_counter() - began, 1)
    result["loss"] = float(np.ravel(loss)[0])
    result["train_on_batch_ms"] = median_ms(lambda: model.train_on_batch(batch), lambda _: None, args.runs)
    stamps = []
    note = keras.callbacks.LambdaCallback(on_train_batch_end=lambda *_, **__: stamps.append(time.perf_counter()))
    batches = ((batch,) for _ in range(3 * args.runs))
    model.fit(batches, steps_per_epoch=3 * args.runs, epochs=1, verbose=0, callbacks=[note])
    result["fit_ms"] = round((stamps[-1] - stamps[args.runs]) / (len(stamps) - args.runs - 1) * 1e3, 2)
    memory = jax.devices()[0].memory_stats() or {}
    result["peak_gb"] = round(memory.get("peak_bytes_in_use", 0) / 1e9, 2)
    result["between_steps_gb"] = round(memory.get("bytes_in_use", 0) / 1e9, 2)
    if args.kernels:
        result["kernels"] = kernels(lambda: model.train_on_batch(batch), steps=5)
    if args.stages:
        result["stages_ms"] = stages(model, batch, args.runs)
    return result


def stages(model, batch, runs):
    """Milliseconds of the compiled forward pass up to each stage, and of the gradient."""
    import jax
    import keras

    variables = [v.value for v in model.trainable_variables], [v.value for v in model.non_trainable_variables]
    batch = jax.device_put(batch)

    def within(function):
        def pure(trainable, others, batch):
            mapping = [*zip(model.trainable_variables, trainable), *zip(model.non_trainable_variables, others)]
            with keras.StatelessScope(state_mapping=mapping):
                return function(batch)

        return pure

    def features(batch):
        return model.extract_features(batch["images"], batch["image_sizes"], True)

    def proposals(batch):
        found = features(batch)
        return found["roi_maps"], model.propose(found, for_training=True)["boxes"]

    def losses(batch):
        return model.compute_loss(x=batch, y_pred=model(batch, training=True))

    timed = {
        "features": within(features),
        "and proposals": within(proposals),
        "and losses": within(losses),
        "and gradient": jax.grad(within(losses)),
    }
    result = {}
    for name, function in timed.items():
        function = jax.jit(function)
        began = time.perf_counter()
        compiled = function.lower(*variables, batch).compile()
        jax.block_until_ready(compiled(*variables, batch))
        seconds = time.perf_counter() - began
        run = median_ms(lambda compiled=compiled: compiled(*variables, batch), jax.block_until_ready, runs)
        memory = compiled.memory_analysis()
        result[name] = {"ms": run, "compile_s": round(seconds, 1), "temp_gb": round(memory.temp_size_in_bytes / 1e9, 2)}
    return result


KINDS = (
    (
        "convolutions and products",
        ("conv", "gemm", "xmma", "cutlass", "cudnn", "nvjet", "dgrad", "wgrad", "sm90", "cublas"),
    ),
    ("scatter", ("scatter",)),
    ("sort and top-k", ("sort", "topk", "top_k")),
    ("copies", ("memcpy", "memset", "copy")),
    ("reduce", ("reduce",)),
    ("transpose", ("transpose",)),
    ("fusions", ("fusion", "loop_")),
)


def kernels(step, steps):
    """Milliseconds a step of the GPU's kernels by kind, and the twenty longest by name."""
    import jax

    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            for _ in range(steps):
                step()
        (trace,) = pathlib.Path(folder).rglob("*.xplane.pb")
        planes = [plane for plane in jax.profiler.ProfileData.from_file(str(trace)).planes if "GPU" in plane.name]
        totals, counts, spans = collections.Counter(), collections.Counter(), []
        for plane in planes:
            for line in plane.lines:
                if not line.name.startswith("Stream"):
                    continue
                for event in line.events:
                    totals[event.name] += event.duration_ns / 1e6 / steps
                    counts[event.name] += 1 / steps
                    spans.append((event.start_ns, event.start_ns + event.duration_ns))
    kinds = collections.Counter()
    for name, spent in totals.items():
        kinds[next((kind for kind, words in KINDS if any(word in name.lower() for word in words)), "other")] += spent
    busy, end = 0, 0
    for start, stop in sorted(spans):
        busy += max(0, stop - max(start, end))
        end = max(end, stop)
    return {
        "busy_ms": round(busy / 1e6 / steps, 2),
        "launches": round(sum(counts.values())),
        "kinds_ms": {name: round(spent, 2) for name, spent in kinds.most_common()},
        "longest": [[name[:70], round(spent, 3), round(counts[name], 1)] for name, spent in totals.most_common(30)],
    }


def torchvision(args):
    """The loop of torchvision's reference script, with autocast for bfloat16."""
    import torch

    step = twins.their_step(args.batch, *args.image, OBJECTS, 3, low=args.dtype != "float32")
    began = time.perf_counter()
    result = {"loss": step()}
    result["first_step_s"] = round(time.perf_counter() - began, 1)
    step()
    result["step_ms"] = median_ms(step, lambda _: None, args.runs)
    result["peak_gb"] = round(torch.cuda.max_memory_allocated() / 1e9, 2)
    result["reserved_gb"] = round(torch.cuda.max_memory_reserved() / 1e9, 2)
    return result


def main():
    """Measure one side and print it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--side", choices=["ours", "torchvision"], required=True)
    parser.add_argument("--dtype", choices=["float32", "mixed_bfloat16"], default="mixed_bfloat16")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--image", type=int, nargs=2, default=[1024, 1024], help="height and width")
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--stages", action="store_true")
    parser.add_argument("--kernels", action="store_true")
    args = parser.parse_args()
    if not twins.STATE.exists():
        twins.write_state()
    result = {"side": args.side, "dtype": args.dtype, **globals()[args.side](args)}
    json.dump(result, sys.stdout)
    print()


if __name__ == "__main__":
    main()
