"""Torchvision's twin, v2: the tests of twin_tests.py."""

import pytest
from twin_tests import (
    Twin,
    test_anchors,
    test_detections,
    test_features_and_rpn_outputs,
    test_losses_and_gradients,
    test_masks,
    test_proposals,
)

__all__ = [
    "test_anchors",
    "test_detections",
    "test_features_and_rpn_outputs",
    "test_losses_and_gradients",
    "test_masks",
    "test_proposals",
]


@pytest.fixture(scope="module")
def twin():
    return Twin("v2")
