"""Torchvision's twin, v2: the tests of twin_tests.py. Without a graph on TensorFlow: v1 has that of all stages.

Four convolutions on each of 2000 RoIs take their time on any backend, and three times as long with gradients. On JAX
v1 has torchvision's numbers, test_three_backends.py has those of a model with batch norm in FPN and heads, and
test_model.py trains v2's heads.
"""

import pytest
import twin_tests
from twin_tests import (
    Twin,
    test_anchors,
    test_detections,
    test_features_and_rpn_outputs,
    test_masks,
    test_proposals,
)

__all__ = [
    "test_anchors",
    "test_detections",
    "test_features_and_rpn_outputs",
    "test_masks",
    "test_proposals",
]

pytestmark = [pytest.mark.usefixtures("eagerly"), pytest.mark.slow_on_jax]


@pytest.fixture(scope="module")
def twin():
    return Twin("v2")


@pytest.mark.slow  # v1 has the same losses and operators, test_model_options.py the gradients of v2's heads
def test_losses_and_gradients(twin):
    twin_tests.test_losses_and_gradients(twin)
