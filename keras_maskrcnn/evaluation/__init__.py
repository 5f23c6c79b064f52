"""COCO average precision, and the errors behind it.

Names are imported when they are first used: counting detections needs no Keras, which `coco.py` needs.
"""

import importlib

_MODULES = {  # public name -> its module in the package
    "analyse": "evaluation.analysis",
    "CocoEvaluator": "evaluation.coco",
    "coco_metrics": "evaluation.figures",
    "error_kinds": "evaluation.errors",
    "evaluate_coco": "evaluation.coco",
    "explain": "evaluation.misses",
    "explain_dataset": "evaluation.misses",
    "format_metrics": "evaluation.figures",
    "match_detections": "evaluation.matching",
    "rank": "evaluation.ranking",
    "tune": "evaluation.tuning",
}

__all__ = sorted(_MODULES)


def __getattr__(name):
    """Import the module of a public name when the name is first used (PEP 562)."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"keras_maskrcnn.{_MODULES[name]}"), name)
    globals()[name] = value
    return value
