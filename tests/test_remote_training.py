"""A dataset in fsspec's memory, on a web server and in object stores trains and evaluates as its copy on the disk."""

import keras
import numpy as np
import pytest
from known_answers import KnownModel, small_config
from remote_folders import STORES, elsewhere
from tiny import plain_backbone, scatter_weights, tiny_config

import keras_maskrcnn as km

pytest.importorskip("fsspec")
pytest.importorskip("aiohttp")

SERVERS = ("http", *STORES)
BATCH = {"shuffle": True, "seed": 3, "augmentation": "light"}


@pytest.fixture(scope="module")
def model():
    config = tiny_config(score_threshold=0.02, class_names=("circle", "square", "triangle"))
    model = scatter_weights(km.MaskRCNN(config, backbone=plain_backbone()))
    model.compile(keras.optimizers.SGD(0.01), run_eagerly=True)
    return model


def batches_of(dataset, config, **options):
    loader = km.DataLoader(dataset, config, 2, **(BATCH | options))
    return [loader[index] for index in range(len(loader))]


def trained(model, weights, dataset):
    """(losses of each step, figures of the evaluation after them) of one epoch from these weights."""
    for variable, value in zip(model.variables, weights, strict=True):  # with the state of the random numbers
        variable.assign(value)
    losses = [model.train_on_batch(batch, return_dict=True)["loss"] for batch in batches_of(dataset, model.config)]
    return np.array(losses, float), figures(model, dataset)


def figures(model, dataset):
    found = km.evaluate_coco(model, dataset)
    del found["seconds_per_image"]
    return found


def halfway(dataset):
    """A model that finds all objects of every other image."""
    truth = [[instance.box for instance in record.instances] for record in dataset]
    labels = [[instance.label for instance in record.instances] for record in dataset]
    answers = [(boxes, [0.9] * len(boxes), own) for boxes, own in zip(truth, labels, strict=True)]
    answers[::2] = [([], [], [])] * len(answers[::2])
    return KnownModel(small_config(3, class_names=dataset.class_names), answers)


def test_training_and_evaluation_elsewhere_are_those_here(tmp_path, model):
    file = km.data.generate_shapes(tmp_path, 4, image_size=64)
    here, weights = km.open_dataset(file), [variable.numpy() for variable in model.variables]
    batches = batches_of(here, model.config)
    expected = trained(model, weights, here)
    assert len(expected[0]) == 2 and np.isfinite(expected[0]).all() and expected[0][0] != expected[0][1]
    for kind in ("memory", "http", *STORES):
        with elsewhere(kind, tmp_path) as address:
            there = km.open_dataset(f"{address}/annotations.json")
            for batch, other in zip(batches, batches_of(there, model.config), strict=True):
                assert batch.keys() == other.keys()
                assert all(batch[key].tobytes() == other[key].tobytes() for key in batch)
            for index in range(len(here)):  # what an evaluation reads
                np.testing.assert_array_equal(there.load_image(index), here.load_image(index))
            if kind == "http":  # of the same bytes, once is enough
                losses, found = trained(model, weights, there)
                np.testing.assert_allclose(losses, expected[0], rtol=1e-5)
                assert found.keys() == expected[1].keys()
                np.testing.assert_allclose(list(found.values()), list(expected[1].values()), atol=1e-4)
            known = figures(halfway(there), there)
            assert known == figures(halfway(here), here) and 0.2 < known["bbox_AP50"] < 0.8


@pytest.mark.parametrize("kind", SERVERS)
def test_worker_processes_read_a_server(tmp_path, model, kind):
    file = km.data.generate_shapes(tmp_path, 4, image_size=64)
    batches = batches_of(km.open_dataset(file), model.config)
    with elsewhere(kind, tmp_path) as address:
        there = km.open_dataset(f"{address}/annotations.json")
        for batch, other in zip(
            batches, batches_of(there, model.config, worker_type="process", workers=1), strict=True
        ):
            assert all(batch[key].tobytes() == other[key].tobytes() for key in batch)


@pytest.mark.parametrize("kind", SERVERS)
def test_predictor_takes_addresses(tmp_path, model, kind):
    km.data.generate_shapes(tmp_path, 2, image_size=64)
    files = sorted((tmp_path / "images").iterdir())
    predictor = km.Predictor(model)
    with elsewhere(kind, tmp_path) as address:
        there = [f"{address}/images/{file.name}" for file in files] + [f"{address}/none.png"]
        *answers, missing = predictor.stream(there)
        for file, answer in zip(files, answers, strict=True):
            found = predictor(file)
            assert len(found) and answer.result.to_coco(1) == found.to_coco(1)
        assert f"Received {address}/none.png, which does not" in str(missing.error)
