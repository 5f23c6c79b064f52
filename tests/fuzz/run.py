"""Fuzz the package: python -m tests.fuzz.run --cases 25000 --seed 1 --jobs 2 [--door coco] [--out /tmp/found]."""

import argparse
import collections
import importlib
import pathlib
import random
import shutil
import sys
import tempfile
import time

from .judge import OUTCOMES

BAD = ("unclear", "hang", "crash", "memory", "wrong")


def main(argv=None):
    """Run the cases, print the table of counts and the failures by group. Returns 1 if there is one."""
    args = _parser().parse_args(argv)
    prepare(any(_doors()[name].models for name in args.door or _doors()))
    from . import children

    counts, groups = collections.Counter(), {}

    def report(door, seed, result):
        counts[door, result["outcome"]] += 1
        if result["outcome"] in BAD:
            key = (door, result["outcome"], result["error"], result["place"])
            groups.setdefault(key, []).append((seed, result["reason"]))

    started = time.monotonic()
    cases = choose_cases(args.cases, args.seed, args.door)
    largest = children.run_all(cases, args.jobs, args.batch, report)
    print(table(counts))
    print(f"{len(cases)} cases in {time.monotonic() - started:.0f} s, largest child {largest / 2**30:.2f} GB")
    for key, found in sorted(groups.items(), key=lambda item: (item[0][3], -len(item[1]))):
        print(f"\n{' | '.join(key)}: {len(found)}\n  {found[0][0]}: {found[0][1]}")
    if args.out and groups:
        save(groups, pathlib.Path(args.out))
    return 1 if groups else 0


def _parser():
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.run")
    parser.add_argument("--cases", type=int, default=2000, help="over all doors, by their shares")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=1, help="children at a time")
    parser.add_argument("--batch", type=int, default=200, help="cases a child runs")
    parser.add_argument("--door", nargs="+", help="these doors alone")
    parser.add_argument("--out", help="folder for the smallest failing input of each group")
    return parser


def _doors():
    from .doors import DOORS

    return DOORS


def prepare(models):
    """Import what the doors need before children fork: the framework only if a door uses models."""
    import keras_maskrcnn_launcher

    keras_maskrcnn_launcher.register_package()
    modules = ["data.readers.opener", "checkup", "data.duplicates", "data.split", "cli", "cli.settling", "config"]
    for module in modules:
        importlib.import_module(f"keras_maskrcnn.{module}")
    import skimage.io  # noqa: F401
    import tifffile  # noqa: F401
    import yaml  # noqa: F401

    if models:
        keras_maskrcnn_launcher.prepare_models()
        for module in ("inference.predictor", "evaluation.figures", "pages.run_page", "runs.experiment", "weights"):
            importlib.import_module(f"keras_maskrcnn.{module}")


def choose_cases(count, seed, names=None):
    """(door, seed) of each case, shuffled by the seed."""
    doors = {name: _doors()[name] for name in names or _doors()}
    total = sum(door.share for door in doors.values())
    cases = [
        (name, f"{seed}-{name}-{number}")
        for name, door in doors.items()
        for number in range(max(1, round(count * door.share / total)))
    ]
    random.Random(seed).shuffle(cases)
    return cases


def table(counts):
    """The counts as Markdown, a row per door."""
    doors = list(dict.fromkeys(door for door, _ in counts))
    rows = [["door", "cases", *OUTCOMES]]
    for door in sorted(doors):
        numbers = [counts[door, outcome] for outcome in OUTCOMES]
        rows.append([door, sum(numbers), *numbers])
    rows.append(["all", *(sum(row[k] for row in rows[1:]) for k in range(1, len(rows[0])))])
    lines = ["| " + " | ".join(map(str, row)) + " |" for row in rows]
    return "\n".join([lines[0], "|" + "---|" * len(rows[0]), *lines[1:]])


def save(groups, out):
    """Write the smallest failing case of each group: its files, and what to run again."""
    from . import doors, inputs

    for number, ((door, outcome, error, place), found) in enumerate(groups.items()):
        seed, reason = found[0]
        kept = smallest(door, seed, (outcome, error, place)) if outcome in ("unclear", "wrong") else None
        case = doors.DOORS[door].make(seed, kept)
        case.options.pop("seed", None)
        folder = out / f"{door}-{number:03d}"
        shutil.rmtree(folder, ignore_errors=True)
        inputs.write(case, folder, seed)
        (folder / "CASE.txt").write_text(
            f"{door} {outcome} {error} {place}\n{reason}\nseed {seed}, {len(found)} cases\n{inputs.describe(case)}\n",
            errors="backslashreplace",
        )


def smallest(door, seed, key):
    """The fewest mutations of a case that still fail in the same way: the numbers to keep."""
    from . import children, inputs

    kept = list(range(inputs.steps_of(seed)))
    for step in list(kept):
        fewer = [each for each in kept if each != step]
        with tempfile.TemporaryDirectory() as folder:
            result = children.run_case(door, seed, folder, fewer)
        if (result["outcome"], result["error"], result["place"]) == key:
            kept = fewer
    return kept


if __name__ == "__main__":
    sys.exit(main())
