"""What the proof of large runs starts as processes: a driver that is killed, and the predictor's own answers.

    python scale_proof.py images FOLDER COUNT            writes generated images, 3 % of them damaged
    python scale_proof.py model FILE                     writes the model, a .keras file
    python scale_proof.py drive MODEL FOLDER OUTPUT      predicts on Ray with two actors, and prints how far it is
    python scale_proof.py answer MODEL FOLDER FILE       calls the predictor for each image; writes JSON

test_scale_proof.py runs them.
"""

import functools
import json
import pathlib
import sys

import numpy as np
from PIL import Image

SIZES = ((256, 300), (300, 256), (280, 280))  # of the images
DAMAGED = 0.03
ACTORS = 2


def write_images(folder, count):
    """PNG files that do not compress, 230 kB each, in seven folders. Returns the paths of the damaged ones."""
    rng = np.random.default_rng(0)
    damaged = set(rng.choice(int(count), round(int(count) * DAMAGED), replace=False).tolist())
    paths = []
    for number in range(int(count)):
        path = pathlib.Path(folder, f"part {number % 7}", f"{number:05d}.png")
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(boxes_in_noise(number)).save(path, compress_level=0)
        if number in damaged:
            data = path.read_bytes()
            path.write_bytes([data[: len(data) // 2], b"", b"not an image", data[:20]][len(paths) % 4])
            paths.append(str(path))
    return paths


def boxes_in_noise(number):
    """An image of overlapping boxes of colour, and noise; uint8 (H, W, 3)."""
    rng, size = np.random.default_rng(number), SIZES[number % 3]
    height, width = size
    image = np.full((height, width, 3), 128, np.int16)
    for _ in range(12):
        y, x, rows, columns = rng.integers(0, height), rng.integers(0, width), *rng.integers(30, 130, 2)
        image[y : y + rows, x : x + columns] = rng.integers(0, 256, 3)
    return np.clip(image + np.roll(_noise(size), number, 0), 0, 255).astype(np.uint8)


@functools.cache
def _noise(size):
    return np.random.default_rng(size).integers(-8, 9, (*size, 3), np.int16)


def write_model(path):
    """The model of the three backends, which finds some objects in such images."""
    import three_backends

    import keras_maskrcnn as km

    model = three_backends.small_model()
    km.load_weights(model, str(three_backends.WEIGHTS))
    model.save(path)


def drive(model, images, output):
    """Predict on Ray as the command does. Parts are written every two seconds.

    Prints "finished N" for each batch; Ray prints lines of its own.
    """
    from keras_maskrcnn_launcher import register_package

    register_package()
    from keras_maskrcnn.scale import store
    from keras_maskrcnn.scale.on_ray import predict_on_ray

    store._SECONDS = 2
    predict_on_ray(model, [images], output, actors=ACTORS, progress=lambda count: print("finished", count, flush=True))


def answer(model, images, file):
    """Call the predictor for one image after the other: path -> [error or None, COCO results]."""
    from keras_maskrcnn_launcher import prepare_models, register_package

    register_package()
    prepare_models()
    from keras_maskrcnn.inference.predictor import Predictor
    from keras_maskrcnn.weights.models import load_model

    predictor, found = Predictor(load_model(model)), {}
    for path in sorted(map(str, pathlib.Path(images).rglob("*.png"))):
        try:
            found[path] = [None, predictor(path).to_coco(0)]
        except ValueError as error:
            found[path] = [str(error), []]
    pathlib.Path(file).write_text(json.dumps(found))


if __name__ == "__main__":
    {"images": write_images, "model": write_model, "drive": drive, "answer": answer}[sys.argv[1]](*sys.argv[2:])
