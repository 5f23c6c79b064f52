"""A short fuzz of every door that needs no model, in children; a long one of all doors is marked slow."""

import collections
import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from . import children, doors, inputs, run, seeds

SHORT = {"cases": 1200, "seed": 20261126, "jobs": 2}


def bad_outcomes(cases, jobs):
    """The counts, and what went wrong: a list of (door, seed, outcome, error, place, reason)."""
    counts, bad = collections.Counter(), []

    def report(door, seed, result):
        counts[door, result["outcome"]] += 1
        if result["outcome"] in run.BAD:
            bad.append((door, seed, *(result[key] for key in ("outcome", "error", "place", "reason"))))

    largest = children.run_all(cases, jobs, 200, report)
    assert largest < children.MEMORY
    return counts, bad


@pytest.mark.parametrize("kind", list(seeds.DATASETS))
def test_seeds_are_accepted_as_they_are(kind, tmp_path):
    for number in range(6):
        (tmp_path / str(number)).mkdir()
        found = children.run_case(kind, f"valid-{number}", tmp_path / str(number), kept=[])
        assert (found["outcome"], found["reason"]) == ("accepted", "")
