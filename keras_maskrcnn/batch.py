"""THE DATA CONTRACT: names, shapes and dtypes of what `model.fit` and `model.predict` take.

Loaders fill a batch, the model reads it, and `check_batch` checks batches that were built by hand. All arrays are
numpy, batch first; B images, N rows of ground truth; network pixels.

    images       uint8 | uint16 | float32 (B, H, W, C), zero padded at right and bottom; not normalised:
                 the model does that. C channels, [r, g, b] 0..255 unless the config says otherwise
    image_sizes  int32 (B, [height, width]): the part of the canvas that is image; in training 0, 0 is a row without an
                 image, which fills a batch up and counts in no loss
    gt_boxes     float32 (B, N, [x1, y1, x2, y2])
    gt_labels    int32 (B, N), 0..K-1, no background
    gt_valid     bool (B, N): rows that hold an object; the others are padding (zeros)
    gt_crowd     bool (B, N): valid rows that are crowd regions: no targets, their inside is ignored

Each branch of the config adds its own (`Branch.truth`); the mask branch, M mask cells per side:

    gt_masks       uint8 0/1 (B, N, M, M) in the frame of the gt box: row 0 at y1, row M-1 ends at y2
    gt_mask_boxes  optional, float32 (B, N, [x1, y1, x2, y2]): the window of gt_masks, if it is not the gt box

A batch for inference has only `images` and `image_sizes`. It may replace numbers of the config, image by image; NaN or
a negative number stands for the config's:

    score_threshold  optional, float32 (B,)        nms_threshold  optional, float32 (B,)
"""

import dataclasses

import numpy as np

from keras_maskrcnn.branches.field import Field, first_true
from keras_maskrcnn.branches.mask import MaskBranch
from keras_maskrcnn.geometry.resizing import STRIDE


@dataclasses.dataclass(frozen=True)
class Input:
    """An array of a batch other than ground truth: its rank, shape and dtype in words, and numpy kinds."""

    rank: int
    shape: str
    dtype: str
    kinds: str


INPUTS = {
    "images": Input(4, "(B, H, W, C)", "uint8, uint16 or float32", "uf"),
    "image_sizes": Input(2, "(B, [height, width])", "int32", "iu"),
}
OPTIONS = {
    "score_threshold": Input(1, "(B,)", "float32", "f"),
    "nms_threshold": Input(1, "(B,)", "float32", "f"),
}
TRUNK = {
    "gt_boxes": Field((4,), "float32", "network pixels", ("[x1, y1, x2, y2]",)),
    "gt_labels": Field((), "int32", "0..K-1"),
    "gt_valid": Field((), "bool", "whether the row holds an object"),
    "gt_crowd": Field((), "bool", "whether it is a crowd region"),
}


def batch_fields(config=None):
    """The ground-truth arrays of a model's batches.

    Args:
        config: MaskRCNNConfig. None: only the mask branch, with masks of any size.

    Returns:
        dict of "gt_..." to Field; the mandatory ones first.
    """
    if config is None:
        found = TRUNK | MaskBranch.fields(gt_mask_size=1)
    else:
        found = TRUNK | {key: field for branch in config.branches for key, field in branch.truth(config).items()}
    return dict(sorted(found.items(), key=lambda item: item[1].optional))


def empty_batch(batch_size, canvas, max_instances, config):
    """A batch of black images without objects, to be filled row by row with `fill_row`.

    Args:
        batch_size: B.
        canvas: (H, W) network pixels, multiples of 32.
        max_instances: N.
        config: MaskRCNNConfig, for the images' channels and dtype and the branches' arrays.

    Returns:
        dict of numpy arrays as in the module docstring, without optional ones.
    """
    fields = {name: field for name, field in batch_fields(config).items() if not field.optional}
    return {
        "images": np.zeros((batch_size, *canvas, config.num_channels), config.image_dtype),
        "image_sizes": np.zeros((batch_size, 2), np.int32),
        **{name: field.empty(batch_size, max_instances) for name, field in fields.items()},
    }


