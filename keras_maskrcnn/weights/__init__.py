"""Weights from elsewhere, and to elsewhere: files, names, receipts.

`loading.py` is the way in. `torchvision.py` knows names and layouts, `pth.py` reads PyTorch files safely,
`keras_files.py` Keras' own, `published.py` downloads, `receipt.py` accounts for every tensor.
"""

from keras_maskrcnn.weights.loading import load_weights, read_state, write_state
from keras_maskrcnn.weights.receipt import Receipt
from keras_maskrcnn.weights.torchvision import torchvision_state_dict

__all__ = ["Receipt", "load_weights", "read_state", "torchvision_state_dict", "write_state"]
