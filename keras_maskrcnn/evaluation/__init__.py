"""COCO average precision."""

from keras_maskrcnn.evaluation.coco import CocoEvaluator, coco_metrics, evaluate_coco, format_metrics

__all__ = ["CocoEvaluator", "coco_metrics", "evaluate_coco", "format_metrics"]
