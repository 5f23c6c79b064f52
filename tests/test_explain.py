"""`km.explain`: every cause of a miss, forced on a model that finds all objects, is read back as that cause."""

import collections
import json

import keras
import numpy as np
import pytest
from ruled import ruled_image, ruled_model, ruled_truth
from test_errors_page import Page

import keras_maskrcnn as km
from keras_maskrcnn.data.images.reading import ImageError
from keras_maskrcnn.evaluation import analyse, causes
from keras_maskrcnn.evaluation.causes import remedy, summary
from keras_maskrcnn.evaluation.flow import Boxes, Flow, without_padding
from keras_maskrcnn.evaluation.misses import Miss, MissTable, explain_dataset
from keras_maskrcnn.pages.errors_page import write_errors_page

pytestmark = pytest.mark.slow_on_jax  # each operator is compiled by itself

# x, y, label, objectness, evidence: four objects far apart, and two that overlap with an IoU of 20 / 44.
APART = [(32, 32, 0, 9, 1.0), (96, 32, 1, 8, 0.9), (32, 96, 0, 7, 0.8), (96, 96, 1, 6, 0.7)]
SIDE_BY_SIDE = [(48, 48, 0, 9, 1.0), (60, 48, 0, 8, 1.0)]
TWO_CLASSES = [(48, 48, 0, 9, 1.0), (60, 48, 1, 8, 0.9)]
OVERLAP = 20 / 44
TOGETHER = [
    (32, 32, 0, 9, 1.0),
    (44, 32, 0, 8.5, 1.0),
    (112, 32, 1, 8, 0.9),
    (32, 112, 0, 7, 0.8),
    (112, 112, 1, 6, 0.7),
]
VARIANTS = {
    "default": {},
    "torchvision": {"mask_padding": False, "anchor_spacing": "canvas", "mask_pasting": "torchvision"},
    "agnostic boxes": {"class_agnostic_nms": True, "branches": ()},
    "cascade": {"cascade_ious": (0.5, 0.6, 0.7)},
}


def test_pairs_of_padded_proposals_are_left_out():
    """On JAX every proposal has pairs; those of padding have no score."""
    pairs = {"scores": np.array([0.9, 0.2, 0, 0]), "rows": np.array([1, 0, 2, 3]), "boxes": np.arange(16).reshape(4, 4)}
    left = without_padding(pairs)
    assert left["rows"].tolist() == [1, 0] and left["boxes"].tolist() == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert without_padding(pairs | {"scores": np.zeros(4)})["rows"].tolist() == [1]  # one is left, as on TensorFlow


def explained(model, objects, truth=None, size=(150, 168), **more):
    return km.explain(model, ruled_image(objects, size), truth or ruled_truth(objects), **more)


def told(explanation):
    """Dict from position to cause."""
    return {miss.position: miss.cause for miss in explanation.misses}


@pytest.mark.parametrize(
    "variant",
    [
        *("default", "cascade"),
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("agnostic boxes", "torchvision")),
    ],
)
def test_causes_forced_by_the_config_are_read_back(variant):
    """One model for all: numbers are changed between the calls, as only the stages read them."""
    model = ruled_model(**VARIANTS[variant])
    first = model.config

    def change(**numbers):
        model.config = km.MaskRCNNConfig.from_dict(first.to_dict() | numbers)

    assert told(explained(model, TOGETHER)) == {}
    cases = [
        ({"rpn_nms_threshold": 0.1}, (1,), causes.RPN_NMS),
        ({"nms_threshold": 0.1}, (1,), causes.NMS),
        ({"max_detections": 1}, range(1, 5), causes.CAP),
    ]
    if variant == "default":
        cases += [
            ({"test_pre_nms": 3}, (3, 4), causes.RANK),
            ({"test_post_nms": 4}, (4,), causes.PROPOSAL_CAP),
            ({"score_threshold": 0.99}, range(5), causes.THRESHOLD),
            ({"detection_candidates": 1}, range(1, 5), causes.CAP),
        ]
    for numbers, lost, cause in cases:
        change(**numbers)
        assert told(explained(model, TOGETHER)) == dict.fromkeys(lost, cause), (numbers, cause)


