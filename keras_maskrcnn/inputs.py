"""What `MaskRCNN.call` takes, brought to one form, with errors that need only shapes and dtypes.

`batch.check_batch` looks at values, on the host; this runs inside the traced step, where there are none yet.
Called by `model.py`.
"""

from keras import ops

from keras_maskrcnn.batch import INPUTS, OPTIONS, batch_fields

HAS_IMAGE = "has_image"  # beside the ground truth: which rows of a batch hold an image


def as_inputs(inputs, config):
    """The images with their sizes, the ground truth where there is some, and numbers that replace the config's.

    Args:
        inputs: images (B, H, W, C), or a dict with the keys of batch.py; without `image_sizes` the whole canvas is
            image. `gt_crowd` and optional arrays of branches may be left out.
        config: MaskRCNNConfig.

    Returns:
        (dict of images and image_sizes int32 (B, [height, width]), at least one pixel; dict of the `gt_*` tensors and
        `has_image` bool (B,), False where the given size is zero, or None without ground truth; dict of those of
        `OPTIONS` that are given, float (B,)).

    Raises:
        ValueError: an unknown or missing key, a wrong rank, number of channels or dtype.
    """
    inputs = dict(inputs) if isinstance(inputs, dict) else {"images": inputs}
    fields, others = batch_fields(config), INPUTS | OPTIONS
    _check_keys(inputs, fields)
    inputs = {key: ops.convert_to_tensor(value) for key, value in inputs.items()}
    for key, value in inputs.items():
        rank = others[key].rank if key in others else 2 + len(fields[key].shape)
        if len(value.shape) != rank:
            raise ValueError(
                f"`{key}` must have {rank} axes, batch first. Received shape {tuple(value.shape)}. "
                + ("For one image pass images[None]." if key == "images" else "See keras_maskrcnn/batch.py.")
            )
    images = inputs["images"]
    _check_images(images, config.num_channels)
    if 0 in images.shape:
        raise ValueError(
            "`images` must hold at least one image, of at least one row and one column. "
            f"Received shape {tuple(images.shape)}. Leave empty batches and images out."
        )
    truth = {key: value for key, value in inputs.items() if key not in others}
    options = {key: ops.cast(value, "float32") for key, value in inputs.items() if key in OPTIONS}
    sizes = inputs["image_sizes"] if "image_sizes" in inputs else _whole_canvas(images)
    sizes = ops.cast(sizes, "int32")
    if truth:
        truth[HAS_IMAGE] = sizes[:, 0] > 0
    return {"images": images, "image_sizes": ops.maximum(sizes, 1)}, truth or None, options


def count_images(batch):
    """The rows of a batch that hold an image, float32 scalar. `batch`: a dict, as `inputs` of `as_inputs`."""
    if "image_sizes" in batch:
        return ops.sum(ops.cast(ops.convert_to_tensor(batch["image_sizes"])[:, 0] > 0, "float32"))
    return ops.cast(ops.shape(batch["images"])[0], "float32")


def _whole_canvas(images):
    batch, height, width = ops.shape(images)[:3]
    size = ops.stack([ops.cast(height, "int32"), ops.cast(width, "int32")])
    return ops.broadcast_to(size[None], (batch, 2))


def _check_keys(inputs, fields):
    known = (*INPUTS, *fields, *OPTIONS)
    unknown = sorted(set(inputs) - set(known))
    required = ["images"]
    if any(key.startswith("gt_") for key in inputs):
        required += [key for key, field in fields.items() if not field.optional and key != "gt_crowd"]
    missing = [key for key in required if key not in inputs]
    if unknown or missing:
        raise ValueError(
            f"A batch has the keys {known}. Received {sorted(inputs)}: missing {missing}, unknown {unknown}. "
            "See keras_maskrcnn/batch.py for their shapes."
        )


def _check_images(images, channels):
    if images.shape[-1] != channels:
        raise ValueError(
            f"`images` must be (B, H, W, {channels}), channels last. Received shape {tuple(images.shape)}. "
            "Grayscale images go into an RGB model in three equal channels: numpy.repeat(gray[..., None], 3, axis=-1). "
            "A model has one channel for each entry of its config's pixel_mean."
        )
    dtype = str(getattr(images.dtype, "name", images.dtype)).removeprefix("torch.")
    if dtype == "bool" or dtype.startswith(("complex", "string")):
        raise ValueError(f"`images` must be uint8, uint16 or float, not normalised. Received dtype {dtype}.")
