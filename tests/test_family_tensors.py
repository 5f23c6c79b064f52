"""Each family of weights: every tensor goes to its place, a disturbed one is noticed, and none is left out unnoticed.

What each tensor should become is written by hand in `family_parts.py`. The numbers of the golden files are elsewhere.
"""

import re

import numpy as np
import pytest
from family_parts import FAMILIES, faults

import keras_maskrcnn as km

pytestmark = pytest.mark.slow_on_jax
QUICK = ("tensorpack", "tensorpack gn cascade")  # Detectron2 and matterport have quick tests of their own


@pytest.fixture(scope="module", params=[n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in FAMILIES])
def family(request):
    return (request.param, *FAMILIES[request.param]())


def groups(state):
    """One tensor of each kind: names that differ by numbers or a block's letter alone are of one kind."""
    return list({re.sub(r"\d+[a-z]?", "#", name): name for name in reversed(list(state))}.values())


def shifted(array, axis):
    return np.roll(array, 1, axis) if axis < array.ndim else array


def transposed(array, axis):
    """The first two axes, or the last two, in the other order, where their lengths are equal."""
    pair = ((0, 1), (-1, -2))[axis] if array.ndim > 1 and axis < 2 else (0, 0)
    return np.swapaxes(array, *pair) if array.shape[pair[0]] == array.shape[pair[1]] else array


def test_every_tensor_goes_to_its_place(family):
    name, model, rows, state = family
    receipt = km.load_weights(model, state)
    assert faults(rows, state) == [] and receipt.complete and not receipt.left_over
    assert {tensor for tensor, _ in receipt.used} == set(state) and len(rows) == len(model.weights)
    title = "" if name == "torchvision" else re.sub("( caffe| gn| cascade)+$", "", name)
    assert receipt.family.split("/")[0].lower() == title
    assert ("numbers differ" in str(receipt)) == (name == "mmdetection 1")
    assert str(receipt).count("licence:") == (name != "torchvision")


@pytest.mark.parametrize("spoil", [shifted, transposed])
def test_a_tensor_of_any_kind_in_another_order_is_noticed(family, spoil):
    _, model, rows, state = family
    for axis in range(4 if spoil is shifted else 2):
        changed = {name: spoil(state[name], axis) for name in groups(state)}
        changed = {name: array for name, array in changed.items() if not np.array_equal(array, state[name])}
        assert len(changed) >= (3 if axis else 15) or spoil is transposed
        km.load_weights(model, state | changed)
        wrong = faults(rows, state)
        assert all(any(name in row for row in wrong) for name in changed)  # each is noticed,
        assert all(set(row) & set(changed) for row in wrong)  # and nothing else


def test_tensors_that_change_places_are_noticed(family):
    _, model, rows, state = family
    kinds = {}
    for name in groups(state):
        kinds.setdefault((state[name].shape, bool(re.search("var", name))), []).append(name)
    swapped = {}
    for names in kinds.values():  # each takes the numbers of the one before it
        swapped |= {name: state[other] for name, other in zip(names, [names[-1], *names]) if other != name}
    km.load_weights(model, state | swapped)
    wrong = faults(rows, state)
    assert len(swapped) >= 15 and all(any(name in row for row in wrong) for name in swapped)
    km.load_weights(model, state)
    assert faults(rows, state) == []


def test_missing_misshapen_and_unknown_tensors_are_refused_by_name(family):
    _, model, rows, state = family
    km.load_weights(model, state)
    for name in groups(state):
        rest = {key: array for key, array in state.items() if key != name}
        place, last = re.fullmatch(r"(.*[./])(\w+)(?::0)?", name).groups()
        for wrong, problem in (
            (rest, "missing from the source"),
            (state | {name: np.concatenate([state[name], state[name]])}, "another shape"),
            (state | {f"{place}more_{last}": state[name]}, "unknown to the model"),
        ):
            with pytest.raises(ValueError, match=problem) as caught:
                km.load_weights(model, wrong)
            assert place in str(caught.value)
    assert faults(rows, state) == []  # nothing was loaded