def fill_row(batch, row, image, truth):
    """Write one image and its objects into row `row` of a batch, in place.

    Args:
        batch: from `empty_batch`; its row must still be empty.
        row: int, position in the batch.
        image: (h, w, C), network pixels, at most as large as the canvas.
        truth: dict of gt_boxes (n, [x1, y1, x2, y2]) network pixels, gt_labels (n,), gt_crowd (n,) and the branches'
            arrays (n, ...); n <= N. `gt_valid` is set here.
    """
    height, width = image.shape[:2]
    canvas = batch["images"].shape[1:3]
    if height > canvas[0] or width > canvas[1]:
        raise ValueError(
            "Every image must fit into the canvas of its batch. "
            f"Received an image of {height} x {width} for a canvas of {canvas[0]} x {canvas[1]} "
            "(height x width, network pixels). Pass a larger `canvas`, or resize or crop first."
        )
    count = len(truth["gt_boxes"])
    batch["images"][row, :height, :width] = image
    batch["image_sizes"][row] = height, width
    batch["gt_valid"][row, :count] = True
    for name, values in truth.items():
        batch[name][row, :count] = values


def has_ground_truth(batch):
    """Whether a batch carries objects to learn from (True) or only images (False)."""
    return isinstance(batch, dict) and "gt_boxes" in batch


def check_batch(batch, config=None):
    """Raise a ValueError that names key, position and remedy unless a batch keeps the contract.

    Reads values on the host: call it on the first batches of a run, not inside the step.

    Args:
        batch: dict as in the module docstring, or images alone, (B, H, W, C).
        config: MaskRCNNConfig or None. Gives the number of classes that labels are checked against, and what images
            hold (RGB in 0..255 without).

    Returns:
        The same batch as a dict of numpy arrays.

    Raises:
        ValueError: a key is missing or unknown; a rank, size, dtype or count disagrees; a canvas
            side is not a multiple of 32; a valid box is degenerate, outside its image, or not finite;
            a label is not in 0..K-1; a mask value is not 0 or 1.
    """
    fields = batch_fields(config)
    if not isinstance(batch, dict):
        images = np.asarray(batch)
        _check_input("images", images)  # before its sizes are read
        sizes = np.tile(np.asarray(images.shape[1:3], np.int32), (len(images), 1))
        batch = {"images": images, "image_sizes": sizes}
    _check_keys(batch, fields)
    batch = {key: np.asarray(value) for key, value in batch.items()}
    for key, value in batch.items():
        if key in INPUTS or key in OPTIONS:
            _check_input(key, value)
        else:
            _check_field(key, value, fields[key])
    _check_sizes_agree(batch)
    _check_pixels(batch["images"], *(("uint8", 3) if config is None else (config.image_dtype, config.num_channels)))
    _check_images(batch)
    if has_ground_truth(batch):
        _check_boxes(batch)
        _check_labels(batch, config)
        for branch in (MaskBranch(),) if config is None else config.branches:
            branch.check_truth(batch, config)
    return batch


def _check_keys(batch, fields):
    mandatory = [key for key, field in fields.items() if not field.optional]
    required = [*INPUTS, *(mandatory if any(str(key).startswith("gt_") for key in batch) else ())]
    missing = [key for key in required if key not in batch]
    unknown = [key for key in batch if key not in (*INPUTS, *OPTIONS, *fields)]
    if missing or unknown:
        raise ValueError(
            f"A batch has the keys {list(INPUTS)} and, for training, {mandatory}. "
            f"Received {sorted(map(str, batch))}: missing {missing}, unknown {unknown}. "
            "Add or rename them; the shapes are listed in keras_maskrcnn/batch.py."
        )


def _check_input(key, value):
    expected = (INPUTS | OPTIONS)[key]
    good = value.ndim == expected.rank and (key != "image_sizes" or value.shape[-1] == 2)
    odd_width = key == "images" and value.dtype.kind == "u" and value.dtype not in (np.uint8, np.uint16)
    _check_array(key, value, good, expected.rank, expected.shape)
    _check_dtype(key, value, value.dtype.kind in expected.kinds and not odd_width, expected.dtype)


def _check_field(key, value, field):
    about = f": {field.about}" if field.about else ""
    _check_array(key, value, field.fits(value), 2 + len(field.shape), field.describe() + about)
    _check_dtype(key, value, value.dtype.kind in field.kinds, field.dtype)


def _check_array(key, value, good, rank, shape):
    if not good:
        hint = "Add the batch axis: array[None]." if value.ndim == rank - 1 else "Reshape it."
        raise ValueError(f"`{key}` must have shape {shape}. Received shape {value.shape}. {hint}")


def _check_dtype(key, value, good, dtype):
    if not good:
        raise ValueError(
            f"`{key}` must be {dtype}. Received dtype {value.dtype}. "
            f"Convert it (array.astype) before it enters the batch."
        )


