"""What the command line calls the arguments of the Python functions, for messages."""

WORDS = {  # argument, or argument with its value -> option
    "image_dir": "--images",
    'on_error="skip"': "--skip-faulty",
    "format": "--format",
    "part": "--part",
    "image_dtype": "--image-dtype",
    "run_dir": "--run-dir",
    "attribute": "--class-attribute",
    "batch_size": "--batch-size",
    "negatives": "--negatives",
    "repeat_threshold": "--repeat-threshold",
    "overwrite=True": "--overwrite",
    "opset": "--opset",
    "calibration": "--int8",
    'dtype="float16"': "--fp16",
    "onnxruntime_web": "--onnxruntime-web",
    "resume=True": "--resume",
    "allow_empty=True": "--allow-empty",
    "max_batch": "--max-batch",
    "max_instances": "--max-instances",
    "worker_type": "--worker-type",
    'worker_type="thread"': "--worker-type thread",
    "max_detections": "--max-detections",
    "device": "--device",
    "devices": "--devices",
    "minutes": "--minutes",
    "epochs": "--epochs",
    "actors": "--actors",
    "gpus": "--gpus",
    "image_column": "--image-column",
    "output": "--output",
    "score_threshold": "--score",
    "tile": "--tile",
    "overlap": "--overlap",
    "architecture": "--architecture",
    "warm_start=True": "--warm-start",
    "min_size": "--min-size",
    "max_size": "--max-size",
    "measure": "--measure",
    "pixel_size": "--pixel-size",
}


def words_of_dataset(prefix, annotations):
    """Words for messages about a dataset with two options, of which the first may hold the annotations as well.

    Args:
        prefix: "" or "val-".
        annotations: what `--annotations` or `--val-annotations` is, or None.
    """
    images = f"--{prefix}images"
    return {"image_dir": images if annotations else f"{images}, with the annotation file as --{prefix}annotations"}
