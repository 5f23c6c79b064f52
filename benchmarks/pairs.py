"""Time this package and torchvision alternately in two processes on the same cores.

A benchmark defines `ours(case)` and `theirs(case)`, which prepare a case and return a function to time, and calls
`main`. Each side runs in its own process. For each case both are warmed up and then timed alternately, one run each, so
that both see the same state of the machine. Prints medians, and the peak memory of each process.

Without `--torch-python` only this package is timed.
"""

import argparse
import json
import os
import pathlib
import resource
import statistics
import subprocess
import sys
import time


def main(script, cases, ours, theirs, description):
    """Run as the parent, or as one of the two workers.

    Args:
        script: __file__ of the benchmark. cases: dict of a name to the case's JSON-ready values.
        ours, theirs: functions of a case that return a function of no arguments to time. description: for --help.
    """
    if len(sys.argv) > 2 and sys.argv[1] == "--worker":
        if sys.argv[2] == "ours":
            from keras_maskrcnn.host.memory import keep_freed_memory

            keep_freed_memory()  # as the command line does: before a framework starts threads
        _work(cases, {"ours": ours, "theirs": theirs}[sys.argv[2]])
        return
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--torch-python", help="an interpreter with torch and torchvision, to compare with")
    parser.add_argument("--runs", type=int, default=7, help="timed runs of each side and case")
    parser.add_argument("--only", help="cases whose name contains this")
    args = parser.parse_args()
    sides = {"ours": Worker(sys.executable, script, "ours")}
    if args.torch_python:
        sides["theirs"] = Worker(args.torch_python, script, "theirs")
    print(f"{'case':44} {'ours':>10} {'torchvision':>12} {'ratio':>7}   medians of {args.runs} in turns, milliseconds")
    for name in cases:
        if args.only and args.only not in name:
            continue
        for side in sides.values():
            side.ask(prepare=name)
        times = {label: [] for label in sides}
        for _ in range(args.runs):
            for label, side in sides.items():
                times[label].append(side.ask(run=True)["seconds"] * 1e3)
        mine = statistics.median(times["ours"])
        line = f"{name:44} {mine:10.2f}"
        if "theirs" in times:
            other = statistics.median(times["theirs"])
            line += f" {other:12.2f} {other / mine:6.1f}x"
        print(line, flush=True)
    for label, side in sides.items():
        print(f"peak memory, {label}: {side.ask(memory=True)['megabytes']:.0f} MB")
        side.close()


class Worker:
    """One side: a process that prepares and runs cases on request."""

    def __init__(self, python, script, *side):
        tree = pathlib.Path(script).resolve().parents[1]
        path = os.pathsep.join(filter(None, [str(tree), os.environ.get("PYTHONPATH")]))
        environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONPATH": path}
        self.process = subprocess.Popen(
            [python, script, "--worker", *side],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )

    def ask(self, **request):
        """Send a request, wait for the response."""
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            raise RuntimeError(f"a worker ended at {request}; its error is above")
        return json.loads(answer)

    def close(self):
        """End the process."""
        self.process.stdin.close()
        self.process.wait()


def _work(cases, prepare):
    answers, sys.stdout = sys.stdout, sys.stderr  # output of libraries must not be mistaken for a response
    run = None
    for line in sys.stdin:
        request = json.loads(line)
        answer = {}
        if "prepare" in request:
            run = prepare(cases[request["prepare"]])
            run()
            run()
        elif "run" in request:
            began = time.perf_counter()
            run()
            answer["seconds"] = time.perf_counter() - began
        else:
            answer["megabytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        answers.write(json.dumps(answer) + "\n")
        answers.flush()
