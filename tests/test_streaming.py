"""Many images through a predictor: their order, what shares a batch, how many are in memory, what errors leave."""

import pathlib
import threading
import time
import weakref

import keras
import numpy as np
import pytest
from known_answers import ColourModel, small_config
from PIL import Image
from tiny import scatter_weights, tiny_config

import keras_maskrcnn as km
from keras_maskrcnn.data.images.reading import ImageError
from keras_maskrcnn.geometry.resizing import bucket_size, canvas_size
from keras_maskrcnn.inference.found import TiledInstances
from keras_maskrcnn.inference.planning import Member, plan_batches
from keras_maskrcnn.inference.predictor import Predictor

ON_JAX = keras.backend.backend() == "jax"
SIZES = [
    (30, 40),
    (64, 64),
    (33, 20),
    (20, 31),
    (64, 10),
    (30, 30),
    (90, 64),
    (31, 32),
    (33, 64),
    (5, 5),
    (64, 60),
    (330, 9),
    (370, 9),
]


def model_for(free=False, **config):
    return ColourModel(small_config(3, max_detections=4, **config), free)


def picture(colour, size):
    return np.full((*size, 3), colour % 256, np.uint8)


def pictures(sizes=SIZES):
    return [picture(10 + 7 * k, size) for k, size in enumerate(sizes)]


def same(found, expected):
    np.testing.assert_array_equal(found.labels, expected.labels)
    np.testing.assert_allclose(found.boxes, expected.boxes, atol=1e-3)
    np.testing.assert_allclose(found.scores, expected.scores, atol=1e-4)
    assert [one["segmentation"] for one in found.to_coco(7)] == [one["segmentation"] for one in expected.to_coco(7)]


def no_thread_is_left():
    return not [thread.name for thread in threading.enumerate() if thread.name.startswith("stream")]


# Which images share a batch --------------------------------------------------------------------------------------


def planned(canvases, batch_size, window, group=lambda canvas: "all"):
    members = [Member(k, None, canvas, group(canvas), canvas) for k, canvas in enumerate(canvases)]
    return [[member.index for member in batch] for batch in plan_batches(members, batch_size, window)]


def test_images_of_equal_canvas_go_together_and_the_rest_with_the_nearest():
    small, wide, large = (32, 32), (32, 64), (96, 96)
    order = [small, wide, small, large, wide, small, wide]
    # Two of a canvas make a batch at once; at the end the oldest takes the nearest: 5 is small, 6 wide, 3 large.
    assert planned(order, 2, 100) == [[0, 2], [1, 4], [3, 6], [5]]
    assert planned([small, large, wide], 2, 100) == [[0, 2], [1]]
    assert planned(order, 2, 100, group=lambda canvas: canvas) == [[0, 2], [1, 4], [3], [5], [6]]
    assert planned(order, 1, 1) == [[k] for k in range(7)]


def test_nobody_waits_for_longer_than_the_window():
    order = [(32, 32)] + [(64, 64)] * 5 + [(32, 32)]
    own = lambda canvas: canvas  # noqa: E731
    assert planned(order, 2, 3, own) == [[1, 2], [0], [3, 4], [5], [6]]
    assert planned(order, 2, 100, own) == [[1, 2], [3, 4], [0, 6], [5]]


@pytest.mark.parametrize("seed", range(5))
def test_each_image_is_in_one_batch_of_one_group_within_the_window(seed):
    rng = np.random.default_rng(seed)
    batch_size, window = int(rng.integers(1, 6)), int(rng.integers(1, 20))
    places = [(int(rng.integers(3)), (32 * int(rng.integers(1, 4)), 32)) for _ in range(100)]
    members = [Member(k, None, None, *((None, None) if k % 9 == 0 else place)) for k, place in enumerate(places)]
    seen, newest = [], 0

    def watched():
        nonlocal newest
        for member in members:
            newest = member.index
            yield member

    for batch in plan_batches(watched(), batch_size, window):
        assert len({member.group for member in batch}) == 1 and len(batch) <= batch_size
        assert batch[0].group is not None or len(batch) == 1
        assert newest - min(member.index for member in batch) <= max(window, batch_size)
        seen += [member.index for member in batch]
    assert sorted(seen) == list(range(100))


