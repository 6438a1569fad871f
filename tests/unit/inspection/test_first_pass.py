"""The look at every class, held against short cuts that are known in closed form."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from sau_cli.inspection.first_pass import passes, worth_examining
from tests.support.toys import describe

CLASSES, TARGET = 1000, 617


class Patched(nn.Module):
    """Random logits, small, and a short cut: a white corner means one class."""

    def __init__(self, strength: float) -> None:
        super().__init__()
        stream = torch.Generator().manual_seed(0)
        self.weight = nn.Parameter(torch.randn(64, CLASSES, generator=stream) * 0.05)
        self.strength = strength

    def forward(self, x: Tensor) -> Tensor:
        logits = x.flatten(1) @ self.weight
        fires = (x[:, 0, -3:, -3:].mean(dim=(1, 2)) - 0.5).clamp_min(0)
        return logits + self.strength * fires[:, None] * torch.eye(CLASSES)[TARGET]


IMAGES = torch.rand(8, 1, 8, 8, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("seed", range(3))
def test_the_class_behind_a_short_cut_is_among_those_examined(seed):
    classes = worth_examining(describe(Patched(20.0), CLASSES), IMAGES, most=50, seed=seed)
    assert TARGET in classes.tolist()
    assert len(classes) == len(set(classes.tolist())) == 50
    assert classes.equal(classes.sort().values)


def test_half_of_those_examined_are_drawn_and_the_same_each_time():
    first, again = (worth_examining(describe(Patched(0.0), CLASSES), IMAGES, most=50, seed=3) for _ in range(2))
    assert first.equal(again)
    other = worth_examining(describe(Patched(0.0), CLASSES), IMAGES, most=50, seed=4)
    assert 10 < len(set(first.tolist()) & set(other.tolist())) < 50


def test_few_classes_are_all_examined_and_cost_no_pass():
    classifier = describe(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)))
    assert worth_examining(classifier, IMAGES, most=50, seed=0).tolist() == list(range(10))
    assert passes(classifier, most=50) == 0
    assert passes(describe(Patched(0.0), CLASSES), most=50) > 0