@pytest.mark.parametrize(
    ("changes", "cause"),
    [
        ({"anchor_sizes": (300,) * 5}, causes.ANCHOR),
        ({"anchor_sizes": (8,) * 5, "branches": ()}, causes.ANCHOR),
        ({"rpn_delta": 100.0}, causes.PROPOSAL_BOX),
        ({"box_delta": 10.0}, causes.BOX),
        ({"mask": -5.0}, causes.MASK),
    ],
)
def test_causes_forced_by_anchors_and_weights_are_read_back(changes, cause):
    assert told(explained(ruled_model(**changes), APART)) == dict.fromkeys(range(4), cause)


def test_classes_that_are_taken_for_others_and_for_background():
    truth = ruled_truth([(32, 32, 1, 9, 1.0), (96, 96, 0, 8, 0.0)])
    explanation = explained(ruled_model(), [(32, 32, 0, 9, 1.0), (96, 96, 0, 8, 0.0)], truth)
    assert told(explanation) == {0: causes.CLASS, 1: causes.CLASS}
    first, second = explanation.misses
    assert (first.seen_as, second.seen_as) == ("square", "background")
    assert second.score == pytest.approx(np.exp(-5) / (1 + 2 * np.exp(-5)), rel=1e-4)
    assert "more images of block and square" in first.remedy and "no square lacks a label" in second.remedy


def test_an_object_that_is_labelled_twice_shares_its_detection():
    twice = ruled_truth(APART[:1]) * 2
    assert list(told(explained(ruled_model(), APART[:1], twice)).values()) == [causes.SHARED]


def test_classes_suppress_each_other_only_where_the_config_says_so():
    assert told(explained(ruled_model(nms_threshold=0.1), TWO_CLASSES)) == {}
    explanation = explained(ruled_model(nms_threshold=0.1, class_agnostic_nms=True), TWO_CLASSES)
    assert told(explanation) == {1: causes.NMS}
    assert explanation.misses[0].winner_class == "square"
    assert explanation.misses[0].remedy.startswith("set class_agnostic_nms=False")


def test_where_no_single_limit_is_the_cause_it_is_the_last_stage_that_was_reached():
    """What one limit lost is lost by a second one, too, or taken for background."""
    first, unseen = (32, 32, 0, 9, 1.0), (96, 96, 0, 8, 0.0)
    beside = [SIDE_BY_SIDE[0], (60, 48, 1, 8, 0.0)]
    model = ruled_model()
    own = model.config
    for numbers, objects, cause, expected in [
        ({"test_pre_nms": 1}, [first, unseen], causes.RANK, {"rank": 2, "limit": 1, "level": "P2"}),
        ({"test_post_nms": 1}, [first, unseen], causes.PROPOSAL_CAP, {"rank": 2, "limit": 1}),
        ({"rpn_nms_threshold": 0.1}, beside, causes.RPN_NMS, {"winner_box": (32, 32, 32, 32), "limit": 0.1}),
        (
            {"score_threshold": 0.9, "max_detections": 1},
            [first, (96, 96, 1, 8, 0.7)],
            causes.THRESHOLD,
            {"limit": pytest.approx(0.9), "score": pytest.approx(0.76, abs=0.01)},
        ),
    ]:
        model.config = km.MaskRCNNConfig.from_dict(own.to_dict() | numbers)
        explanation = explained(model, objects)
        assert told(explanation) == {1: cause}, numbers
        assert {name: getattr(explanation.misses[0], name) for name in expected} == expected


def test_an_object_of_another_shape_in_the_same_box_shares_its_detection():
    frame = [[16, 16, 48, 16, 48, 22, 22, 22, 22, 48, 16, 48]]  # two bars along the sides: a third of the box
    truth = [*ruled_truth(APART[:1]), ruled_truth(APART[:1])[0] | {"segmentation": frame}]
    (miss,) = explained(ruled_model(), APART[:1], truth).misses
    assert (miss.position, miss.cause, miss.limit, miss.iou) == (1, causes.SHARED, 0.5, pytest.approx(1))
    assert miss.explanation == "its detection, IoU 1, matches another object"


def test_boxes_are_compared_where_the_truth_has_no_masks():
    truth = [{name: value for name, value in one.items() if name != "segmentation"} for one in ruled_truth(APART[:1])]
    model = ruled_model(mask=-5.0)  # of masks without a pixel
    (miss,) = explained(model, APART[:1], truth * 2).misses
    assert (miss.position, miss.cause, miss.iou) == (1, causes.SHARED, pytest.approx(1))
    (miss,) = explained(model, APART[:1], truth, score_threshold=0.995).misses
    assert (miss.cause, miss.limit) == (causes.THRESHOLD, pytest.approx(0.995))


