"""Read the HDF5 files of Keras 2: one group a layer, as matterport's `save_weights` and `save` wrote them.

Nothing of Keras is needed: the names of the datasets say everything. `h5_files.py` checks the file before.
"""

from keras_maskrcnn.weights.h5_files import array_shapes, open_h5
from keras_maskrcnn.weights.limits import reading

SIGNATURE = b"\x89HDF\r\n\x1a\n"
WHOLE_MODEL = "model_weights/"  # where `save` puts what `save_weights` puts at the root
EXPECTED = "an HDF5 file of weights by layer, as Keras 2 wrote them, whole"
REMEDY = "Copy or download it again."


def is_h5(path):
    """Whether a file begins as an HDF5 file does."""
    with open(path, "rb") as file:
        return file.read(len(SIGNATURE)) == SIGNATURE


def is_layer_file(path):
    """Whether a file holds weights by layer. Keras 3 numbers them instead: its datasets lie in groups named "vars"."""
    if not is_h5(path):
        return False
    try:
        with open_h5(path) as file:
            names = list(array_shapes(file))
    except (OSError, RuntimeError, ValueError):
        return False  # its own reader says what is wrong
    return bool(names) and not any("vars" in name.split("/") for name in names)


def read_layers(path):
    """The arrays of a file.

    Args:
        path: the file.

    Returns:
        dict of paths in the file to numpy arrays, in the file's order; of a whole model those of its weights.

    Raises:
        WeightFileError: the file is damaged, forged, or holds something else than arrays of numbers.
    """
    with reading(path, EXPECTED, REMEDY), open_h5(path) as file:
        names = list(array_shapes(file))
        if any(name.startswith(WHOLE_MODEL) for name in names):
            names = [name for name in names if name.startswith(WHOLE_MODEL)]
        return {name.removeprefix(WHOLE_MODEL): file[name][...] for name in names}
