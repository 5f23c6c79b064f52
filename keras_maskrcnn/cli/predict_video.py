"""predict: videos, and --track."""

import argparse
import pathlib

from keras_maskrcnn.cli.options import Option
from keras_maskrcnn.cli.results import short_stem

TRACK = Option(
    "--track",
    "follow the objects of videos by their masks: each gets a number, which it keeps while it is hidden for a moment. "
    "--score (default: 0.5) is then that of objects that are new",
    type=bool,
)


def take_videos(args):
    """Move the videos from `images` to `videos`, as paths.

    Raises:
        ValueError: an option does not go with videos, or --track is given without one, or with images beside them.
        ImportError: there are videos, and PyAV is not installed.
    """
    from keras_maskrcnn.video.files import import_av, is_video

    args.videos = [pathlib.Path(name) for name in args.images if is_video(name)]
    args.images = [name for name in args.images if not is_video(name)]
    if args.track and (args.images or not args.videos):
        raise ValueError(
            f"--track is for videos alone. Received: {(args.images or ['none'])[0]}. Name videos (.mp4, .avi, ...), or "
            "leave --track out."
        )
    others = {"--annotations": args.annotations, "--to": args.to, "--measure": args.measure}
    for flag, value in others.items() if args.videos else ():
        if value:
            raise ValueError(
                f"{flag} works with images. Received: {flag} {value} and {args.videos[0]}. Leave it out: objects.csv "
                "has the objects of a video."
            )
    if args.videos:
        import_av(args.videos[0])


def tracking_arguments(args):
    """The arguments with which the predictor is opened: tracks need what is less sure than --score as well."""
    return argparse.Namespace(**vars(args) | {"score": None}) if args.track else args


def _sure(args):
    """The score of an object that begins a track."""
    from keras_maskrcnn.inference.arguments import USUAL_SCORE

    return USUAL_SCORE if args.score is None else args.score


def predict_videos(predictor, args):
    """Predict `args.videos`, one after the other. Returns a list of str: what went wrong with which."""
    from keras_maskrcnn.cli.predict_large import bar_of
    from keras_maskrcnn.video import Tracker, predict_video

    failures = []
    for number, path in enumerate(args.videos):
        folder = pathlib.Path(args.output) / f"{number:04d}-{short_stem(path.stem)}"
        tracker = Tracker(high=_sure(args)) if args.track else None
        try:
            done = predict_video(predictor, path, folder, tracker, args.score or 0.0, args.batch_size, bar_of("frame"))
        except (ValueError, MemoryError) as error:
            failures.append(f"{path}: {str(error) or type(error).__name__}")
            continue
        tracks = f" of {done.tracks} tracks" if args.track else ""
        told = f"{done.objects} objects{tracks} in {done.frames} frames of {path}"
        print(f"{told}: objects.csv and annotated.mp4 in {folder}")
    return failures
