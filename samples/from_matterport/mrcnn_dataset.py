"""A base class with the interface of `mrcnn.utils.Dataset`, for scripts whose `mrcnn` cannot be imported any more.

`mrcnn` needs TensorFlow 1 and Keras 2. Dataset classes derived from it need only what is here.
"""

import numpy as np
from PIL import Image


class Dataset:
    """Images and classes, added one by one; `prepare` numbers them. Derived classes override `load_mask`."""

    def __init__(self):
        self.image_info = []
        self.class_info = [{"source": "", "id": 0, "name": "BG"}]
        self.image_ids = np.arange(0)

    def add_class(self, source, class_id, class_name):
        """Add a class, unless the source has added it already."""
        if not any((info["source"], info["id"]) == (source, class_id) for info in self.class_info):
            self.class_info.append({"source": source, "id": class_id, "name": class_name})

    def add_image(self, source, image_id, path, **fields):
        """Add an image; further fields are kept in its `image_info`."""
        self.image_info.append({"id": image_id, "source": source, "path": path, **fields})

    def prepare(self):
        """Number classes and images: what is added later has no number."""
        self.num_classes, self.num_images = len(self.class_info), len(self.image_info)
        self.class_ids, self.image_ids = np.arange(self.num_classes), np.arange(self.num_images)
        self.class_names = [info["name"].split(",")[0] for info in self.class_info]
        self.class_from_source_map = {f"{info['source']}.{info['id']}": k for k, info in enumerate(self.class_info)}

    def map_source_class_id(self, source_class_id):
        """The number of a class, such as "coco.12"."""
        return self.class_from_source_map[source_class_id]

    def load_image(self, image_id):
        """The image's file: uint8 (H, W, 3)."""
        return np.asarray(Image.open(self.image_info[image_id]["path"]).convert("RGB"))

    def load_mask(self, image_id):
        """No objects: (masks (0, 0, 0), class ids (0,))."""
        return np.empty((0, 0, 0)), np.empty(0, np.int32)

    def image_reference(self, image_id):
        """Where the image comes from, for people."""
        return ""
