"""Load and export weights: files, tensor names, receipts.

Start with `loading.py`. `torchvision.py` maps names and layouts, `pth.py` reads PyTorch files safely,
`keras_files.py` reads Keras files, `models.py` loads whole models, `published.py` downloads, `receipt.py` lists every
tensor. `limits.py` holds the limits of all files and their error.
"""

from keras_maskrcnn.weights.loading import load_weights, read_state, write_state
from keras_maskrcnn.weights.receipt import Receipt
from keras_maskrcnn.weights.torchvision import torchvision_state_dict

__all__ = ["Receipt", "load_weights", "read_state", "torchvision_state_dict", "write_state"]
