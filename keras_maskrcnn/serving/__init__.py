"""Export a trained model to formats that run without this package. May import TensorFlow, as backend/ may.

`signatures.py` defines the inputs and outputs of a SavedModel. `saved_model.py` writes one; `client.py` and
`saved_model_predictor.py` use it. `onnx.py`, `openvino.py` and `litert.py` write files for other runtimes;
`onnx_predictor.py`, `openvino_predictor.py` and `litert_predictor.py` run them. `web.py` writes a folder for browsers,
`triton.py` one for Triton. `verifying.py` compares an export with its model.
"""

from keras_maskrcnn.serving.client import coco_rle, masks_from_rle
from keras_maskrcnn.serving.export_predictor import found_instances
from keras_maskrcnn.serving.litert import export_litert
from keras_maskrcnn.serving.litert_predictor import LitertPredictor
from keras_maskrcnn.serving.onnx import export_onnx
from keras_maskrcnn.serving.onnx_predictor import OnnxPredictor
from keras_maskrcnn.serving.openvino import export_openvino
from keras_maskrcnn.serving.openvino_predictor import OpenVinoPredictor
from keras_maskrcnn.serving.saved_model import export_saved_model
from keras_maskrcnn.serving.saved_model_predictor import SavedModelPredictor
from keras_maskrcnn.serving.triton import export_triton
from keras_maskrcnn.serving.verifying import Comparison, Limits, verify
from keras_maskrcnn.serving.web import export_web

__all__ = [
    "Comparison",
    "Limits",
    "LitertPredictor",
    "OnnxPredictor",
    "OpenVinoPredictor",
    "SavedModelPredictor",
    "coco_rle",
    "export_litert",
    "export_onnx",
    "export_openvino",
    "export_saved_model",
    "export_triton",
    "export_web",
    "found_instances",
    "masks_from_rle",
    "verify",
]