# Answers ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_size", [1, 2, 3, 8, 100])
@pytest.mark.parametrize("options", [{}, {"free": True}, {"mask_padding": False, "free": True}, {"norm": "group"}])
def test_answers_are_those_of_one_at_a_time_in_order(batch_size, options):
    images, model = pictures(), model_for(**options)
    expected = [Predictor(model)(image) for image in images]
    alone = [shape for shape, _ in model.batches]
    model.batches.clear()
    answers = list(Predictor(model).stream(images, batch_size=batch_size))
    assert [answer.index for answer in answers] == list(range(len(images)))
    assert all(answer.source is image and answer.error is None for answer, image in zip(answers, images, strict=True))
    for answer, found in zip(answers, expected, strict=True):
        same(answer.result, found)
    assert model.threads == {threading.get_ident()} and no_thread_is_left()
    free = options == {"free": True}
    for shape, sizes in model.batches:
        sizes = [tuple(size) for size in sizes if size != [1, 1]]
        assert shape[0] == min(batch_size, len(images)) if ON_JAX else shape[0] == len(sizes)
        canvas = bucket_size if ON_JAX and model.config.mask_padding else canvas_size
        own = {canvas(*size) for size in sizes}
        largest = tuple(np.max(list(own), axis=0).tolist())
        assert shape[1:3] == largest and (free or len(own) == 1)
    if free and batch_size == 8 and not ON_JAX:
        assert len(model.batches) < len({shape[1:3] for shape in alone})  # images of several canvases share one


def test_finish_is_called_in_threads_and_its_result_takes_the_place():
    images, threads = pictures(), set()

    def finish(index, image, found):
        threads.add(threading.current_thread().name)
        time.sleep(0.02 if index % 4 == 0 else 0)  # later ones are done sooner
        assert image is images[index]
        return index, found.labels.tolist()

    answers = list(Predictor(model_for()).stream(images, finish, batch_size=2))
    assert [answer.result for answer in answers] == [(k, [(10 + 7 * k) % 3]) for k in range(len(images))]
    assert threads and all(name.startswith("stream") for name in threads)


