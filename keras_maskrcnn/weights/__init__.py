"""Load and export weights: files, tensor names, receipts.

Start with `loading.py`. One file a program has its names and layouts (`torchvision.py`, `detectron2.py`,
`mmdetection.py`, `tensorpack.py`, `matterport.py`); `family.py` is what they have in common, `tables.py` loads any of
them. `pth.py`, `pkl.py`, `npz_files.py` and `matterport_files.py` read other programs' files safely,
`detectron2_yaml.py` the config beside one; `keras_files.py` reads Keras files, `models.py` loads whole models.
`published.py` downloads what `catalogue.py` lists, `receipt.py` lists every tensor. `limits.py` holds the limits of all
files and their error.
"""

from keras_maskrcnn.weights.loading import load_weights, read_state, write_state
from keras_maskrcnn.weights.receipt import Receipt
from keras_maskrcnn.weights.torchvision import torchvision_state_dict

__all__ = ["Receipt", "load_weights", "read_state", "torchvision_state_dict", "write_state"]
