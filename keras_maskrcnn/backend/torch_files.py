"""Files of PyTorch, read by PyTorch where it is installed. Called by `weights/pth.py`, which reads them without."""

import importlib.util
import pickle


def has_torch():
    """Whether torch can be imported."""
    return importlib.util.find_spec("torch") is not None


def load_tensors(path):
    """`torch.load(weights_only=True)` on the CPU.

    Args:
        path: of a file that `torch.save` wrote.

    Returns:
        What was saved, with torch tensors.

    Raises:
        ValueError: if torch refuses the file.
    """
    import torch

    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise ValueError(str(error)) from error
