"""Whether a model knows its images, on answers that are set by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from sau_cli.errors import NotEvaluable
from sau_cli.evaluation.recognition import check_recognises
from sau_cli.images import LabelledImages
from tests.support.toys import BrightnessNet, describe, flat_images

CLASSES = 10
DATA = flat_images(each=20)
MODEL = describe(BrightnessNet(CLASSES))


class Always(nn.Module):
    def forward(self, x):
        return torch.eye(CLASSES)[3].expand(len(x), CLASSES)


def partly(right: int) -> LabelledImages:
    """Of 20 images a class so many have the label that the model gives, the others one drawn at random."""
    drawn = torch.randint(CLASSES, (len(DATA),), generator=torch.Generator().manual_seed(0))
    return replace(DATA, labels=torch.where(torch.arange(len(DATA)) % 20 < right, DATA.labels, drawn))


@pytest.mark.parametrize("right", [8, 14, 20])
def test_a_model_that_is_often_right_knows_its_images(right):
    check_recognises(MODEL, partly(right))


@pytest.mark.parametrize("right", [0, 1])
def test_a_model_near_chance_does_not(right):
    with pytest.raises(NotEvaluable, match="near chance for 10 classes; the labels"):
        check_recognises(MODEL, partly(right))


def test_one_answer_to_all_images_is_chance_also_where_most_are_of_that_class():
    many = replace(DATA, labels=torch.where(torch.arange(len(DATA)) % 20 < 16, 3, DATA.labels))
    for images in (DATA, many):
        with pytest.raises(NotEvaluable, match="near chance for 10 classes: it says '3' of each"):
            check_recognises(describe(Always()), images)


def test_labels_in_another_order_are_told():
    with pytest.raises(NotEvaluable, match="0.0 % .* and 100.0 % if their classes are renamed"):
        check_recognises(MODEL, replace(DATA, labels=(DATA.labels + 1) % CLASSES))


def test_with_an_image_or_two_a_class_no_renaming_is_read_into_the_answers():
    """Of 20 images 12 are right; a renaming that is read from all of them would be right about more."""
    few = partly(12).take(range(0, len(DATA), 10))
    wrong = torch.tensor([8, 3, 6, 1, 9, 0, 2, 5])
    few = replace(few, labels=torch.cat([wrong, few.labels[8:]]))
    check_recognises(MODEL, few)
