"""Numbers about found objects: size, shape, place and brightness, in pixels and micrometres."""

from keras_maskrcnn.measuring.measurements import measure

__all__ = ["measure"]
