"""Time this checkout and another one alternately, with the same benchmark: has a path become slower?

    git worktree add ../old 0d7ef1d && make -C ../old .venv/.base-installed
    python benchmarks/against_commit.py ../old --old-python ../old/.venv/bin/python bench_training.py --runs 7

Each side runs its own copy of the benchmark's script. Cases that only one of them has are left out. Prints medians in
milliseconds, and the median of the ratios of neighbouring runs: above 1 this checkout is slower.
"""

import argparse
import importlib.util
import pathlib
import statistics
import sys

import twins
from pairs import Worker

HERE = pathlib.Path(__file__).resolve().parent


def main():
    """Read the options, time each case."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tree", type=pathlib.Path, help="the other checkout")
    parser.add_argument("script", help="a benchmark that both have: bench_inference.py")
    parser.add_argument("--old-python", default=sys.executable, help="an interpreter in which the other one runs")
    parser.add_argument("--runs", type=int, default=7, help="timed runs of each side and case")
    parser.add_argument("--only", default="", help="cases whose name contains this")
    args = parser.parse_args()
    twins.write_state()
    scripts = {"old": args.tree.resolve() / "benchmarks" / args.script, "new": HERE / args.script}
    pythons = {"old": args.old_python, "new": sys.executable}
    sides = {name: Worker(pythons[name], script, "ours") for name, script in scripts.items()}
    old_cases, cases = (cases_of(script) for script in scripts.values())
    print(f"{'case':52} {'old':>9} {'new':>9} {'new / old':>10}")
    for case in cases:
        if args.only in case and case in old_cases:
            old, new = time_case(case, sides, args.runs)
            ratio = statistics.median(b / a for a, b in zip(old, new))
            print(f"{case:52} {statistics.median(old):9.1f} {statistics.median(new):9.1f} {ratio:10.3f}", flush=True)
    for name, side in sides.items():
        print(f"peak memory, {name}: {side.ask(memory=True)['megabytes']:.0f} MB")
        side.close()


def cases_of(script):
    """The names of a benchmark's cases."""
    spec = importlib.util.spec_from_file_location("benchmark", script)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return list(module.CASES)


def time_case(case, sides, runs):
    """Milliseconds of each side's runs, in turns."""
    for side in sides.values():
        side.ask(prepare=case)
    times = [[1e3 * side.ask(run=True)["seconds"] for side in sides.values()] for _ in range(runs)]
    return list(zip(*times))


if __name__ == "__main__":
    main()
