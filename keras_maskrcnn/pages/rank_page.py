"""The page of images to label next, with what the model finds in each. Called by `keras-maskrcnn rank`."""

import base64
import pathlib

from keras_maskrcnn.data.images.reading import ImageError, read_image
from keras_maskrcnn.inference.arguments import USUAL_SCORE
from keras_maskrcnn.inference.visualize import segmentation_mask
from keras_maskrcnn.pages.error_pictures import draw_part
from keras_maskrcnn.pages.html import write_page_file

_PICTURES = 100
_OUTLINES = 200  # in a picture


def write_rank_page(path, ranked, config, title):
    """Write one HTML file with the pictures inside.

    Args:
        path: the file. ranked: list of RankedImage, in order; 100 are shown. config: MaskRCNNConfig, for the images.
        title: str.
    """
    shown = [_picture(number, image, config) for number, image in enumerate(ranked[:_PICTURES], start=1)]
    write_page_file(
        path,
        "rank.html",
        title=title,
        summary=[("images to label", len(ranked)), ("shown here", len(shown))],
        gallery_of={"name": "To label", "pictures": shown},
    )


def _picture(number, image, config):
    surer = [one for one in image.results if one["score"] >= USUAL_SCORE]
    name = pathlib.PurePath(str(image.source)).name
    title = (
        f"{number}. {name}: uncertainty {image.uncertainty:.2f}, {len(surer)} of {len(image.results)} detections shown"
    )
    try:
        pixels = read_image(image.source, config.num_channels, config.image_dtype)
    except ImageError:
        return {"data": None, "title": title}
    height, width = image.size
    masks = [segmentation_mask(one["segmentation"], image.size) for one in surer[:_OUTLINES] if "segmentation" in one]
    data = draw_part(pixels, (0, 0, width, height), masks)
    return {"data": base64.b64encode(data).decode(), "title": title}