def _check_sizes_agree(batch):
    count = len(batch["images"])
    rows = batch["gt_boxes"].shape[:2] if has_ground_truth(batch) else (count,)
    for key, value in batch.items():
        expected = rows if key.startswith("gt_") else (count,)
        if value.shape[: len(expected)] != expected or len(value) != count:
            raise ValueError(
                f"All arrays of a batch must agree in B = {count}, and ground truth in N as "
                f"`gt_boxes` {rows} has it. Received `{key}` of shape {value.shape}. "
                "Pad every image's rows to the same N and mark padding with gt_valid = False."
            )


def _check_pixels(images, dtype, channels):
    if images.dtype == np.uint16 and dtype == "uint8":
        raise ValueError(
            "`images` must be uint8, or float32 with values in 0..255. Received dtype uint16. Scale them "
            "(data.read_image does), or set image_dtype, pixel_mean and pixel_std of the config to what they hold."
        )
    if images.shape[-1] != channels:
        raise ValueError(
            f"`images` must have shape (B, H, W, {channels}). Received shape {images.shape}. Reshape it, or give "
            f"pixel_mean and pixel_std of the config {images.shape[-1]} values, one for each channel."
        )


def _check_images(batch):
    images, sizes = batch["images"], batch["image_sizes"]
    canvas = images.shape[1:3]
    if canvas[0] % STRIDE or canvas[1] % STRIDE or 0 in canvas:
        raise ValueError(
            f"Canvas height and width must be multiples of {STRIDE}. Received {canvas}. "
            "Pad the images with zeros at the right and bottom (resizing.pad_to_canvas)."
        )
    wrong = ((sizes < 1) | (sizes > np.asarray(canvas))).any(-1)
    if has_ground_truth(batch):  # rows that fill a batch up
        wrong &= (sizes != 0).any(-1) | np.any(batch["gt_valid"], axis=-1)
    if wrong.any():
        row = int(np.flatnonzero(wrong)[0])
        raise ValueError(
            f"Every row of `image_sizes` must be (height, width) within the canvas {canvas}. "
            f"Received {sizes[row].tolist()} for image {row}. Is it (width, height)?"
        )
    if images.dtype.kind == "f" and not np.isfinite(images).all():
        row = int(np.flatnonzero(~np.isfinite(images).reshape(len(images), -1).all(1))[0])
        raise ValueError(
            "`images` must be finite numbers. "
            f"Received NaN or infinity in image {row}. Check how it was read or normalised."
        )


def _check_boxes(batch):
    boxes, valid = batch["gt_boxes"], batch["gt_valid"]
    limits = batch["image_sizes"][:, None, ::-1] + 1.0  # one pixel of slack for rounding
    with np.errstate(invalid="ignore"):
        ordered = (boxes[..., 2:] > boxes[..., :2]).all(-1)
        inside = (boxes[..., :2] >= -1.0).all(-1) & (boxes[..., 2:] <= limits).all(-1)
    for good, rule, remedy in (
        (np.isfinite(boxes).all(-1), "be finite", "Drop degenerate objects before batching."),
        (
            ordered,
            "satisfy x1 < x2 and y1 < y2",
            "COCO boxes are (x, y, width, height): convert them first.",
        ),
        (inside, "lie inside its image", "Clip boxes to image_sizes, in network pixels."),
    ):
        row, instance = first_true(valid & ~good)
        if row is not None:
            raise ValueError(
                f"Every valid box must {rule}, in network pixels. Received "
                f"{boxes[row, instance].tolist()} for instance {instance} of image {row} "
                f"(height, width = {batch['image_sizes'][row].tolist()}). {remedy}"
            )
    row, instance = first_true(batch["gt_crowd"] & ~valid)
    if row is not None:
        raise ValueError(
            "A crowd region must be a valid row. Received gt_crowd = True with gt_valid = False "
            f"for instance {instance} of image {row}. Set gt_valid for crowd rows too."
        )


def _check_labels(batch, config):
    labels = batch["gt_labels"]
    num_classes = np.iinfo(np.int32).max if config is None else config.num_classes
    row, instance = first_true(batch["gt_valid"] & ((labels < 0) | (labels >= num_classes)))
    if row is not None:
        raise ValueError(
            f"Labels of valid rows must lie in 0..{num_classes - 1}: background is not counted. "
            f"Received {labels[row, instance]} for instance {instance} of image {row}. "
            "Map dataset ids to 0..K-1, or raise num_classes."
        )
