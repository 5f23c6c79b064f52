"""Load a whole model from a `.keras` file. Called by the command line and `convert.py`.

Keras builds what the file describes, with `safe_mode`: no Lambda layer, no code from the file. Before it does, the
archive, its texts and its arrays are checked, so that damage gives one error and a forged size costs nothing.
"""

import json

import keras

from keras_maskrcnn.model import MaskRCNN
from keras_maskrcnn.weights.archive import open_archive
from keras_maskrcnn.weights.h5_files import array_shapes, read_array
from keras_maskrcnn.weights.keras_files import NOT_WEIGHTS, REMEDY, open_weights
from keras_maskrcnn.weights.limits import MOST_HEADER_BYTES, reading
from keras_maskrcnn.weights.sizes import check_config_sizes

EXPECTED = "a .keras file that `train` or model.save wrote, whole"
_TEXTS = ("config.json", "metadata.json")


def load_model(path):
    """Load the model in a `.keras` file, not compiled.

    Args:
        path: the file. Classes of your own code in it must be registered with Keras before.

    Returns:
        MaskRCNN.

    Raises:
        WeightFileError: the file is damaged or forged, holds another kind of model, a Lambda layer, or weights that are
            not finite. For a file that you trust and that needs a Lambda layer call `keras.saving.load_model(path,
            compile=False, safe_mode=False)` yourself.
    """
    with open_weights(path) as weights, reading(path, EXPECTED, REMEDY):
        shapes = array_shapes(weights)
        check_config_sizes(_read_config(path), list(shapes.values()))
        for key in shapes:
            if not NOT_WEIGHTS.search(key):
                read_array(weights, key, path)
        model = keras.saving.load_model(path, compile=False, safe_mode=True)
        if not isinstance(model, MaskRCNN):
            raise ValueError(f"a {type(model).__name__}, which is no Mask R-CNN of this package")
    return model


def _read_config(path):
    with open_archive(path) as (archive, members):
        for name in _TEXTS:
            if name not in members:
                raise ValueError(f"an archive without {name}")
            if members[name].file_size > MOST_HEADER_BYTES:
                raise ValueError(f"{name} of {members[name].file_size:,} bytes; at most {MOST_HEADER_BYTES:,}")
        return json.loads(archive.read("config.json"))
