"""From what the tests found to one score with a known error rate.

The weights and the threshold are in ``calibration.json``, which ``examples/calibration/`` makes from a zoo of clean and
backdoored models.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from math import isfinite

import torch
from torch import Tensor

from sau_cli.inspection.behaviour import Behaviour, SeedEvidence
from sau_cli.inspection.channel_bounds import ChannelBounds
from sau_cli.inspection.class_scores import ClassScores
from sau_cli.results import CheckStatus

CHANNEL_BOUNDS = "channel-bounds"


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """How much each test counts, and from which score on a model is called backdoored.

    Attributes:
        weights: by test, and by ``TEST lead``; at least 0. See :func:`evidence`.
        bias: added to their weighted sum.
        threshold: a score in (0, 1).
        pixels: of the shorter side of images, from and to, that the models take which it was made from and tried on.
        measured: on models that were not calibrated on: counts and rates, for reports.
    """

    weights: Mapping[str, float]
    bias: float
    threshold: float
    pixels: tuple[int, int]
    measured: Mapping[str, float | int | str]

    def covers(self, pixels: int) -> bool:
        """Whether anything is known of models for images with so many pixels on the shorter side."""
        return self.pixels[0] <= pixels <= self.pixels[1]


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """One seed's score, in (0, 1), and the class that it is highest for."""

    score: float
    suspect: int


@dataclass(frozen=True, slots=True, kw_only=True)
class BehaviourVerdict:
    """What the seeds say together.

    Attributes:
        status: ``failed`` if every seed calls the model backdoored, ``passed`` if none does, else ``inconclusive``.
        score: the median over the seeds.
        suspect: the class that most seeds find most suspicious.
    """

    status: CheckStatus
    score: float
    suspect: int
    judgements: tuple[Judgement, ...]
    calibration: Calibration


@cache
def shipped_calibration(*, with_data: bool) -> Calibration:
    """The calibration that ``sau`` comes with, for tests with clean data or for those that need none."""
    text = (files(__package__) / "calibration.json").read_text(encoding="utf-8")
    found: dict[str, Calibration] = {name: Calibration(**one) for name, one in json.loads(text).items()}
    return found["with-data" if with_data else "data-free"]


def evidence(scores: Sequence[ClassScores]) -> dict[str, Tensor]:
    """What speaks for each class in every test; see :attr:`ClassScores.evidence`."""
    return {name: values for one in scores for name, values in one.evidence.items()}


def bounds_evidence(bounds: ChannelBounds | None) -> float:
    """What speaks for a backdoor in any class; 0 where channels were not examined."""
    return 0.0 if bounds is None else float(torch.tensor(bounds.largest).clamp_min(0).log1p())


def judge_seed(
    found: SeedEvidence, classes: Tensor, bounds: ChannelBounds | None, calibration: Calibration
) -> Judgement:
    """The weighted evidence of the class that has most of it."""
    every = evidence([finding.scores for finding in found.findings])
    total = torch.full((len(classes),), calibration.bias)
    for test, values in every.items():
        total += calibration.weights.get(test, 0.0) * values
    total += calibration.weights.get(CHANNEL_BOUNDS, 0.0) * bounds_evidence(bounds)
    at = int(total.argmax())
    return Judgement(score=float(total[at].sigmoid()), suspect=int(classes[at]))


def judge_behaviour(behaviour: Behaviour, calibration: Calibration | None = None) -> BehaviourVerdict:
    """One verdict over all seeds. Seeds that disagree are never a clean bill.

    Args:
        calibration: None for the one that is shipped for these tests.
    """
    by = calibration or shipped_calibration(with_data=behaviour.images > 0)
    judged = tuple(judge_seed(one, behaviour.classes, behaviour.bounds, by) for one in behaviour.seeds)
    over = [one.score >= by.threshold for one in judged]
    status = CheckStatus.INCONCLUSIVE
    if len(set(over)) == 1 and all(isfinite(one.score) for one in judged):
        status = CheckStatus.FAILED if over[0] else CheckStatus.PASSED
    suspects = [one.suspect for one in judged]
    return BehaviourVerdict(
        status=status,
        score=sorted(one.score for one in judged)[len(judged) // 2],
        suspect=max(set(suspects), key=suspects.count),
        judgements=judged,
        calibration=by,
    )
