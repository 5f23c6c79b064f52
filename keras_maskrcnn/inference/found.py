"""What a predictor finds in an image: `FoundInstances`, and `TiledInstances` of an image that was cut into tiles.

Masks stay small and in the frame of their box until full ones are requested. Made by `predictor.py`,
`image_predictor.py` and `serving/`; read by `evaluation/`, `pages/` and users.
"""

import numpy as np


class FoundInstances:
    """The instances of one image, by descending score, in image pixels.

    Each array that a branch finds is an attribute under its key, and so is each view of the branch. The mask branch
    gives

        box_masks     float32 (n, M, M), probabilities in the frame of the box
        mask_windows  list of n (bool (h, w), x0, y0): each mask in the smallest window that contains it; use this for
                      many instances or large images
        masks         bool (n, H, W), pasted on first access

    Args:
        boxes: float32 (n, [x1, y1, x2, y2]), image pixels, inside the image.
        scores: float32 (n,).
        labels: int (n,), 0..K-1.
        values: dict of the branches' keys to arrays (n, ...), image pixels.
        image_size: (height, width), image pixels.
        config: MaskRCNNConfig; `class_names`, `category_ids`, `branches` and their options are read.
    """

    def __init__(self, boxes, scores, labels, values, image_size, config):
        self.boxes = boxes
        self.scores = scores
        self.labels = labels
        self.values = values
        self.image_size = image_size
        self.config = config
        self.class_names = config.class_names
        self.category_ids = config.category_ids

    def __len__(self):
        return len(self.boxes)

    def __repr__(self):
        return f"{type(self).__name__}({len(self)} in {self.image_size[1]}x{self.image_size[0]} pixels)"

    def __getattr__(self, name):
        # Only called for names that are not attributes yet: a view of a branch, computed once, or a branch's values.
        if name.startswith("_") or "values" not in self.__dict__:
            raise AttributeError(name)
        views = {key: view for branch in self.config.branches for key, view in branch.views().items()}
        if name in views:
            self.__dict__[name] = views[name](self)
            return self.__dict__[name]
        if name in self.values:
            return self.values[name]
        raise AttributeError(
            f"FoundInstances has boxes, scores, labels and what the model's branches find: "
            f"{sorted({*views, *self.values})}. Received: {name!r}."
        )

    def to_coco(self, image_id, category_ids=None):
        """The instances as COCO results, ready for `json.dump` and for pycocotools.

        Args:
            image_id: id of the image in its dataset.
            category_ids: K dataset ids of labels 0..K-1; None means the config's.

        Returns:
            List of n dicts: image_id, category_id, bbox [x, y, width, height], score, and what the branches add, such
            as segmentation (RLE).
        """
        category_ids = self.category_ids if category_ids is None else category_ids
        sizes = self.boxes[:, 2:] - self.boxes[:, :2]
        results = [
            {
                "image_id": image_id,
                "category_id": int(category_ids[label]),
                "bbox": [*map(float, box[:2]), *map(float, size)],
                "score": float(score),
            }
            for box, size, score, label in zip(self.boxes, sizes, self.scores, self.labels, strict=True)
        ]
        for branch in self.config.branches:
            for result, extra in zip(results, branch.coco_results(self), strict=True):
                result.update(extra)
        return results


class TiledInstances(FoundInstances):
    """The instances of a large image, by descending score, in image pixels; masks are kept as run lengths.

    `mask_windows` and `to_coco` are the forms to use; `masks` needs n times the size of the image.

    Args:
        pieces: list of `tiling.Piece`, by descending score.
        image_size: (height, width), image pixels.
        config: MaskRCNNConfig, as for FoundInstances.
    """

    def __init__(self, pieces, image_size, config):
        boxes = np.array([piece.box for piece in pieces], np.float32).reshape(-1, 4)
        scores = np.array([piece.score for piece in pieces], np.float32)
        labels = np.array([piece.label for piece in pieces], np.int32)
        keys = pieces[0].values if pieces else {}
        values = {key: np.stack([piece.values[key] for piece in pieces]) for key in keys}
        super().__init__(boxes, scores, labels, values, image_size, config)
        self.pieces = pieces

    @property
    def mask_windows(self):
        """List of n windows (bool (h, w), x0, y0), image pixels; decoded at each access."""
        return [(piece.window, piece.x, piece.y) for piece in self.pieces]
