"""Mask R-CNN for Keras 3.

Reading order: model.py (the path from images to masks), config.py (every number), batch.py (the data contract),
then one module a stage; README.md lists them.
"""

from keras_maskrcnn import backbones, data, ops
from keras_maskrcnn._version import __version__
from keras_maskrcnn.batch import check_batch
from keras_maskrcnn.config import MaskRCNNConfig
from keras_maskrcnn.data import CocoDataset, DataLoader, open_dataset
from keras_maskrcnn.evaluation import CocoEvaluator, evaluate_coco, explain, format_metrics, rank, tune
from keras_maskrcnn.gigapixels import predict_large
from keras_maskrcnn.host.memory import keep_freed_memory
from keras_maskrcnn.inference.predictor import Predictor
from keras_maskrcnn.inference.visualize import draw_ground_truth, draw_instances
from keras_maskrcnn.measuring import measure
from keras_maskrcnn.model import MaskRCNN
from keras_maskrcnn.runs.callbacks import BestCheckpoint, TimeBudget
from keras_maskrcnn.runs.devices import use_devices
from keras_maskrcnn.runs.experiment import train_model
from keras_maskrcnn.runs.freezing import count_parameters, freeze
from keras_maskrcnn.runs.options import RunOptions
from keras_maskrcnn.runs.recipe import Recipe, choose_recipe
from keras_maskrcnn.runs.schedules import WarmupMultiStep, sgd
from keras_maskrcnn.scale.on_ray import predict_on_ray
from keras_maskrcnn.scale.rows import RowPredictor
from keras_maskrcnn.serving import export_litert, export_onnx, export_openvino, export_saved_model, export_web
from keras_maskrcnn.serving.folding import optimize_for_inference
from keras_maskrcnn.video import predict_video
from keras_maskrcnn.weights import load_weights, torchvision_state_dict
from keras_maskrcnn.weights.zoo import (
    keypointrcnn_resnet50_fpn,
    maskrcnn_resnet18_fpn,
    maskrcnn_resnet50_fpn,
    maskrcnn_resnet50_fpn_v2,
    maskrcnn_resnet101_fpn,
)

__all__ = [
    "BestCheckpoint",
    "CocoDataset",
    "CocoEvaluator",
    "DataLoader",
    "MaskRCNN",
    "MaskRCNNConfig",
    "Predictor",
    "Recipe",
    "RowPredictor",
    "RunOptions",
    "TimeBudget",
    "WarmupMultiStep",
    "__version__",
    "backbones",
    "check_batch",
    "choose_recipe",
    "count_parameters",
    "data",
    "draw_ground_truth",
    "draw_instances",
    "evaluate_coco",
    "explain",
    "export_litert",
    "export_onnx",
    "export_openvino",
    "export_saved_model",
    "export_web",
    "format_metrics",
    "freeze",
    "keep_freed_memory",
    "keypointrcnn_resnet50_fpn",
    "load_weights",
    "maskrcnn_resnet101_fpn",
    "maskrcnn_resnet18_fpn",
    "maskrcnn_resnet50_fpn",
    "maskrcnn_resnet50_fpn_v2",
    "measure",
    "open_dataset",
    "ops",
    "optimize_for_inference",
    "predict_large",
    "predict_on_ray",
    "predict_video",
    "rank",
    "sgd",
    "torchvision_state_dict",
    "train_model",
    "tune",
    "use_devices",
]
