"""Export a trained model to formats that run without this package. May import TensorFlow, as backend/ may.

`signatures.py` defines the inputs and outputs of a SavedModel. `saved_model.py` writes one; `client.py` and
`saved_model_predictor.py` use it. `onnx.py` and `litert.py` write files for other runtimes; `onnx_predictor.py` runs
those of ONNX. `web.py` writes a folder for browsers.
"""

from keras_maskrcnn.serving.client import coco_rle, masks_from_rle
from keras_maskrcnn.serving.export_predictor import found_instances
from keras_maskrcnn.serving.litert import export_litert
from keras_maskrcnn.serving.onnx import export_onnx
from keras_maskrcnn.serving.onnx_predictor import OnnxPredictor
from keras_maskrcnn.serving.saved_model import export_saved_model
from keras_maskrcnn.serving.saved_model_predictor import SavedModelPredictor
from keras_maskrcnn.serving.web import export_web

__all__ = [
    "OnnxPredictor",
    "SavedModelPredictor",
    "coco_rle",
    "export_litert",
    "export_onnx",
    "export_saved_model",
    "export_web",
    "found_instances",
    "masks_from_rle",
]
