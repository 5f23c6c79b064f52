"""Torchvision's twin, v1: its losses and gradients, which take as long as all other tests of twin_tests.py."""

import pytest
from twin_tests import test_losses_and_gradients, twin_of

__all__ = ["test_losses_and_gradients"]


@pytest.fixture(scope="module")
def twin():
    return twin_of("v1")
