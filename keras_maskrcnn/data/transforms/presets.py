"""Augmentation presets by name: lists of transforms that run after resizing to network size.

Called by the data loader and the command line. A preset is a plain list: print it, change it, pass it to
`DataLoader(augmentation=...)`.
"""

from keras_maskrcnn.data.transforms.appearance import ColorJitter, RandomBlur, RandomJpeg, RandomNoise
from keras_maskrcnn.data.transforms.copy_paste import CopyPaste
from keras_maskrcnn.data.transforms.moves import (
    LargeScaleJitter,
    RandomApply,
    RandomCrop,
    RandomFlip,
    RandomRotate90,
    RandomRotation,
    Resize,
    ResizeByScale,
)

PRESETS = ("none", "flip", "light", "strong")
_SCALES = {"light": (0.8, 1.25), "strong": (0.1, 2.0)}


def preset(name, config, crop=None, any_way_up=False):
    """The transforms of a preset.

    * "none": only `crop`.
    * "flip": horizontal flips of half of the images, as in the paper.
    * "light": flips, scales from 0.8 to 1.25 and moderate colour changes. For short fine-tuning.
    * "strong": flips, scales from 0.1 to 2, copy-paste in half of the images (both Ghiasi et al. 2021), colour
      changes with hue, and occasional blur, noise and JPEG artefacts. For long runs, and for few images.

    Scaling keeps the canvas size: larger images are cropped, smaller ones padded. Hue, saturation and JPEG
    artefacts are left out for images that are not 8-bit RGB or gray.

    Args:
        name: one of `PRESETS`.
        config: MaskRCNNConfig, for the resizing of pasted images, `max_instances`, and the channels of images.
        crop: network pixels, int or (height, width), of a window at a random position; None means no crop.
        any_way_up: whether the images have no fixed orientation (microscopy, aerial images). Adds rotations by
            90 degrees and vertical flips, and with "strong" free rotations of half of the images.

    Returns:
        list of transforms, to run after `resize_as(config)`.

    Raises:
        ValueError: unknown name.
    """
    if name not in PRESETS:
        raise ValueError(
            f"augmentation must be one of {', '.join(PRESETS)}, or a list of transforms. "
            f"Received {name!r}. See keras_maskrcnn.data for the transforms."
        )
    moves = _scaling(name, crop)
    if name == "none":
        return moves
    moves.append(RandomFlip(horizontal=True, vertical=any_way_up))
    if any_way_up:
        moves.append(RandomRotate90())
    if name == "strong":
        return _strong([*moves, RandomApply(RandomRotation(180), 0.5)] if any_way_up else moves, config)
    return [*moves, RandomApply(_colors(config, 0.2, 0.02), 0.8)] if name == "light" else moves


def resize_as(config):
    """The transform that resizes as the model's config specifies, and as Predictor does."""
    if config.image_scale is not None:
        return ResizeByScale(config.image_scale)
    return Resize(config.min_size, config.max_size)


def _scaling(name, crop):
    if name in _SCALES:
        return [LargeScaleJitter(*_SCALES[name], window=crop)]
    return [RandomCrop(crop)] if crop else []


def _has_colors(config):
    """Whether images are ordinary pictures: RGB or gray, 8 bits."""
    return config.image_dtype == "uint8" and config.num_channels in (1, 3)


def _colors(config, reach, hue):
    """Colour changes; only brightness and contrast if the images are not ordinary pictures."""
    return ColorJitter(reach, reach, reach, hue) if _has_colors(config) else ColorJitter(reach, reach)


def _strong(moves, config):
    pasted = CopyPaste((resize_as(config), *moves), most=config.max_instances)
    return [
        *moves,
        RandomApply(pasted, 0.5),
        RandomApply(_colors(config, 0.4, 0.05), 0.8),
        RandomApply(RandomBlur(), 0.1),
        RandomApply(RandomNoise(), 0.1),
        *([RandomApply(RandomJpeg(), 0.1)] if _has_colors(config) else []),
    ]
