"""Predictions as files that labelling tools open for correction."""

from keras_maskrcnn.labelling.writing import TOOLS, write_labels

__all__ = ["TOOLS", "write_labels"]
