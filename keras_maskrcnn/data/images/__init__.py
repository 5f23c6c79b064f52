"""Image files, one way from their bytes to an array.

    reading.read_image
      opening.open_source     path, bytes, PIL image or array -> Opened: the content and its kind
      decoding.decode         Opened -> Stored: every channel, in the stored dtype
        npy_files, tiff_files, pillow_files, one for each kind of file
      channels.as_channels    Stored -> (H, W, C), the channels asked for
      dtypes.as_dtype         (H, W, C) in the dtype asked for

Each step takes what the step before returned and calls none of the others. `forms` holds what they share: ImageError,
Opened and Stored. `showing` makes pictures for people of images of any kind.
"""

from keras_maskrcnn.data.images.reading import ImageError, image_size, read_image

__all__ = ["ImageError", "image_size", "read_image"]
