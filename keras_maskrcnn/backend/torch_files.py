"""Read PyTorch files with torch, if it is installed. Called by `weights/pth.py`, which can also read without torch."""

import importlib.util
import pickle


def has_torch():
    """Whether torch can be imported."""
    return importlib.util.find_spec("torch") is not None


def load_tensors(path):
    """`torch.load(weights_only=True)` on the CPU.

    Args:
        path: path of a file written by `torch.save`.

    Returns:
        The saved object, with torch tensors.

    Raises:
        ValueError: torch rejects the file.
    """
    import torch

    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise ValueError(str(error)) from error
