"""The model's door: what `call` takes, brought to one form, with errors that need only shapes and dtypes.

`batch.check_batch` looks at values, on the host; this runs inside the traced step, where there are none yet.
Called by `model.py`.
"""

from keras import ops

from keras_maskrcnn.batch import GT_KEYS, INPUT_KEYS, OPTIONAL_KEYS, RANKS

REQUIRED_GT = tuple(key for key in GT_KEYS if key != "gt_crowd")


def as_inputs(inputs, channels=3):
    """A dict with `images`, `image_sizes` and perhaps ground truth, checked as far as shapes go.

    Args:
        inputs: images (B, H, W, channels), or a dict with the keys of batch.py; without `image_sizes` the whole
            canvas is image. `gt_crowd` and `gt_mask_boxes` may be left out.
        channels: of the images.

    Returns:
        dict of tensors with both `images` and `image_sizes` int32 (B, [height, width]).

    Raises:
        ValueError: an unknown or missing key, a wrong rank, number of channels or dtype.
    """
    inputs = dict(inputs) if isinstance(inputs, dict) else {"images": inputs}
    _check_keys(inputs)
    inputs = {key: ops.convert_to_tensor(value) for key, value in inputs.items()}
    for key, value in inputs.items():
        rank, _ = RANKS[key]
        if len(value.shape) != rank:
            raise ValueError(
                f"`{key}` must have {rank} axes, batch first. Received shape {tuple(value.shape)}. "
                + ("For one image pass images[None]." if key == "images" else "See keras_maskrcnn/batch.py.")
            )
    _check_images(inputs["images"], channels)
    if "image_sizes" not in inputs:
        batch, height, width = ops.shape(inputs["images"])[:3]
        size = ops.stack([ops.cast(height, "int32"), ops.cast(width, "int32")])
        inputs["image_sizes"] = ops.broadcast_to(size[None], (batch, 2))
    inputs["image_sizes"] = ops.cast(inputs["image_sizes"], "int32")
    return inputs


def _check_keys(inputs):
    known = (*INPUT_KEYS, *GT_KEYS, *OPTIONAL_KEYS)
    unknown = sorted(set(inputs) - set(known))
    required = ("images", *REQUIRED_GT) if "gt_boxes" in inputs else ("images",)
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
    dtype = str(getattr(images.dtype, "name", images.dtype))
    if dtype == "bool" or dtype.startswith(("complex", "string")):
        raise ValueError(f"`images` must be uint8, uint16 or float, not normalised. Received dtype {dtype}.")
