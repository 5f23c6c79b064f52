"""One model in every runtime: seconds, memory, load time and file size, each in a process of its own on the same cores.

python benchmarks/bench_runtimes.py --torch-python VENV/bin/python --openvino-python VENV2/bin/python

This Python needs tf2onnx, onnxruntime, ai-edge-litert and openvino, to write the forms. VENV has torch, torchvision and
onnx; VENV2 has openvino and onnxruntime (default: this Python). R50-FPN with the weights of the other benchmarks, one
800x1056 image, 100 detections, from pixels to 28x28 masks; masks are not pasted. Rows take turns, `--rounds` times; a
process opens its form, runs once (first), then `--runs` times. bfloat16 only where the processor has it. Rows that fail
say why.

Columns: median seconds of all runs; the first run; load: imports and opening; peak memory of the process; size of the
file or folder; detections.
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

import numpy as np
import twins

HEIGHT, WIDTH = 800, 1056
CALIBRATION = 8  # images; enough for speed, not for accuracy
TREE = pathlib.Path(__file__).resolve().parents[1]


def main():
    """Prepare the files, run every row in its own process, print the table."""
    args = parse()
    if args.worker:
        return work(args)
    rows = {name: row for name, row in ROWS.items() if wanted(name, row, args)}
    scratch = pathlib.Path(args.files or tempfile.mkdtemp(prefix="runtimes"))
    twins.write_state()
    for side, name in (("torch", "prepare theirs"), ("ours", "prepare ours")):
        needed = {row.file for row in rows.values() if row.side == side} - {None}
        if needed:
            print(ask(args, side, name, scratch, needed), flush=True)
    results = {name: [] for name in rows}
    for _ in range(args.rounds):
        for name, row in rows.items():
            results[name].append(ask(args, row.python, name, scratch))
            print(f"# {name}: {results[name][-1]}", flush=True)
    print(f"\n{HEIGHT}x{WIDTH}, medians of {args.rounds} x {args.runs} runs on {len(os.sched_getaffinity(0))} cores")
    print(f"{'':44} {'seconds':>8} {'first':>7} {'load':>6} {'peak MB':>8} {'file MB':>8} {'found':>6}")
    for name, answers in results.items():
        print(f"{name:44} {line(answers, size_of(scratch, rows[name]))}")


def line(answers, size):
    """One row of the table."""
    failed = next((answer["error"] for answer in answers if "error" in answer), None)
    if failed:
        return f"does not run: {failed}"
    middle = {key: statistics.median(answer[key] for answer in answers) for key in ("first", "load", "peak", "found")}
    seconds = statistics.median(second for answer in answers for second in answer["seconds"])
    return (
        f"{seconds:8.3f} {middle['first']:7.2f} {middle['load']:6.1f} {middle['peak']:8.0f} {size:8.1f} "
        f"{middle['found']:6.0f}"
    )


def ask(args, python, name, scratch, needed=()):
    """Run a row, or a preparation, in its own process. Returns its dict; `error` says why there is no result."""
    pythons = {"ours": sys.executable, "torch": args.torch_python, "openvino": args.openvino_python or sys.executable}
    path = os.pathsep.join(filter(None, [str(TREE), os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "KERAS_BACKEND": "tensorflow", "PYTHONPATH": path}
    command = [pythons[python], __file__, "--worker", name, "--files", str(scratch), "--runs", str(args.runs)]
    command += ["--needed", *needed]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    told = done.stdout.strip().splitlines()
    if done.returncode or not told:
        return {"error": " ".join((done.stderr or "no output").split())[-300:]}
    return json.loads(told[-1])


def work(args):
    """In the process of a row: open, run, print the figures as JSON."""
    scratch = pathlib.Path(args.files)
    answers, sys.stdout = sys.stdout, sys.stderr  # libraries print
    if args.worker in PREPARATIONS:
        result = PREPARATIONS[args.worker](scratch, args.needed)
    else:
        began = time.perf_counter()
        run = ROWS[args.worker].open(scratch)
        load = time.perf_counter() - began
        seconds = []
        for _ in range(args.runs + 1):
            began = time.perf_counter()
            found = run()
            seconds.append(time.perf_counter() - began)
        result = {"load": load, "first": seconds[0], "seconds": seconds[1:], "found": int(found)}
        result["peak"] = peak_megabytes()
    answers.write(json.dumps(result) + "\n")


def peak_megabytes():
    """Peak memory of this process; `ru_maxrss` would begin with its parent's."""
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


# Preparing -------------------------------------------------------------------------------------------------


