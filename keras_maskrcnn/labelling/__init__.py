"""Predictions as files that labelling tools open for correction, and programs that analyse objects."""

from keras_maskrcnn.labelling.writing import TOOLS, write_labels

__all__ = ["TOOLS", "write_labels"]
