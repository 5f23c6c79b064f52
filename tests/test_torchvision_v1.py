"""Torchvision's twin, v1: the tests of twin_tests.py, compiled. The losses take as long as all others."""

import os

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
    return Twin("v1")


def test_jax_compiles_as_it_does_for_users():
    """The other files may run with a quick compiler (Makefile); torchvision's digits are those of XLA's defaults."""
    flags = os.environ.get("XLA_FLAGS", "")
    assert not [word for word in ("optimization_level", "expensive_passes", "fusion_emitters") if word in flags]
