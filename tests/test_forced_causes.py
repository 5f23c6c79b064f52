"""Causes of misses forced on a trained model of shapes, on images of another seed and size, are read back as they are.

`forced_causes.py` has the cases, and decides by running the model again.
"""

import collections

import pytest
from forced_causes import CASES, found_objects, lost_in, shapes

from keras_maskrcnn.evaluation.causes import CAUSES

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def known(shapes_run, tmp_path_factory):
    """(model, list of (image, truth), what the model finds in each). The images have more objects than it learned."""
    from keras_maskrcnn.weights.models import load_model

    model = load_model(shapes_run / "best.keras")
    images = shapes(tmp_path_factory.mktemp("shapes"), 4, 128, 77, 8)
    return model, images, [found_objects(model, *pair) for pair in images]


@pytest.fixture(scope="module")
def counts():
    """How many objects were lost by each cause, over all cases."""
    return collections.Counter()


@pytest.mark.parametrize("name", CASES)
def test_a_forced_cause_is_read_back(known, counts, name):
    model, images, before = known
    cause, lost = CASES[name].cause, lost_in(model, CASES[name], images, before)
    told = [(one.image, one.place, one.miss.cause, sorted(one.lifted)) for one in lost]
    # Another cause is right only if lifting its limit alone finds the object as well. Where no single limit does, it is
    # the last stage that the object's boxes reached, which lies behind the forced one.
    others = [row for row in told if row[2] != cause and row[2] not in row[3]]
    assert [row for row in others if row[3] or CAUSES.index(row[2]) < CAUSES.index(cause)] == []
    assert len(others) <= len(told) // 5
    counts[cause] += sum(row[2] == cause for row in told)


def test_every_cause_was_forced(counts):
    assert all(counts[cause] for cause in CAUSES), counts
    assert sum(counts.values()) > 100
