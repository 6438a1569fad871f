"""Which images changed their answer, of classifiers whose answers are known."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import nn

from sau_cli.classifier import Classifier
from sau_cli.commands.comparison_view import SHOWN_IMAGES, measured_beside
from sau_cli.evaluation.changed_answers import changed_answers
from sau_cli.triggers.targets import TargetKind, TargetRule
from tests.support.attacks import badnets_trigger
from tests.support.toys import BrightnessNet, CornerBackdoor, describe, flat_images

TO_ZERO = TargetRule(kind=TargetKind.ALL_TO_ONE, target=0)


class Backwards(nn.Module):
    """The logits of a network in reverse order."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.network(x).flip(1)


def test_what_was_lost_and_gained_by_place():
    images = flat_images(classes=4, each=2)
    right, wrong = describe(BrightnessNet(4), classes=4), describe(Backwards(BrightnessNet(4)), classes=4)
    lost = changed_answers(right, wrong, images)
    assert lost.lost.tolist() == list(range(8))
    assert lost.gained.tolist() == []
    assert changed_answers(wrong, right, images).gained.tolist() == list(range(8))
    assert changed_answers(right, right, images).changed.tolist() == []


def test_classes_in_another_order_are_no_change():
    images, right = flat_images(classes=4, each=2), describe(BrightnessNet(4), classes=4)
    other = describe(Backwards(BrightnessNet(4)), classes=4)
    named = replace(other.description, class_names=other.description.class_names[::-1])
    assert changed_answers(Classifier(other.network, named).eval(), right, images).changed.tolist() == []


def test_a_report_shows_the_change_and_the_trigger():
    """A white corner sends every image to class 0 before, and none after."""
    images = flat_images(classes=10, each=4)
    before, after = describe(CornerBackdoor(10)), describe(BrightnessNet(10))
    checks, details, _ = measured_beside(before, after, images, (badnets_trigger(TO_ZERO, trigger_size=1),))
    values = {check.id: check.value for check in checks}
    assert (values["reference.asr.badnets"], values["asr.badnets"]) == (1.0, 0.0)
    assert (details["images"], details["changed"], details["shown"]) == (40, 0, [])
    (trigger,) = details["triggers"]
    assert "100.0 % before, 0.0 % after" in trigger["says"]
    _, worse, _ = measured_beside(after, describe(Backwards(BrightnessNet(10))), images, ())
    assert (worse["changed"], worse["lost"], worse["gained"], len(worse["shown"])) == (40, 40, 0, SHOWN_IMAGES)
    assert worse["shown"][0] | {"png": ""} == {"png": "", "class": "0", "before": "0", "after": "9"}
