"""Torchvision's twin, v1: its losses and gradients, which take as long as all other tests of twin_tests.py."""

import pytest
from twin_tests import Twin, test_losses_and_gradients

__all__ = ["test_losses_and_gradients"]


@pytest.fixture(scope="module")
def twin():
    return Twin("v1")
