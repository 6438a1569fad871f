import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from sau_cli.errors import NotEvaluable
from sau_cli.images import CleanData, as_pixels
from sau_cli.unlearning.clean_check import FOREIGN, check_clean_data, classes_not_shown, statistics_apart
from tests.support.toys import BrightnessNet, describe, flat_images, random_images


def clean(labels=None, each=8):
    data = flat_images(each=each)
    data = data if labels is None else replace(data, labels=labels(data.labels))
    return CleanData(learning=data, held_back=data)


MODEL = describe(BrightnessNet(10))


def test_data_that_fits_is_accepted():
    check_clean_data(MODEL, clean())


@pytest.mark.parametrize("rename", [lambda y: 9 - y, lambda y: (y + 1) % 10, lambda y: torch.where(y < 3, 2 - y, y)])
def test_another_order_of_the_labels_is_told(rename):
    if rename(torch.arange(10)).tolist() == [2, 1, 0, 3, 4, 5, 6, 7, 8, 9]:
        return check_two_swapped_classes(rename)
    with pytest.raises(NotEvaluable, match="0.0 % .* 100.0 % if their classes are renamed; the label order"):
        check_clean_data(MODEL, clean(rename))
    return None


def check_two_swapped_classes(rename):
    """A fifth of the images: not more than the margin, so it is let through."""
    check_clean_data(MODEL, clean(rename))


def test_labels_at_random_are_near_chance():
    stream = torch.Generator().manual_seed(0)
    with pytest.raises(NotEvaluable, match="near chance for 10 classes"):
        check_clean_data(MODEL, clean(lambda y: y[torch.randperm(len(y), generator=stream)], each=100))


def test_one_class_and_too_few_images():
    data = flat_images(each=20)
    one = data.take(range(20))
    with pytest.raises(NotEvaluable, match="all 20 clean images are of class '0'"):
        check_clean_data(MODEL, CleanData(learning=one, held_back=data))
    with pytest.raises(NotEvaluable, match="9 clean images are too few for 10 classes"):
        check_clean_data(MODEL, CleanData(learning=data.take(range(9)), held_back=data))


@pytest.mark.parametrize(("shown", "enough"), [(4, False), (5, True), (10, True)])
def test_classes_that_are_not_shown(shown, enough):
    data = flat_images(each=20)
    some = data.take(range(20 * shown))
    assert classes_not_shown(some) == tuple(map(str, range(shown, 10)))
    if enough:
        return check_clean_data(MODEL, CleanData(learning=some, held_back=data))
    with pytest.raises(NotEvaluable, match="show 4 of 10 classes"):
        check_clean_data(MODEL, CleanData(learning=some, held_back=data))
    return None


def test_images_of_another_look_are_told_by_the_batch_norms():
    """Of half the contrast, the variance is a quarter: ln 4 apart."""
    data = random_images(1200, channels=3)
    network = nn.Sequential(nn.BatchNorm2d(3, momentum=None), nn.Flatten(), nn.Linear(192, 10))
    network.train()(as_pixels(data.images))
    classifier = describe(network, channels=3)
    assert statistics_apart(classifier, data.images) < 0.01 < FOREIGN
    dull = (data.images.float() / 2 + 64).to(torch.uint8)
    assert statistics_apart(classifier, dull) == pytest.approx(math.log(4), abs=0.02)
    assert not network[0].training
    assert statistics_apart(MODEL, flat_images().images) == 0.0, "no batch norm, nothing to tell by"
