"""From a trained model to a SavedModel that runs without this package. Names TensorFlow, as backend/ does."""

from keras_maskrcnn.serving.saved_model import export_saved_model

__all__ = ["export_saved_model"]