def test_thresholds_of_classes_and_of_calibrated_scores():
    model, objects = ruled_model(), [(32, 32, 0, 9, 0.7), (96, 96, 1, 8, 0.7)]
    score = explained(model, objects).found.scores[1]
    assert score == pytest.approx(0.7618, abs=1e-4)
    model.change_detection(class_thresholds=(0.5, 0.95))
    (miss,) = explained(model, objects).misses
    assert (miss.class_name, miss.cause, miss.limit) == ("block", causes.THRESHOLD, pytest.approx(0.95))
    assert miss.remedy == "lower class_thresholds from 0.95 to 0.761, or train longer"
    miss = explained(model, objects, score_threshold=0.97).misses[1]  # in the place of those of the classes
    assert miss.remedy == "lower score_threshold from 0.97 to 0.761, or train longer"
    # The config's threshold is of scores before calibration: here the second class has half of them.
    tables = (((0, 0), (1, 1)), ((0, 0), (1, 0.5)))
    model.change_detection(class_thresholds=None, calibration=tables, score_threshold=0.9)
    misses = explained(model, objects).misses
    found = [(miss.limit, miss.score) for miss in misses]
    assert found == [pytest.approx((0.9, score), abs=1e-4), pytest.approx((0.45, score / 2), abs=1e-4)]
    assert {miss.remedy for miss in misses} == {"lower score_threshold from 0.9 to 0.761, or train longer"}


def test_the_numbers_are_those_of_the_rule():
    model = ruled_model(rpn_nms_threshold=0.1)
    (lost,) = explained(model, SIDE_BY_SIDE).misses
    assert lost.winner_box == (32, 32, 32, 32) and lost.lost_box == lost.box == (44, 32, 32, 32)
    assert lost.winner_iou == pytest.approx(OVERLAP) and lost.iou == pytest.approx(1) and lost.limit == 0.1
    assert lost.winner_score == pytest.approx(1 / (1 + np.exp(-4))) and lost.score == pytest.approx(
        1 / (1 + np.exp(-3))
    )
    assert lost.annotation_id == 8 and lost.level == "P2"
    assert lost.remedy == "raise rpn_nms_threshold from 0.1 to 0.5"
    model.config = km.MaskRCNNConfig.from_dict(model.config.to_dict() | {"test_pre_nms": 2, "rpn_nms_threshold": 0.7})
    assert [(miss.rank, miss.limit) for miss in explained(model, APART).misses] == [(3, 2), (4, 2)]
    score = explained(model, APART[:1]).found.scores[0]
    (unsure,) = explained(model, APART[:1], score_threshold=0.995).misses
    assert unsure.cause == causes.THRESHOLD and unsure.score == pytest.approx(score)
    assert unsure.explanation == f"its score {score:.3g} is not above 0.995"


