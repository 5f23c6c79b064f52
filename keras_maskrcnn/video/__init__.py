"""Objects in videos: found frame by frame, followed by their masks, written as a table and a video."""

from keras_maskrcnn.video.engine import predict_video
from keras_maskrcnn.video.tracking import Tracker

__all__ = ["Tracker", "predict_video"]
