"""Read a `.safetensors` file with the package safetensors. Called by `loading.py`.

The package checks the header: that it is JSON, and that tensors neither overlap nor leave the file. Here its size is
checked before, because the package would take 100 MB of names.
"""

from keras_maskrcnn.weights.limits import MOST_HEADER_BYTES, reading


def read_safetensors(path):
    """Read the tensors of a file.

    Returns:
        dict of names to numpy arrays.

    Raises:
        WeightFileError: the file is damaged, or holds a dtype that numpy lacks.
        ImportError: the package is not installed.
    """
    numpy_files = library()
    with reading(path, "a .safetensors file, whole", "Copy or download it again."):
        with open(path, "rb") as file:
            header = int.from_bytes(file.read(8), "little")
        if header > MOST_HEADER_BYTES:
            raise ValueError(f"a header of {header:,} bytes; at most {MOST_HEADER_BYTES:,}")
        return numpy_files.load_file(path)


def library():
    """`safetensors.numpy`; an ImportError with the remedy where it is not installed."""
    try:
        import safetensors.numpy
    except ImportError as error:
        raise ImportError(
            "A .safetensors file needs the package safetensors. Received: it is not installed. "
            "Install it: pip install 'keras-maskrcnn[safetensors]'."
        ) from error
    return safetensors.numpy
