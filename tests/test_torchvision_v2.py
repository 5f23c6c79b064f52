"""Torchvision's twin, v2: the tests of twin_tests.py. Without a graph on TensorFlow: v1 has that of all stages."""

import pytest
import twin_tests
from twin_tests import (
    test_anchors,
    test_detections,
    test_features_and_rpn_outputs,
    test_masks,
    test_proposals,
    twin_of,
)

__all__ = [
    "test_anchors",
    "test_detections",
    "test_features_and_rpn_outputs",
    "test_masks",
    "test_proposals",
]

pytestmark = pytest.mark.usefixtures("eagerly")


@pytest.fixture(scope="module")
def twin():
    return twin_of("v2")


@pytest.mark.slow_on_jax  # its gradient compiles for a minute; v1's has the same losses and operators
def test_losses_and_gradients(twin):
    twin_tests.test_losses_and_gradients(twin)
