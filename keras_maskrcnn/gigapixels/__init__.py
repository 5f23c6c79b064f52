"""Images that are too large for memory: read, predicted, merged and written tile by tile; a killed run goes on."""

from keras_maskrcnn.gigapixels.engine import predict_large

__all__ = ["predict_large"]
