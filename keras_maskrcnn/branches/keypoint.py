"""The keypoint branch (Mask R-CNN section 5): what it needs of a batch and adds to a detection.

The layer: keypoint_head.py. The names of persons' keypoints: keypoint_names.py.
"""

import re

import numpy as np

from keras_maskrcnn.branches.branch import Branch
from keras_maskrcnn.branches.field import Field, first_true
from keras_maskrcnn.branches.keypoint_names import PERSON, PERSON_SIGMAS, PERSON_SKELETON, SIGMA, mirror_pairs

SCORES = ("logit", "probability")
_AXES = ("K", "[x, y, visibility]")
_X, _Y, _SEEN = np.eye(3, dtype=np.float32)
_HEAD = r"roi_heads\.keypoint_head\.(\d+)\.weight"
_PREDICTOR = "roi_heads.keypoint_predictor.kps_score_lowres"


class KeypointBranch(Branch):
    """The place of each keypoint of a detection: COCO's 17 of a person, or any others.

    Annotations hold `keypoints`, [x1, y1, v1, x2, y2, v2, ...], image pixels, v = 0 not labelled, 1 hidden, 2 visible.

    Args:
        names: K names; None: COCO's 17 of a person. `for_dataset` takes a dataset's.
        skeleton: pairs of names between which lines are drawn. None: COCO's for COCO's names, else none.
        pairs: pairs of names that a mirror exchanges. None finds them: names that differ by left and right.
        sigmas: K standard deviations of annotations over an object's scale, for COCO's similarity (OKS). None: COCO's
            for COCO's names, else 0.067 for each.
        channels, num_convs: of the head. pool_size: RoIAlign bins per side; heatmaps have four times as many.
        score: what `keypoint_scores` holds: "logit" (torchvision) or "probability" (Detectron2).
        loss_normalizer: what the sum of the loss is divided by; None: the number of keypoints that count. A number is
            for each image (Detectron2's NORMALIZE_LOSS_BY_VISIBLE_KEYPOINTS False).
        offset: pixels, added to annotated coordinates and subtracted in COCO results. 0.5 where these number pixels
            (Detectron2), 0 where they measure from the image's edge (torchvision reads COCO's so).

    Raises:
        ValueError: a name twice or unknown, or a wrong option.
    """

    name = "keypoints"
    losses = ("keypoint_loss",)
    coco_iou_type = "keypoints"

    def __init__(
        self,
        names=None,
        skeleton=None,
        pairs=None,
        sigmas=None,
        channels=512,
        num_convs=8,
        pool_size=14,
        score="logit",
        loss_normalizer=None,
        offset=0.0,
    ):
        self.names = PERSON if names is None else tuple(names)
        is_person = self.names == PERSON
        known = PERSON_SKELETON if is_person else ()
        self.skeleton = known if skeleton is None else tuple(map(tuple, skeleton))
        self.pairs = mirror_pairs(self.names) if pairs is None else tuple(map(tuple, pairs))
        measured = PERSON_SIGMAS if is_person else (SIGMA,) * len(self.names)
        self.sigmas = measured if sigmas is None else tuple(map(float, sigmas))
        self.channels, self.num_convs, self.pool_size = channels, num_convs, pool_size
        self.score, self.loss_normalizer, self.offset = score, loss_normalizer, offset
        _check_names(self)
        _check_numbers(self)

    @classmethod
    def for_dataset(cls, dataset):
        """The branch with a dataset's names and skeleton.

        Raises:
            ValueError: the dataset names no keypoints.
        """
        found = getattr(dataset, "keypoints", None)
        if found is None:
            raise ValueError(
                "The branch `keypoints` needs a dataset that names its keypoints. Received "
                f"{getattr(dataset, 'name', 'one')} without names. In a COCO file they stand in the category: "
                '{"id": 1, "name": "person", "keypoints": ["nose", ...], "skeleton": [[1, 2], ...]}.'
            )
        return cls(names=found["names"], skeleton=found["skeleton"])

    @property
    def class_layers(self):
        """The last layer, unless its keypoints are those of published weights."""
        return () if self.names == PERSON else ("deconv",)

    # Training data ---------------------------------------------------------------------------------------------

    def truth(self, config):
        """gt_keypoints: zeros where a keypoint is not labelled."""
        about = "network pixels; visibility 0 not labelled, 1 hidden, 2 visible"
        return {"gt_keypoints": Field((len(self.names), 3), "float32", about, _AXES)}

    def make_truth(self, seen, config):
        """The keypoints of one object as the view shows it. Those beyond the view become not labelled."""
        points = self._annotated(seen.instance)
        if seen.mirrored:
            points = points[self._mirrored_order()]
        points[:, :2] = seen.points(points[:, :2] + self.offset)
        outside = (points[:, :2] < 0) | (points[:, :2] > (seen.view.width, seen.view.height))
        points[outside.any(axis=1) | (points[:, 2] == 0)] = 0
        return {"gt_keypoints": points}

    def _annotated(self, instance):
        """The keypoints in an annotation: float64 (K, 3)."""
        values = (instance.attributes or {}).get("keypoints")
        if values is None:
            return np.zeros((len(self.names), 3))
        try:
            points = np.array(values, np.float64).reshape(len(self.names), 3)
            right = np.isfinite(points).all() and np.isin(points[:, 2], (0, 1, 2)).all()
        except (TypeError, ValueError):
            right = False
        if not right:
            raise ValueError(
                f"The keypoints of an annotation are {3 * len(self.names)} numbers, [x, y, visibility] with a "
                f"visibility of 0, 1 or 2 for each of {', '.join(self.names)}. Received {repr(values)[:200]} in "
                f"annotation {instance.annotation_id}. Correct it, or make the branch by "
                "KeypointBranch.for_dataset(dataset)."
            )
        return points

    def _mirrored_order(self):
        """The row that takes each row's place in a mirror: list of K int."""
        partner = {a: b for pair in self.pairs for a, b in (pair, pair[::-1])}
        return [self.names.index(partner.get(name, name)) for name in self.names]

    def check_truth(self, batch, config):
        """Keypoints are finite, their visibility is 0, 1 or 2."""
        points = batch["gt_keypoints"]
        wrong = ~np.isfinite(points).all((2, 3)) | ~np.isin(points[..., 2], (0, 1, 2)).all(2)
        row, instance = first_true(wrong)
        if row is not None:
            raise ValueError(
                "`gt_keypoints` must be finite, with a visibility of 0, 1 or 2. Received "
                f"{points[row, instance].tolist()} in instance {instance} of image {row}. Set keypoints that are not "
                "labelled to 0, 0, 0."
            )

    # The network and its detections ----------------------------------------------------------------------------

    def make_head(self, config, dtype):
        """The paper's head: convolutions, a deconvolution, bilinear enlargement."""
        from keras_maskrcnn.branches.keypoint_head import KeypointHead

        return KeypointHead(
            num_keypoints=len(self.names),
            channels_in=config.fpn_channels,
            channels=self.channels,
            num_convs=self.num_convs,
            score=self.score,
            loss_normalizer=self.loss_normalizer,
            pool_size=self.pool_size,
            **self.head_options(config, dtype),
        )

    def found(self, config):
        """keypoints, whose visibility is 1, and keypoint_scores."""
        count = len(self.names)
        return {
            "keypoints": Field((count, 3), "float32", "image pixels; the visibility is 1", _AXES),
            "keypoint_scores": Field((count,), "float32", f"{self.score} of each keypoint"),
        }

    def move(self, values, scale, offset):
        """Coordinates move, visibility and scores stay."""
        factors = scale[..., 0:1] * _X + scale[..., 1:2] * _Y + _SEEN
        shifts = offset[..., 0:1] * _X + offset[..., 1:2] * _Y
        return {**values, "keypoints": values["keypoints"] * factors[..., None, :] + shifts[..., None, :]}

    def coco_results(self, found):
        """The keypoints of each instance: [x1, y1, v1, ...]."""
        shift = np.array([self.offset, self.offset, 0.0])
        rows = np.asarray(found.keypoints, np.float64) - shift
        return [{"keypoints": row.ravel().tolist()} for row in rows]

    def coco_truth(self, annotation):
        """No keypoints where an annotation has none, and how many of them are labelled."""
        points = annotation.get("keypoints")
        points = [0] * (3 * len(self.names)) if points is None else points
        return {"keypoints": points, "num_keypoints": sum(seen > 0 for seen in points[2::3])}

    def coco_options(self):
        """The tolerances, and COCO's own number of detections that count for keypoints."""
        return {"keypoint_sigmas": self.sigmas, "keypoint_detections": 20}

    def draw(self, pen, found, index, enlarge, color):
        """The skeleton in the instance's colour, keypoints as white dots."""
        places = dict(zip(self.names, (found.keypoints[index, :, :2] * enlarge).tolist()))
        thickness = max(2, min(pen.im.size) // 200)
        for a, b in self.skeleton:
            pen.line([*places[a], *places[b]], fill=color, width=thickness)
        for x, y in places.values():
            pen.ellipse([x - thickness, y - thickness, x + thickness, y + thickness], fill="white", outline=color)

    # Torchvision's weights: models/detection/keypoint_rcnn.py ----------------------------------------------------

    def torchvision_table(self, head):
        """Convolutions, each before a ReLU that counts, and the deconvolution."""
        for index, conv in enumerate(head.convs):
            yield conv.conv, f"roi_heads.keypoint_head.{2 * index}", False
        yield head.deconv, _PREDICTOR, "outputs" if self.class_layers else False

    def torchvision_fields(self, state):
        """No field of the config: the options are the branch's."""
        return {} if f"{_PREDICTOR}.weight" in state else None

    @classmethod
    def of_torchvision(cls, state):
        """Names of COCO for 17 keypoints, else numbers; width and number of the convolutions."""
        convs = [name for name in state if re.fullmatch(_HEAD, name)]
        count = np.shape(state[f"{_PREDICTOR}.weight"])[1]
        names = None if count == len(PERSON) else [f"keypoint {k}" for k in range(count)]
        channels = np.shape(state[f"{_PREDICTOR}.weight"])[0]
        return cls(names=names, channels=channels, num_convs=len(convs))

    # Keras -----------------------------------------------------------------------------------------------------

    def get_config(self):
        """The options that differ from the defaults, JSON-ready."""
        usual = KeypointBranch(self.names if self.names != PERSON else None)
        own = {key: value for key, value in vars(self).items() if key == "names" or value != vars(usual)[key]}
        if self.names == PERSON:
            del own["names"]
        return {key: _listed(value) for key, value in own.items()}


def _listed(value):
    return [_listed(each) for each in value] if isinstance(value, tuple) else value


def _check_names(branch):
    names = branch.names
    if not names or len(set(names)) < len(names) or not all(isinstance(name, str) and name for name in names):
        raise ValueError(f"names must be different names of keypoints. Received: {list(names)}. Rename one.")
    for option in ("skeleton", "pairs"):
        for pair in getattr(branch, option):
            if len(pair) != 2 or pair[0] == pair[1] or not set(pair) <= set(names):
                raise ValueError(
                    f"{option} must hold pairs of names, which are {', '.join(names)}. Received: {list(pair)}. "
                    "A COCO file's numbers count these names from 1."
                )
    paired = [name for pair in branch.pairs for name in pair]
    if len(set(paired)) < len(paired):
        raise ValueError(f"pairs must name a keypoint once at most. Received: {list(branch.pairs)}. Correct them.")


def _check_numbers(branch):
    if len(branch.sigmas) != len(branch.names) or not all(0 < sigma < 10 for sigma in branch.sigmas):
        raise ValueError(
            f"sigmas must be {len(branch.names)} numbers above 0, one for each keypoint. "
            f"Received: {list(branch.sigmas)}. Leave them out if nobody measured them."
        )
    for option in ("channels", "num_convs", "pool_size"):
        value = getattr(branch, option)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ValueError(f"{option} must be a whole number of at least 1. Received: {value!r}. Correct it.")
    if branch.score not in SCORES:
        raise ValueError(f"score must be one of {SCORES}. Received: {branch.score!r}. Take the first.")
    normalizer = branch.loss_normalizer
    if normalizer is not None and not (isinstance(normalizer, (int, float)) and normalizer > 0):
        raise ValueError(f"loss_normalizer must be None or a number above 0. Received: {normalizer!r}. Take None.")
    if not isinstance(branch.offset, (int, float)) or not abs(branch.offset) <= 1:
        raise ValueError(f"offset must be a number of pixels, at most 1. Received: {branch.offset!r}. Take 0 or 0.5.")