def test_boxes_are_in_image_pixels_where_the_model_takes_larger_images():
    image, half = ruled_image(SIDE_BY_SIDE)[::2, ::2] * 1.0, 0.5
    for x, y, _, objectness, _ in SIDE_BY_SIDE:
        image[y // 2, x // 2, 0] = objectness
    truth = [entry | {"bbox": [side * half for side in entry["bbox"]]} for entry in ruled_truth(SIDE_BY_SIDE)]
    for entry in truth:
        entry["segmentation"] = [[side * half for side in entry["segmentation"][0]]]
    explanation = km.explain(ruled_model(nms_threshold=0.1, image_scale=2.0), image, truth)
    assert told(explanation) == {1: causes.NMS}
    assert explanation.misses[0].network_size == (32, 32)
    assert explanation.misses[0].winner_box == pytest.approx((16, 16, 16, 16), abs=2.1)


def test_the_flow_ends_in_what_the_model_returns():
    model = ruled_model()
    inputs = {"images": ruled_image(APART)[None], "image_sizes": np.array([[160, 160]], np.int32)}
    wanted = {name: keras.ops.convert_to_numpy(value) for name, value in model(inputs).items()}
    flow = Flow(model, inputs)
    assert flow.outputs.keys() == wanted.keys()
    for name, values in wanted.items():
        np.testing.assert_allclose(flow.outputs[name], values, atol=1e-6)
    first = flow.kept[: int(wanted["valid"].sum())]
    np.testing.assert_array_equal(flow.candidates["boxes"][first], wanted["boxes"][0][wanted["valid"][0]])
    np.testing.assert_array_equal(flow.decoded["boxes"][flow.survivors[: flow.num_proposals]], flow.proposals)


def test_a_box_belongs_to_the_object_that_it_overlaps_most():
    boxes = Boxes([[0, 0, 10, 10], [2, 0, 12, 10], [8, 0, 18, 10]], [[0, 0, 10, 10], [8, 0, 18, 10]])
    assert boxes.of(0, 0.5).tolist() == [0, 1] and boxes.of(1, 0.1).tolist() == [2]
    assert boxes.iou(0) == pytest.approx([1, 8 / 12, 2 / 18])


def test_crowds_and_images_without_objects_have_no_misses():
    model = ruled_model()
    crowd = ruled_truth([(96, 96, 0, 0, 0)])[0] | {"iscrowd": 1}
    truth = [crowd, *ruled_truth(APART[:1])]
    explanation = explained(model, APART[:1], truth, score_threshold=0.9999)
    assert told(explanation) == {1: causes.THRESHOLD} and explanation.num_objects == 1
    assert explained(model, APART[:1], [crowd]).misses == ()


def test_mistakes_are_refused():
    model, objects = ruled_model(), APART[:1]
    with pytest.raises(ValueError, match=r"category ids of the model's classes: \[1, 2\]. Received: \[9\]"):
        explained(model, objects, [ruled_truth(objects)[0] | {"category_id": 9}])
    with pytest.raises(ValueError, match="iou must be above 0"):
        explained(model, objects, iou=0)
    with pytest.raises(ValueError, match="score_threshold=... must lie between the model's own, 0.05, and 1"):
        explained(model, objects, score_threshold=0.01)
    model.config = km.MaskRCNNConfig.from_dict(model.config.to_dict() | {"rpn_selection": "joint"})
    received = 'Received: "tight", "joint" and "each_class". Explain a model with the default rules'
    with pytest.raises(ValueError, match=received):
        explained(model, objects)


def test_the_picture_shows_the_object_in_red_and_what_it_was_lost_to_in_orange():
    explanation = explained(ruled_model(nms_threshold=0.1), SIDE_BY_SIDE)
    picture = explanation.picture(enlarge=2)
    assert picture.shape == (300, 336, 3)
    assert tuple(picture[90, 2 * 44 + 2 * 32 - 1]) == (230, 40, 40)  # right side of the missed box
    assert tuple(picture[90, 2 * 32]) == (255, 150, 0)  # left side of the winner


def miss(cause, side=8.0, **facts):
    return Miss(cause, 0, None, "cell", (0, 0, side, side), (side, side), **facts)


def test_the_summary_names_the_place_where_most_are_lost_and_a_remedy():
    config = km.MaskRCNNConfig(num_classes=1)
    lost = [miss(causes.ANCHOR, iou=0.1, limit=0.3)] * 25 + [miss(causes.RANK, rank=1400, limit=1000)] * 6
    lost += [miss(causes.THRESHOLD, score=0.03, limit=0.05)] * 23
    assert summary(lost, config).startswith("31 of 54 are lost before the heads: add an anchor of 8 pixels (")
    assert remedy(lost[25:31], config) == "raise test_pre_nms from 1000 to 1400, or train the RPN longer"
    assert remedy(lost[31:], config) == "lower score_threshold from 0.05 to 0.029, or train longer"
    flat = miss(causes.ANCHOR, iou=0.1, limit=0.3)
    flat = Miss(**{**flat.__dict__, "network_size": (320.0, 20.0)})
    assert remedy([flat], config) == "add an anchor ratio of 0.062 (anchor_ratios: 0.5, 1, 2)"
    assert summary([], config) == "No object is missed."
    between = km.MaskRCNNConfig(num_classes=1, anchor_sizes=(16, 64, 128, 256, 512))
    lost = [miss(causes.ANCHOR, 30.0)]
    assert remedy(lost, between) == "add an anchor of 32 pixels (anchor_sizes: 16, 64, 128, 256, 512)"
    assert remedy(lost, config).startswith("give the model larger images (image_scale or min_size): its anchors stand")
    small = miss(causes.PROPOSAL_BOX, iou=0.9, limit=0.5)
    assert remedy([small], config) == "lower rpn_min_size"


class Drawn(km.data.ArrayDataset):
    """A dataset of ruled images, some of which cannot be read."""

    def __init__(self, images, unreadable=()):
        truth = [ruled_truth(objects) for objects in images]
        masks = [[box_mask(one["bbox"]) for one in each] for each in truth]
        labels = [[one["category_id"] - 1 for one in each] for each in truth]
        pixels = [ruled_image(objects) for objects in images]
        super().__init__(pixels, masks, labels, class_names=("square", "block"))
        self.unreadable = unreadable

    def load_image(self, position, *pixels):
        if position in self.unreadable:
            raise ImageError("damaged")
        return super().load_image(position, *pixels)


def box_mask(box):
    mask, (x, y, width, height) = np.zeros((160, 160), bool), box
    mask[y : y + height, x : x + width] = True
    return mask


@pytest.fixture(scope="module")
def counted():
    """(a dataset of three images, the last of which cannot be read; the model; its MissTable; the counts told)."""
    dataset, told = Drawn([APART, SIDE_BY_SIDE, APART], unreadable=(2,)), []
    model = ruled_model(nms_threshold=0.1, test_pre_nms=2)
    return dataset, model, explain_dataset(model, dataset, on_image=told.append), told


def test_a_dataset_is_counted(counted):
    dataset, model, table, told = counted
    first, second, third = dataset.image_ids
    assert isinstance(table, MissTable) and table.num_images == 2
    assert collections.Counter(table.counts) == {**dict.fromkeys(causes.CAUSES, 0), causes.RANK: 2, causes.NMS: 1}
    assert [(key, miss.position) for key, miss in table.misses] == [(first, 2), (first, 3), (second, 5)]
    assert table.summary.startswith("2 of 3 are lost before the heads: raise test_pre_nms from 2 to 4")
    assert table.remedies == {
        causes.RANK: "raise test_pre_nms from 2 to 4, or train the RPN longer",
        causes.NMS: "raise nms_threshold from 0.1 to 0.5",
    }
    assert table.unreadable == (third,) and told == [1, 2, 3]  # a progress bar ends at the number of images
    assert [key for key, _ in explain_dataset(model, dataset, image_ids=[second]).misses] == [second]


def test_the_page_of_errors_shows_each_cause_with_its_remedy_and_largest_objects(counted, tmp_path):
    dataset, model, table, _ = counted
    found = [
        result
        for position, key in enumerate(dataset.image_ids[:2])
        for result in km.explain(model, dataset.load_image(position, 4, "float32"), []).found.to_coco(key)
    ]
    truth = dataset.to_coco()
    page = Page(write_errors_page(tmp_path, analyse(truth, found), dataset, "Errors", table))
    rows = {row[0]: row for row in page.rows if row and row[0] in causes.CAUSES}
    assert list(rows) == list(causes.CAUSES)
    assert rows[causes.RANK][1:] == ["2", "", causes.MEANING[causes.RANK], table.remedies[causes.RANK]]
    assert rows[causes.ANCHOR][1:] == ["0", "", causes.MEANING[causes.ANCHOR], ""]
    titles = [title for title, _ in page.pictures if title.startswith((causes.RANK, causes.NMS))]
    ranks = [f"{causes.RANK}: {name}, 32 x 32 pixels: its best box ranks" for name in ("square", "block")]
    assert [title[: len(start)] for title, start in zip(titles, ranks)] == ranks
    assert titles[2].startswith(f"{causes.NMS}: square, 32 x 32 pixels: it was lost in the final NMS to square at (32")
    told = json.loads((tmp_path / "report.json").read_text())["why_missed"]
    assert (told["summary"], told["counts"], told["remedies"]) == (table.summary, table.counts, table.remedies)
    assert told["unreadable_images"] == [dataset.image_ids[2]]
    lost = told["objects"][2]
    assert lost["image_id"] == dataset.image_ids[1] and lost["cause"] == causes.NMS and "rank" not in lost
    assert lost["winner_box"] == [32, 32, 32, 32] and lost["annotation_id"] == truth["annotations"][5]["id"]