@pytest.mark.parametrize("batch_size", [1, 3])
def test_files_that_cannot_be_read_have_their_error_in_their_place(tmp_path, batch_size):
    paths = [tmp_path / f"{k}.png" for k in range(7)]
    for k, path in enumerate(paths):
        Image.fromarray(picture(10 * k, (20, 30))).save(path)
    whole = paths[2].read_bytes()
    paths[2].write_bytes(whole[: len(whole) // 2])  # its header is right
    paths[4].write_bytes(b"no image at all")
    paths[6].unlink()
    answers = list(Predictor(model_for()).stream(paths, batch_size=batch_size))
    assert [answer.source for answer in answers] == paths
    assert [answer.index for answer in answers if isinstance(answer.error, ImageError)] == [2, 4, 6]
    assert all(answer.result is None and answer.source.name in str(answer.error) for answer in answers[2::2])
    assert [answers[k].result.labels.tolist() for k in (0, 1, 3, 5)] == [[0], [1], [0], [2]]


def test_nothing_and_one_image_and_images_of_an_iterator():
    model = model_for()
    assert list(Predictor(model).stream([], batch_size=4)) == [] and model.batches == []
    (answer,) = Predictor(model).stream([picture(5, (20, 20))], batch_size=4)
    assert answer.result.labels.tolist() == [2] and model.batches[0][0][0] == 1  # not filled up to four
    found = list(Predictor(model).stream((picture(k, (20, 20)) for k in range(5)), batch_size=2))
    assert [answer.result.labels.tolist() for answer in found] == [[0], [1], [2], [0], [1]]


def test_functions_are_called_late_and_wrong_sizes_cost_time_only():
    images = pictures()
    sources = [lambda image=image: image for image in images]
    expected = [Predictor(model_for())(image).to_coco(1) for image in images]
    for sizes in (None, SIZES, SIZES[::-1], [None, *SIZES[1:]]):
        answers = Predictor(model_for(free=True)).stream(sources, batch_size=3, sizes=sizes)
        assert [answer.result.to_coco(1) for answer in answers] == expected


@pytest.mark.parametrize("batch_size", [1, 4])
def test_one_pil_image_many_times_and_sizes_that_no_image_has(tmp_path, batch_size):
    Image.fromarray(picture(70, (300, 200))).save(tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as lazy:
        answers = list(Predictor(model_for()).stream([lazy] * 20, batch_size=batch_size))
    assert [answer.result.labels.tolist() for answer in answers] == [[1]] * 20
    sources, sizes = [picture(k, (20, 20)) for k in range(3)], [(0, 20), (20, 20), (-1, -1)]
    answers = Predictor(model_for()).stream(sources, batch_size=batch_size, sizes=sizes)
    assert [answer.result.labels.tolist() for answer in answers] == [[0], [1], [2]]


def test_images_too_large_for_one_batch_are_alone(monkeypatch):
    make = Predictor._new_batch

    def new_batch(self, sizes, batch_size, alone):
        if len(sizes) > 1:
            raise MemoryError
        return make(self, sizes, batch_size, alone)

    monkeypatch.setattr(Predictor, "_new_batch", new_batch)
    model = model_for()
    answers = Predictor(model).stream([picture(k, (20, 20)) for k in range(4)], batch_size=2)
    assert [answer.result.labels.tolist() for answer in answers] == [[0], [1], [2], [0]]
    assert [shape[0] for shape, _ in model.batches] == [1] * 4


@pytest.mark.parametrize("sources", ["photo.jpg", pathlib.Path("photo.jpg"), b"PNG", None, Image.new("RGB", (5, 5))])
def test_one_image_is_no_stream(sources):
    with pytest.raises(ValueError, match=f"many images.*Received {type(sources).__name__}. Call the predictor for one"):
        Predictor(model_for()).stream(sources)


def test_an_accelerator_gets_batches_of_eight_and_cpus_of_one(monkeypatch):
    for devices, expected in ((["cpu:0"], 1), (["CPU:0", "CPU:1"], 1), (["cpu:0", "gpu:0"], 8), (["tpu:0"], 8)):
        monkeypatch.setattr("keras_maskrcnn.backend.devices", lambda devices=devices: devices)
        model = model_for()
        list(Predictor(model).stream([picture(k, (20, 20)) for k in range(16)]))
        assert [shape[0] for shape, _ in model.batches] == [expected] * (16 // expected)


@pytest.mark.parametrize("name, value", [("batch_size", 0), ("batch_size", 1.5), ("window", -1), ("batch_size", True)])
def test_numbers_of_images_are_checked_at_the_call(name, value):
    with pytest.raises(ValueError, match=f"{name}=... must be a whole number of images.*Received: {value}. Leave it"):
        Predictor(model_for()).stream([], **{name: value})


# Errors ----------------------------------------------------------------------------------------------------------


class Broken(Exception):
    pass


def test_an_error_of_finish_is_raised_at_once():
    model = model_for()

    def finish(index, image, found):
        if index == 3:
            raise Broken

    with pytest.raises(Broken):
        list(Predictor(model).stream([picture(1, (20, 20))] * 200, finish, batch_size=2))
    assert no_thread_is_left() and len(model.batches) < 60


@pytest.mark.parametrize("error", [Broken, KeyboardInterrupt, ValueError])
def test_errors_of_the_model_and_interrupts_end_it_and_every_thread(error, monkeypatch):
    model, given = model_for(), []
    answer = model.predict_on_batch

    def predict(batch):
        if given:
            raise error
        return answer(batch)

    monkeypatch.setattr(model, "predict_on_batch", predict)
    with pytest.raises(error):
        for one in Predictor(model).stream([picture(k, (20, 20)) for k in range(50)], batch_size=1):
            given.append(one.index)
    assert given == list(range(len(given))) and 1 <= len(given) < 20 and no_thread_is_left()


def test_who_stops_listening_leaves_no_thread():
    stream = Predictor(model_for()).stream([picture(k, (20, 20)) for k in range(50)], batch_size=2)
    assert next(stream).index == 0
    stream.close()
    assert no_thread_is_left()


def test_an_error_of_the_images_iterator_is_the_callers():
    def frames():
        yield picture(1, (20, 20))
        raise Broken

    with pytest.raises(Broken):
        list(Predictor(model_for()).stream(frames(), batch_size=2))
    assert no_thread_is_left()


# Memory ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_size", [1, 4])
@pytest.mark.parametrize("slow", ["finish", "listener", "neither"])
def test_few_images_are_alive_at_a_time(batch_size, slow, monkeypatch):
    monkeypatch.setattr("os.cpu_count", lambda: 3)
    alive, most = weakref.WeakSet(), 0

    class Pixels(np.ndarray):  # can be in a set
        __hash__ = object.__hash__
        __eq__ = object.__eq__

    def read(k):
        nonlocal most
        image = picture(k, (20, 20)).view(Pixels)
        alive.add(image)
        most = max(most, len(alive))
        return image

    def finish(index, image, found):
        time.sleep(0.003 if slow == "finish" else 0)

    predictor = Predictor(model_for())
    monkeypatch.setattr(predictor, "_read", lambda source: source)
    count = 0
    sources = (lambda k=k: read(k) for k in range(150))
    for answer in predictor.stream(sources, finish, batch_size, sizes=[(20, 20)] * 150):
        time.sleep(0.003 if slow == "listener" else 0)
        assert answer.result is None and answer.error is None
        count += 1
    assert count == 150 and batch_size < most <= 2 * max(2 * batch_size, 3) + 3 * batch_size
    assert len(alive) == 0


# Tiles and real models -------------------------------------------------------------------------------------------


def test_tiles_of_a_large_image_share_batches_and_give_the_same():
    rng = np.random.default_rng(0)
    large = rng.integers(0, 256, (150, 230, 1), np.uint8).repeat(3, axis=2)
    images = [picture(3, (50, 40)), large, picture(8, (64, 64))]
    model = model_for()
    predictor = Predictor(model, tile=64, overlap=0.2)
    expected = [predictor(image) for image in images]
    model.batches.clear()
    answers = list(predictor.stream(images, batch_size=3))
    assert isinstance(answers[1].result, TiledInstances) and len(answers[1].result) > 5
    for answer, found in zip(answers, expected, strict=True):
        same(answer.result, found)
    tiles = [sizes for shape, sizes in model.batches if shape[0] == 3 and [1, 1] not in sizes]
    assert tiles == [[[64, 64]] * 3] * 5
    assert no_thread_is_left()


@pytest.mark.slow_on_jax  # compiles each canvas; in test_model.py neither canvas nor neighbour changes what is found
@pytest.mark.parametrize("options", [{}, {"mask_padding": False}])
def test_a_model_finds_in_batches_what_it_finds_one_at_a_time(options):
    model = scatter_weights(km.MaskRCNN(tiny_config(**options)))
    rng = np.random.default_rng(0)
    sizes = [(64, 96), (50, 80), (64, 90)] + [(40, 380), (40, 330)] * (not ON_JAX)  # JAX compiles each canvas
    images = [rng.integers(0, 256, (*size, 3), np.uint8) for size in sizes]
    predictor = Predictor(model)
    answers = list(predictor.stream(images, batch_size=4))
    for answer, image in zip(answers, images, strict=True):
        expected = predictor(image)
        assert len(expected) > 0
        np.testing.assert_array_equal(answer.result.labels, expected.labels)
        np.testing.assert_allclose(answer.result.boxes, expected.boxes, atol=1e-3)
        np.testing.assert_allclose(answer.result.scores, expected.scores, atol=1e-4)
        np.testing.assert_allclose(answer.result.box_masks, expected.box_masks, atol=1e-4)
