"""Pictures to serve, and what Predictor says of them to compare an answer with; used by the tests of the export."""

import io

import numpy as np
from PIL import Image
from tiny import scatter_weights, tiny_config

import keras_maskrcnn as km

# Of two runs of one model on one image: rounding of float32 on another canvas.
TOLERANCES = {"boxes": 1e-3, "scores": 1e-5, "masks": 1e-4, "labels": 0}
NETWORK_SIDE = 150  # pixels; boxes of larger images are scaled up, and their rounding with them


def make_model(**overrides):
    """A tiny model with weights that matter, which resizes its images."""
    config = tiny_config(image_scale=None, min_size=96, max_size=NETWORK_SIDE, **overrides)
    return scatter_weights(km.MaskRCNN(config))


def export_one_signature(monkeypatch, name="serving_default"):
    """Exports of a test hold this signature and nothing else: the other ones take most of the time."""
    from keras_maskrcnn.serving import signatures

    every = signatures.signatures
    monkeypatch.setattr(signatures, "signatures", lambda served: {name: every(served)[name]})


def picture(height, width, seed=0):
    """Coarse noise, uint8 (height, width, 3)."""
    coarse = np.random.default_rng(seed).integers(0, 256, (-(-height // 8), -(-width // 8), 3), np.uint8)
    return coarse.repeat(8, axis=0).repeat(8, axis=1)[:height, :width]


def encode(image, form="PNG", **options):
    """The bytes of a file."""
    file = io.BytesIO()
    Image.fromarray(image).save(file, form, **options)
    return file.getvalue()


def mixed_files():
    """Files of all formats and of sizes that are nobody's friends."""
    turned = Image.Exif()
    turned[0x0112] = 6
    return [
        encode(picture(50, 70), "JPEG", quality=95),
        encode(picture(1, 1)),
        encode(picture(16, 4000), "BMP"),
        encode(picture(3000, 2000), compress_level=1),
        encode(picture(60, 90), "JPEG", exif=turned),
        encode(picture(96, 128)),
    ]


def find(model, image, score_threshold=None):
    """What Predictor finds, by an eager call: tracing the model once more would take seconds."""
    return km.Predictor(_Eager(model), score_threshold)(image)


class _Eager:
    def __init__(self, model):
        self.config, self.predict_on_batch = model.config, model


def scale_of(name, size):
    """By how much rounding grows for this output when network pixels become those of an image of this size."""
    return max(1.0, max(size) / NETWORK_SIDE) if name == "boxes" else 1.0


def assert_row_is(answer, row, found, masks=True):
    """A row of an answer against what was found in the same image."""
    count = len(found)
    assert count and answer["num_detections"][row] == count
    assert answer["valid"][row].tolist() == [True] * count + [False] * (len(answer["valid"][row]) - count)
    assert tuple(answer["image_sizes"][row]) == found.image_size
    expected = {"boxes": found.boxes, "scores": found.scores, "labels": found.labels, "masks": found.box_masks}
    for name, values in expected.items():
        if name == "masks" and not masks:
            continue
        rows, tolerance = answer[name][row], TOLERANCES[name] * scale_of(name, found.image_size)
        np.testing.assert_allclose(rows[:count].astype("float64"), values, atol=tolerance, err_msg=name)
        assert not rows[count:].any()
    names = [text.decode() for text in answer["class_names"][row]]
    assert names == [found.class_names[label] for label in found.labels] + [""] * (len(names) - count)


def parse_answer(text):
    """What tests/serving/run_saved_model.c printed.

    Returns:
        list of dicts, one an image: size (height, width), problem, boxes (n, 4), scores (n,), labels, class_names,
        masks bool (n, 28, 28).
    """
    images = []
    for line in text.splitlines():
        if line.startswith("image "):
            _, number, size, count, _, problem = line.split(" ", 5)
            assert int(number) == len(images)
            empty = {"boxes": [], "scores": [], "labels": [], "class_names": [], "masks": []}
            images.append({"size": tuple(map(int, size.split("x"))), "problem": problem, "count": int(count), **empty})
            continue
        *numbers, label, mask, name = line.split(" ", 7)
        image = images[-1]
        image["boxes"].append([float(number) for number in numbers[:4]])
        image["scores"].append(float(numbers[4]))
        image["labels"].append(int(label))
        image["class_names"].append(name)
        bits = [bit == "1" for digit in mask for bit in f"{int(digit, 16):04b}"]
        image["masks"].append(np.array(bits[: 28 * 28]).reshape(28, 28))
    for image in images:
        assert image["count"] == len(image["scores"])
        image["boxes"] = np.reshape(image["boxes"], (-1, 4))
        image["masks"] = np.array(image["masks"])
    return images