def prepare_ours(scratch, needed):
    """The needed forms of our model that are not there yet. Returns seconds by form, or why one failed."""
    import keras_maskrcnn as km

    model = twins.our_model(score_threshold=0.02, detection_candidates=8192)
    images = list(twins.make_images(CALIBRATION, HEIGHT // 2, WIDTH // 2))
    forms = {
        "model.keras": lambda path: model.save(path),
        "saved_model": lambda path: km.export_saved_model(model, path),
        "saved_model_bf16": lambda path: km.export_saved_model(model, path, dtype="bfloat16"),
        "model.onnx": lambda path: km.export_onnx(model, path),
        "int8.onnx": lambda path: km.export_onnx(model, path, calibration=images),
        "openvino": lambda path: km.export_openvino(model, path),
        "openvino_bf16": lambda path: km.export_openvino(model, path, dtype="bfloat16"),
        "openvino_int8": lambda path: km.export_openvino(model, path, calibration=images),
        "openvino_int8_bf16": lambda path: km.export_openvino(model, path, calibration=images, dtype="bfloat16"),
        "model.tflite": lambda path: km.export_litert(model, path, (HEIGHT, WIDTH)),
    }
    told = {}
    for name in needed:
        began = time.perf_counter()
        if not (scratch / name).exists():
            try:
                forms[name](scratch / name)
            except Exception as error:  # the other forms can still be measured
                told[name] = f"{type(error).__name__}: {error}"[:200]
                continue
        told[name] = round(time.perf_counter() - began, 1)
    return told


def prepare_theirs(scratch, needed):
    """Torchvision's graph as .onnx, by its own exporter."""
    import torch

    if "theirs.onnx" in needed and not (scratch / "theirs.onnx").exists():
        model, image = their_model()
        names = ["boxes", "labels", "scores", "masks"]
        with torch.inference_mode():
            torch.onnx.export(
                model,
                ([image],),
                str(scratch / "theirs.onnx"),
                opset_version=17,
                input_names=["image"],
                output_names=names,
                dynamo=False,
            )
    return {"theirs.onnx": True}


PREPARATIONS = {"prepare ours": prepare_ours, "prepare theirs": prepare_theirs}


# Rows ------------------------------------------------------------------------------------------------------


class Row:
    """A row: what opens it, in which Python, from which file.

    Args:
        python: "ours", "torch" or "openvino". file: name in the folder of files, or None.
        open: function of this folder that returns a function of nothing to time, which returns how many it found.
        side: "ours" or "torch": whose preparation makes the file. low: whether it needs bfloat16.
    """

    def __init__(self, python, file, open, side="ours", low=False):
        self.python, self.file, self.open, self.side, self.low = python, file, open, side, low


def their_model():
    """Torchvision's model without pasting, and its image."""
    import torch

    model = twins.their_model(box_score_thresh=0.02, min_size=HEIGHT).eval().cpu()
    model.transform.postprocess = lambda result, image_shapes, original_image_sizes: result
    image = twins.make_images(1, HEIGHT, WIDTH)[0].transpose(2, 0, 1).astype("float32") / 255
    return model, torch.from_numpy(image)


def torchvision(low):
    def open_model(scratch):
        import torch

        model, image = their_model()

        def run():
            with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=low):
                return len(model([image])[0]["boxes"])

        return run

    return open_model


def our_image():
    return twins.make_images(1, HEIGHT, WIDTH)


def keras_model(dtype=None, optimized=False):
    def open_model(scratch):
        from keras_maskrcnn.host.memory import keep_freed_memory

        keep_freed_memory()  # as the command line does
        import keras

        import keras_maskrcnn as km

        model = keras.saving.load_model(scratch / "model.keras", compile=False)
        if optimized:
            model = km.optimize_for_inference(model, dtype)
        batch = our_image()
        return lambda: np.asarray(model.predict_on_batch(batch)["valid"]).sum()

    return open_model


def saved_model(name):
    def open_model(scratch):
        import tensorflow as tf

        loaded = tf.saved_model.load(str(scratch / name / "1"))
        run, images = loaded.signatures["serving_default"], tf.constant(our_image())
        return lambda: (loaded, {key: value.numpy() for key, value in run(images=images).items()})[1]["valid"].sum()

    return open_model


def onnxruntime(name, theirs=False):
    def open_model(scratch):
        import onnxruntime as runtime

        options = runtime.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = len(os.sched_getaffinity(0))
        session = runtime.InferenceSession(str(scratch / name), options, providers=["CPUExecutionProvider"])
        inputs, names = their_input() if theirs else {"images": our_image()}, [o.name for o in session.get_outputs()]
        return lambda: count(dict(zip(names, session.run(names, inputs))))

    return open_model


def openvino(name, low=False, theirs=False):
    def open_model(scratch):
        import openvino as runtime

        path = scratch / name
        hint = {"INFERENCE_PRECISION_HINT": "bf16" if low else "f32", "PERFORMANCE_HINT": "LATENCY"}
        program = runtime.Core().compile_model(str(path / "model.xml" if path.is_dir() else path), "CPU", hint)
        inputs = their_input() if theirs else {"images": our_image()}
        return lambda: count({name: value for output, value in program(inputs).items() for name in output.names})

    return open_model


def litert(scratch):
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(scratch / "model.tflite"), num_threads=len(os.sched_getaffinity(0)))
    run, images = interpreter.get_signature_runner("serving_default"), our_image()
    return lambda: run(images=images)["valid"].sum()


