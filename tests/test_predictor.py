"""Predictor: from the user's pixels to the network's and back."""

import json

import keras
import numpy as np
import pytest
from known_answers import KnownModel, small_config
from PIL import Image
from pycocotools import mask as rle

from keras_maskrcnn.inference import opening
from keras_maskrcnn.inference.predictor import Predictor


def predictor_for(boxes, scores=None, labels=None, score_threshold=None, **config):
    config = small_config(**config)
    scores = [0.9] * len(boxes) if scores is None else scores
    labels = [0] * len(boxes) if labels is None else labels
    return Predictor(KnownModel(config, [(boxes, scores, labels)] * 3), score_threshold)


def test_boxes_come_back_in_image_pixels_with_each_axis_scaled_by_itself():
    # 100 x 150 at min_size 64: scale 0.64, network 64 x 96; x by 150 / 96, y by 100 / 64.
    predictor = predictor_for([(9.6, 6.4, 96.5, 64.0)], image_scale=None, min_size=64, max_size=200)
    found = predictor(np.zeros((100, 150, 3), np.uint8))
    np.testing.assert_allclose(found.boxes, [[15, 10, 150, 100]], rtol=1e-6)  # and clipped to the image
    batch = predictor.model.batches[0]
    np.testing.assert_array_equal(batch["image_sizes"], [[64, 96]])
    assert batch["images"].shape == (1, 64, 96, 3)


def test_masks_are_pasted_into_their_boxes_and_only_when_asked():
    found = predictor_for([(4, 2, 10, 8), (0, 0, 3, 3)])(np.zeros((20, 30, 3), np.uint8))
    assert "masks" not in vars(found)
    expected = np.zeros((2, 20, 30), bool)
    expected[0, 2:8, 4:10] = expected[1, :3, :3] = True
    np.testing.assert_array_equal(found.masks, expected)
    assert found.masks is found.masks  # kept


def test_the_canvas_is_padded_with_zeros():
    predictor = predictor_for([])
    predictor(np.full((20, 30, 3), 7, np.uint8))
    images = predictor.model.batches[0]["images"]
    assert images[0, :20, :30].min() == 7 and images.sum() == 7 * 20 * 30 * 3


def test_the_canvas_is_torchvisions_where_it_shows_in_the_answer():
    """1067 pixels: torchvision pads to 1088; JAX's grid of few canvases would to 1280."""
    for mask_padding, on_jax in ((False, 1088), (True, 1280)):
        predictor = predictor_for([], mask_padding=mask_padding)
        predictor(np.zeros((64, 1067, 3), np.uint8))
        expected = on_jax if keras.backend.backend() == "jax" else 1088
        assert predictor.model.batches[0]["images"].shape == (1, 64, expected, 3)


def test_paths_pil_images_and_arrays_agree_and_exif_is_applied(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)
    upright = Image.fromarray(pixels)
    exif = Image.Exif()
    exif[0x0112] = 6  # stored turned: viewers rotate it by 90 degrees clockwise
    upright.rotate(90, expand=True).save(tmp_path / "turned.png", exif=exif)
    predictor = predictor_for([(1, 2, 30, 20)])
    found = [predictor(source) for source in (pixels, upright, str(tmp_path / "turned.png"))]
    for batch in predictor.model.batches:
        np.testing.assert_array_equal(batch["images"], predictor.model.batches[0]["images"])
    assert all(f.image_size == (40, 60) for f in found)


def test_scores_below_the_threshold_are_dropped():
    boxes = [(1, 1, 9, 9), (2, 2, 9, 9), (3, 3, 9, 9)]
    found = predictor_for(boxes, [0.9, 0.5, 0.3], [1, 0, 1], score_threshold=0.5, num_classes=2)(
        np.zeros((20, 20, 3), np.uint8)
    )
    np.testing.assert_allclose(found.scores, [0.9, 0.5])
    np.testing.assert_array_equal(found.labels, [1, 0])
    assert len(found) == 2 and found.class_names == ("class 0", "class 1")


def test_a_threshold_below_the_models_is_refused():
    with pytest.raises(ValueError, match="never leave|lower threshold"):
        predictor_for([], score_threshold=0.01)


def test_other_arguments_are_refused():
    with pytest.raises(ValueError, match="nms_threshold must be in 0..1. Received: 1.5. Leave it out for the model's"):
        Predictor(KnownModel(small_config(), []), nms_threshold=1.5)


def test_of_a_path_it_is_what_opens_it(monkeypatch):
    opened, asked = predictor_for([(1, 1, 9, 9)], score_threshold=0.7), []
    monkeypatch.setattr(opening, "_openers", [lambda *given, **options: asked.append((given, options)) or opened])
    predictor = Predictor("model.keras", 0.2, tile=64)
    assert predictor is opened and asked == [(("model.keras", 0.2), {"tile": 64})]
    assert (predictor.score_threshold, predictor.tile) == (0.7, None)  # it is not made a second time


def test_nothing_found_gives_empty_arrays():
    found = predictor_for([])(np.zeros((20, 30, 3), np.uint8))
    assert len(found) == 0 and found.boxes.shape == (0, 4) and found.masks.shape == (0, 20, 30)
    assert found.to_coco(1) == []


def test_coco_results_hold_dataset_ids_xywh_and_the_mask():
    predictor = predictor_for([(4, 2, 10, 8)], [0.75], [1], num_classes=2, category_ids=(3, 17))
    found = predictor(np.zeros((20, 30, 3), np.uint8))
    (result,) = json.loads(json.dumps(found.to_coco(image_id=5)))
    assert (result["image_id"], result["category_id"], result["score"]) == (5, 17, 0.75)
    assert result["bbox"] == [4, 2, 6, 6]
    np.testing.assert_array_equal(rle.decode(result["segmentation"]), found.masks[0])
    assert found.to_coco(5, category_ids=(1, 2))[0]["category_id"] == 2
