"""COCO average precision."""

from keras_maskrcnn.evaluation.coco import CocoEvaluator, evaluate_coco
from keras_maskrcnn.evaluation.figures import coco_metrics, format_metrics

__all__ = ["CocoEvaluator", "coco_metrics", "evaluate_coco", "format_metrics"]
