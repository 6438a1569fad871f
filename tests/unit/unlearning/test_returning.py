"""How far the end of a run may go back to the received weights, on a short cut whose strength is a weight."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from sau_cli.precision import Precision
from sau_cli.unlearning.returning import TRIES, bring_back
from tests.unit.inversion.short_cuts import CLASSES, WANTED, ShortCut, classifier_of, images

DATA = images()


class Weighted(ShortCut):
    """A short cut of the strength of a parameter: alone, a bright place is worth 24 times that to the logit."""

    def __init__(self, strength: float) -> None:
        super().__init__(leak=0.02)
        self.strength = nn.Parameter(torch.tensor(strength))

    def forward(self, x: Tensor) -> Tensor:
        push = torch.zeros(len(x), CLASSES)
        push[:, self.wanted] = 40
        seen = nn.functional.leaky_relu(self.seen(x) - 0.4, self.leak)[:, None]
        return super(ShortCut, self).forward(x) + self.strength * push * seen


def returned(received: float, purified: float, *, most: float = 0.3, slack: float = 0.1):
    ends = [classifier_of(Weighted(strength)) for strength in (received, purified)]
    told = []
    share = bring_back(
        ends[1],
        ends[0],
        [WANTED],
        DATA,
        most=most,
        slack=slack,
        seed=0,
        precision=Precision.FP32,
        tell=lambda how_far: told.append((how_far.kind, how_far.done, how_far.of)),
    )
    return share, ends[1].network.strength.item(), told


def test_where_no_trigger_comes_back_it_goes_all_the_way_that_it_may():
    """At 0.3 of the way the short cut has a strength of 0.015, which is nothing beside 1.6 between clean logits."""
    share, strength, told = returned(received=0.05, purified=0.0)
    assert share == pytest.approx(0.3)
    assert strength == pytest.approx(0.015)
    assert told[-1][1] == told[-1][2]
    assert [done for _, done, _ in told] == sorted(done for _, done, _ in told)


def test_where_a_trigger_comes_back_it_stops_before():
    """A tenth of the way gives the short cut a strength of 0.1: a bright place is worth 2.4 then."""
    share, strength, told = returned(received=1.0, purified=0.0)
    assert share == 0.0
    assert strength == 0.0
    assert told[-1][1] == told[-1][2] * 2 / (1 + TRIES)


def test_counts_are_the_purified_model_s():
    ends = [classifier_of(nn.Sequential(nn.BatchNorm2d(1), ShortCut(leak=0.02))) for _ in range(2)]
    ends[0].network[0].num_batches_tracked.fill_(7)
    ends[0].network[0].running_mean.fill_(1e-3)
    share = bring_back(
        ends[1],
        ends[0],
        [WANTED],
        DATA,
        most=0.3,
        slack=1.0,
        seed=0,
        precision=Precision.FP32,
        tell=lambda _how_far: None,
    )
    assert share == pytest.approx(0.3)
    assert int(ends[1].network[0].num_batches_tracked) == 0
    assert float(ends[1].network[0].running_mean) == pytest.approx(0.3e-3)
