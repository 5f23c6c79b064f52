"""Finds the objects of a video, frame by frame; writes a table and a video with the objects drawn in.

Comes in: a path and a predictor. Goes out: objects.csv and annotated.mp4. Called by users and by the command line.
"""

import contextlib
import csv
import pathlib
import typing

import numpy as np

from keras_maskrcnn.data.images.forms import ImageError
from keras_maskrcnn.host.files import write_together
from keras_maskrcnn.host.locks import locked_folder
from keras_maskrcnn.inference.visualize import draw_tracks
from keras_maskrcnn.video.files import VideoFrames, VideoWriter

TABLE, VIDEO = "objects.csv", "annotated.mp4"
COLUMNS = (
    "frame", "time_s", "track", "class", "score", "x1", "y1", "x2", "y2", "area_px", "centroid_x_px", "centroid_y_px"
)  # fmt: skip


class VideoResult(typing.NamedTuple):
    """What `predict_video` has written: numbers of frames, objects and tracks (0 without); `folder`, pathlib.Path."""

    frames: int
    objects: int
    tracks: int
    folder: pathlib.Path


def predict_video(predictor, source, output, tracker=None, score=0.0, batch_size=None, progress=None):
    """Find the objects in each frame of a video.

    Args:
        predictor: Predictor or another ImagePredictor; or any object with `predict(pixels (h, w, 3))`, which returns
            instances with `boxes`, `scores`, `labels`, `class_names` and, of a model with masks, `mask_windows`.
        source: path of a video. output: folder for objects.csv and annotated.mp4, made if it is missing.
        tracker: Tracker, to follow objects; None: frames are taken one by one. With it unsure objects without a track
            are left out.
        score: objects with lower scores are left out, without a tracker.
        batch_size: frames that the model sees at once, as for `stream`.
        progress: None, or a function of (finished frames, all frames or None).

    Returns:
        VideoResult.

    Raises:
        ValueError: the video cannot be read. ImportError: PyAV is not installed.
    """
    folder = pathlib.Path(output)
    frames = VideoFrames(source)
    counts = {"frames": 0, "objects": 0, "tracks": 0}

    def write_both(table, video):
        with contextlib.ExitStack() as stack:
            file = stack.enter_context(open(table, "w", encoding="utf-8", newline=""))
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(COLUMNS)
            pictures = stack.enter_context(VideoWriter(video, frames.rate, str(source)))
            for index, (image, found) in enumerate(_found(predictor, frames, batch_size)):
                masks = getattr(found, "mask_windows", None)
                numbers = _numbers(found, masks, tracker, score)
                kept = [k for k, number in enumerate(numbers) if number is not None]
                for k in kept:
                    writer.writerow(_row(index, frames.times[index], numbers[k], found, k, masks))
                pictures.add(draw_tracks(image, found, kept, [numbers[k] for k in kept]))
                tracks = max([counts["tracks"], *(numbers[k] for k in kept)])
                counts.update(frames=index + 1, objects=counts["objects"] + len(kept), tracks=tracks)
                if progress is not None:
                    progress(index + 1, frames.expected)

            if not counts["frames"]:
                raise ImageError(f"A video has frames. Received {source} without one. Export it again.")

    with locked_folder(folder):
        # One pass writes both: the table when it is asked for, the video beside it is then there already.
        write_together(folder, {VIDEO: lambda place: write_both(place.with_name(TABLE), place)})
    return VideoResult(**counts, folder=folder)


def _found(predictor, frames, batch_size):
    """Yield (frame, instances) in order."""
    if not hasattr(predictor, "stream"):
        yield from ((frame, predictor.predict(frame)) for frame in frames)
        return
    pair = lambda index, image, found: (image, found)  # noqa: E731
    for answer in predictor.stream(frames, pair, batch_size):
        if answer.error is not None:
            raise answer.error
        yield answer.result


def _numbers(found, masks, tracker, score):
    """The track of each object, 0 without a tracker; None of those that are left out. Without masks boxes overlap."""
    if tracker is not None:
        windows = [_filled(box) for box in found.boxes] if masks is None else masks
        return tracker.update(windows, found.labels, found.scores)
    return [0 if one >= score else None for one in found.scores]


def _filled(box):
    x1, y1, x2, y2 = np.rint(box).astype(int).tolist()
    return np.ones((max(1, y2 - y1), max(1, x2 - x1)), bool), x1, y1


def _row(index, seconds, number, found, k, masks):
    numbers = [found.scores[k], *found.boxes[k], *(["", "", ""] if masks is None else _place(*masks[k]))]
    cells = [f"{float(value):.10g}" if value != "" else "" for value in numbers]
    return [index, f"{seconds:.10g}", number or "", found.class_names[int(found.labels[k])], *cells]


def _place(window, x, y):
    """Area and centroid of a mask, pixels; no centroid of an empty one."""
    rows, columns = np.nonzero(window)
    centre = (x + columns.mean() + 0.5, y + rows.mean() + 0.5) if len(rows) else ("", "")
    return [len(rows), *centre]
