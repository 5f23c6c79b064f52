"""Repeat factors against the paper's formula by hand, what epochs then hold, and the share of negatives."""

import numpy as np
import pytest

from keras_maskrcnn.config import MaskRCNNConfig
from keras_maskrcnn.data import ArrayDataset, DataLoader, RandomCrop
from keras_maskrcnn.data.loading.epoch_order import EpochOrder, repeat_factors, with_negatives


def dataset(labels, crowds=None):
    """Images whose every pixel is their own number, with small squares of these labels."""
    masks = []
    for each in labels:
        masks.append(np.zeros((len(each), 32, 32), np.uint8))
        for k in range(len(each)):
            masks[-1][k, 3 * k : 3 * k + 3, 4:20] = 1
    images = [np.full((32, 32, 3), number, np.uint8) for number in range(len(labels))]
    return ArrayDataset(images, masks, labels, crowds, class_names=("a", "b", "c"))


def loader(data, batch_size=1, **options):
    config = MaskRCNNConfig(num_classes=3, class_names=data.class_names, image_scale=1.0, max_instances=4)
    return DataLoader(data, config, batch_size, **options)


def shown(loader):
    """Numbers of the images of an epoch, in order."""
    return [int(batch["images"][0, 0, 0, 0]) for batch in loader]


def test_factors_are_the_papers():
    # Of ten images, class 0 is in all but the two empty ones, class 1 in two, class 2 in one.
    labels = [[0], [0, 0], [0], [0], [0], [0], [0, 1, 1], [0, 1, 2], [], []]
    rare, rarer = np.sqrt(0.4 / 0.2), np.sqrt(0.4 / 0.1)
    np.testing.assert_allclose(repeat_factors(labels, 0.4), [1] * 6 + [rare, rarer, 1, 1], rtol=1e-12)
    np.testing.assert_array_equal(repeat_factors(labels, 0.1), np.ones(10))  # as frequent as the threshold is not rare


def test_crowds_make_no_class_frequent_and_no_image_rare_or_positive():
    labels = [[0], [0], [0], [1], [1], [1, 0]]
    crowds = [[False]] * 3 + [[False], [True], [True, False]]
    order = EpochOrder(dataset(labels, crowds), True, 0, repeat_threshold=0.5)
    # Class 1 counts in one image of six, the fourth; the fifth holds nothing but a crowd.
    np.testing.assert_allclose(order.factors, [1, 1, 1, np.sqrt(0.5 * 6), 1, 1])
    assert order.negative.tolist() == [False] * 4 + [True, False]


def test_over_many_epochs_an_image_comes_up_as_often_as_its_factor_says():
    labels = [[0]] * 13 + [[0, 1], [1], [2]]
    order = EpochOrder(dataset(labels), True, 3, repeat_threshold=0.4)
    wanted = np.array([1.0] * 13 + [np.sqrt(0.4 * 8)] * 2 + [np.sqrt(0.4 * 16)])
    np.testing.assert_allclose(order.factors, wanted)
    wanted *= len(order) / wanted.sum()  # rounded up to whole images
    assert len(order) == int(np.ceil(13 + 2 * np.sqrt(3.2) + np.sqrt(6.4))) == 20
    epochs = 4000
    counts = np.array([np.bincount(order.images(epoch)[:, 0], minlength=16) for epoch in range(epochs)])
    assert (counts.sum(1) == 20).all()
    assert (counts >= np.floor(wanted)).all() and (counts <= np.ceil(wanted)).all()
    assert (np.abs(counts.mean(0) - wanted) < 5 * 0.5 / np.sqrt(epochs)).all()  # five standard errors of a coin


def test_an_image_without_need_is_never_left_out_and_repeats_are_numbered():
    order = EpochOrder(dataset([[0]] * 9 + [[1]]), True, 0, repeat_threshold=0.9)
    for epoch in range(50):
        images = order.images(epoch)
        assert set(images[:, 0]) == set(range(10))
        assert sorted(images[images[:, 0] == 9, 1]) == [0, 1, 2]  # sqrt(0.9 / 0.1) = 3


@pytest.mark.parametrize(("share", "empty"), [(0.0, 0), (0.1, 2), (0.5, 18), (0.8, 72)])
def test_negatives_are_the_share_that_was_asked_for(share, empty):
    order = EpochOrder(dataset([[0]] * 18 + [[]] * 20), True, 0, negatives=share)
    seen = np.zeros(38, int)
    for epoch in range(40):
        positions = order.images(epoch)[:, 0]
        assert (positions < 18).sum() == 18 and (positions >= 18).sum() == empty
        seen += np.bincount(positions, minlength=38)
    assert (seen[18:] > 0).all() == (share > 0)  # other empty images in each epoch


def test_negatives_join_repeats():
    factors = with_negatives(np.array([1, 2, 1, 1]), np.array([False, False, True, True]), 0.25)
    np.testing.assert_allclose(factors, [1, 2, 0.5, 0.5])


def test_the_same_image_twice_in_an_epoch_is_two_crops():
    noise = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    masks = [[np.ones((32, 32), np.uint8)]] * 10
    data = ArrayDataset([noise] * 10, masks, [[0]] * 9 + [[1]], class_names=("a", "b", "c"))
    options = {"transforms": [RandomCrop(16)], "repeat_threshold": 0.9, "shuffle": True}
    train, again = loader(data, **options), loader(data, **options)
    pictures = [batch["images"].tobytes() for batch in train]
    assert len(pictures) == len(set(pictures)) == 12  # nine images once, one three times
    assert [batch["images"].tobytes() for batch in again] == pictures


def test_order_is_by_position_without_shuffling_and_by_seed_and_epoch_with():
    data = dataset([[0]] * 7 + [[1]])
    plain = loader(data, repeat_threshold=0.5)
    assert shown(plain) == [0, 1, 2, 3, 4, 5, 6, 7, 7]
    train = loader(data, shuffle=True, seed=1, repeat_threshold=0.5)
    first = shown(train)
    train.on_epoch_end()
    assert sorted(first) == [0, 1, 2, 3, 4, 5, 6, 7, 7] and first != shown(train)
    train.set_epoch(0)
    assert shown(train) == first
    assert shown(loader(data, shuffle=True, seed=2, repeat_threshold=0.5)) != first


def test_epochs_of_batches_count_repeats():
    data = dataset([[0]] * 7 + [[1]])
    assert len(loader(data, 4, shuffle=True)) == 2
    assert len(loader(data, 4, shuffle=True, repeat_threshold=0.5, drop_last=False)) == 3  # of nine images


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"repeat_threshold": 0.0}, "above 0 and at most 1. Received 0"),
        ({"repeat_threshold": 1.5}, "above 0 and at most 1. Received 1.5"),
        ({"negatives": 1.0}, "from 0 to below 1. Received 1"),
        ({"negatives": 0.2}, "negatives=0.2 for 2 images, 0 of them without"),
    ],
)
def test_what_cannot_be_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        loader(dataset([[0], [1]]), **options)


def test_nothing_but_negatives_is_refused():
    with pytest.raises(ValueError, match="2 of them without objects"):
        loader(dataset([[], []]), negatives=0.0)
