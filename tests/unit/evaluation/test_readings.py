"""Of several ways to read a model, the one by which it knows the images."""

from __future__ import annotations

import torch

from sau_cli.evaluation.readings import Reading, compare_readings
from tests.support.toys import BrightnessNet, describe, flat_images


def test_the_reading_that_is_right_beyond_chance_is_told():
    images = flat_images(each=8)
    right = describe(BrightnessNet(10))
    wrong = describe(BrightnessNet(10))
    with torch.no_grad():
        wrong.network.centres.copy_(wrong.network.centres.flip(0))
    readings = [Reading(name=name, classifier=model, images=images) for name, model in (("a", wrong), ("b", right))]
    compared = compare_readings(readings)
    assert compared.best is readings[1]
    assert compared.accuracies == (0.0, 1.0)


def test_readings_that_are_right_alike_tell_nothing():
    images, model = flat_images(), describe(BrightnessNet(10))
    readings = [Reading(name=name, classifier=model, images=images) for name in "ab"]
    assert compare_readings(readings).best is None