def their_input():
    return {"image": twins.make_images(1, HEIGHT, WIDTH)[0].transpose(2, 0, 1).astype("float32") / 255}


def count(outputs):
    """Detections in the outputs of a graph, ours or torchvision's."""
    return outputs["valid"].sum() if "valid" in outputs else len(outputs["boxes"])


ROWS = {
    "torchvision": Row("torch", None, torchvision(False), "torch"),
    "torchvision, bfloat16 by autocast": Row("torch", None, torchvision(True), "torch", low=True),
    "torchvision in onnxruntime": Row("openvino", "theirs.onnx", onnxruntime("theirs.onnx", True), "torch"),
    "torchvision in OpenVINO": Row("openvino", "theirs.onnx", openvino("theirs.onnx", theirs=True), "torch"),
    "torchvision in OpenVINO, bfloat16": Row(
        "openvino", "theirs.onnx", openvino("theirs.onnx", True, True), "torch", low=True
    ),
    "model": Row("ours", "model.keras", keras_model()),
    "optimize_for_inference": Row("ours", "model.keras", keras_model(optimized=True)),
    "optimize_for_inference, bfloat16": Row("ours", "model.keras", keras_model("bfloat16", True), low=True),
    "SavedModel": Row("ours", "saved_model", saved_model("saved_model")),
    "SavedModel, bfloat16": Row("ours", "saved_model_bf16", saved_model("saved_model_bf16"), low=True),
    "ONNX in onnxruntime": Row("openvino", "model.onnx", onnxruntime("model.onnx")),
    "ONNX in OpenVINO": Row("openvino", "model.onnx", openvino("model.onnx")),
    "export for OpenVINO": Row("openvino", "openvino", openvino("openvino")),
    "export for OpenVINO, bfloat16": Row("openvino", "openvino_bf16", openvino("openvino_bf16", True), low=True),
    "int8 in onnxruntime": Row("openvino", "int8.onnx", onnxruntime("int8.onnx")),
    "int8 in OpenVINO": Row("openvino", "openvino_int8", openvino("openvino_int8")),
    "int8 in OpenVINO, the rest bfloat16": Row(
        "openvino", "openvino_int8_bf16", openvino("openvino_int8_bf16", True), low=True
    ),
    "LiteRT": Row("ours", "model.tflite", litert),
}


def wanted(name, row, args):
    """Whether a row can and shall be measured."""
    if args.only and args.only not in name:
        return False
    return (row.side != "torch" or bool(args.torch_python)) and (not row.low or args.bfloat16 or has_bfloat16())


def has_bfloat16():
    """Whether the processor computes in bfloat16."""
    flags = pathlib.Path("/proc/cpuinfo").read_text().split() if pathlib.Path("/proc/cpuinfo").exists() else ()
    return bool({"avx512_bf16", "amx_bf16"} & set(flags))


def size_of(scratch, row):
    """Megabytes of a row's file or folder."""
    path = twins.STATE if row.file is None else scratch / row.file
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return sum(file.stat().st_size for file in files) / 1e6


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--torch-python", help="a Python with torch, torchvision and onnx, to compare with")
    parser.add_argument("--openvino-python", help="a Python with openvino and onnxruntime (default: this one)")
    parser.add_argument("--runs", type=int, default=5, help="timed runs of a process, after the first")
    parser.add_argument("--rounds", type=int, default=2, help="processes of each row, in turns")
    parser.add_argument("--only", help="rows whose name contains this")
    parser.add_argument("--bfloat16", action="store_true", help="measure bfloat16 on processors without it, too")
    parser.add_argument("--files", help="folder for the files, kept and used again (default: a temporary one)")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    parser.add_argument("--needed", nargs="*", default=(), help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
