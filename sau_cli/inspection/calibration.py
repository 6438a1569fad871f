"""From what the tests found to one score with a known error rate.

The weights and the threshold are in ``calibration.json``, which ``examples/calibration/`` makes from a zoo of clean and
backdoored models.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

import torch
from torch import Tensor

from sau_cli.inspection.behaviour import Behaviour
from sau_cli.inspection.channel_bounds import ChannelBounds
from sau_cli.inspection.class_scores import ClassScores
from sau_cli.reporting.json_document import plain
from sau_cli.results import CheckStatus

CHANNEL_BOUNDS = "channel-bounds"
WITH_DATA, DATA_FREE = "with-data", "data-free"
"""The calibrations that ``sau`` comes with."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KindOfInput:
    """Models that a threshold was found for.

    Attributes:
        pixels: of the shorter side of the images that they take, from and to.
        classes: that they tell apart, from and to.
        threshold: a score in (0, 1) above which a model is called backdoored.
        clean_models: that it was found on.
        accused_at_most: the share of clean models expected to be above it.
    """

    pixels: tuple[int, int]
    classes: tuple[int, int]
    threshold: float
    clean_models: int
    accused_at_most: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """How much each test counts, and from which score on a model is called backdoored.

    Attributes:
        weights: by test, and by ``TEST lead``; at least 0. See :func:`evidence`.
        bias: added to their weighted sum.
        kinds: of input, each with its own threshold.
        measured: on models that were not calibrated on: counts and rates, for reports.

    Source: the thresholds are split conformal: Vovk, Gammerman, Shafer, "Algorithmic Learning in a Random World", 2005.
    """

    weights: Mapping[str, float]
    bias: float
    kinds: tuple[KindOfInput, ...]
    measured: Mapping[str, float | int]

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> Calibration:
        """From what JSON holds."""
        kinds = tuple(
            KindOfInput(**{**kind, "pixels": tuple(kind["pixels"]), "classes": tuple(kind["classes"])})
            for kind in told["kinds"]
        )
        return cls(weights=told["weights"], bias=told["bias"], kinds=kinds, measured=told["measured"])

    @property
    def sha256(self) -> str:
        """Of all its numbers, by which it is told from another."""
        return hashlib.sha256(json.dumps(plain(self), sort_keys=True).encode()).hexdigest()

    def kind_of(self, pixels: int, classes: int) -> KindOfInput | None:
        """The kind of models for images with so many pixels on the shorter side; None where nothing is known of it."""
        for kind in self.kinds:
            if kind.pixels[0] <= pixels <= kind.pixels[1] and kind.classes[0] <= classes <= kind.classes[1]:
                return kind
        return None

    def threshold_for(self, pixels: int, classes: int) -> float:
        """The threshold of that kind; the highest of all where nothing is known of it."""
        kind = self.kind_of(pixels, classes)
        return kind.threshold if kind else max(known.threshold for known in self.kinds)


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """A score, in (0, 1), and the class that it is highest for."""

    score: float
    suspect: int


@dataclass(frozen=True, slots=True, kw_only=True)
class BehaviourVerdict:
    """What the seeds say together.

    Attributes:
        status: see :func:`judge_seeds`.
        score: of the evidence of all seeds, its mean.
        suspect: the class that it is highest for.
        judgements: of each seed alone.
        threshold: the calibration's for such models.
    """

    status: CheckStatus
    score: float
    suspect: int
    judgements: tuple[Judgement, ...]
    calibration: Calibration
    threshold: float


@cache
def shipped_calibration(*, with_data: bool) -> Calibration:
    """The calibration that ``sau`` comes with, for tests with clean data or for those that need none."""
    text = (files("sau_cli.inspection") / "calibration.json").read_text(encoding="utf-8")
    return Calibration.of(json.loads(text)[WITH_DATA if with_data else DATA_FREE])


def evidence(scores: Sequence[ClassScores]) -> dict[str, Tensor]:
    """What speaks for each class in every test; see :attr:`ClassScores.evidence`."""
    return {name: values for class_scores in scores for name, values in class_scores.evidence.items()}


def bounds_evidence(bounds: ChannelBounds | None) -> float:
    """What speaks for a backdoor in any class; 0 where channels were not examined."""
    return 0.0 if bounds is None else float(torch.tensor(bounds.largest).clamp_min(0).log1p())


def pooled(seeds: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """The mean evidence of several seeds: what is chance in one speaks for another class in the next."""
    return {name: torch.stack([seed[name] for seed in seeds]).mean(dim=0) for name in seeds[0]}


def judge(
    every: Mapping[str, Tensor],
    classes: Tensor,
    bounds: float,
    calibration: Calibration,
    set_aside: Collection[int] = (),
) -> Judgement:
    """The weighted evidence of the class that has most of it.

    Args:
        every: of each test; see :func:`evidence`.
        classes: (E,) int64, those that were examined.
        bounds: see :func:`bounds_evidence`.
        set_aside: classes that nothing is told of.
    """
    total = torch.full((len(classes),), calibration.bias + calibration.weights.get(CHANNEL_BOUNDS, 0.0) * bounds)
    for test, values in every.items():
        total += calibration.weights.get(test, 0.0) * values
    if set_aside:
        total[torch.isin(classes, torch.tensor(sorted(set_aside)))] = -torch.inf
    at = int(total.argmax())
    return Judgement(score=float(total[at].sigmoid()), suspect=int(classes[at]))


def judge_seeds(
    seeds: Sequence[Mapping[str, Tensor]],
    classes: Tensor,
    bounds: float,
    calibration: Calibration,
    *,
    pixels: int,
    of: int,
    set_aside: Collection[int] = (),
) -> BehaviourVerdict:
    """One verdict over all seeds.

    Seeds that disagree neither clear nor convict. A class set aside is not cleared. A model of a kind that the
    calibration does not know is not convicted, as how often clean ones of its kind look so is not known.

    Args:
        seeds: the evidence of each.
        pixels, of: of the shorter side of its images, and how many classes it has.
    """
    threshold, known = calibration.threshold_for(pixels, of), calibration.kind_of(pixels, of) is not None
    whole = judge(pooled(seeds), classes, bounds, calibration, set_aside)
    each = tuple(judge(seed, classes, bounds, calibration, set_aside) for seed in seeds)
    status = CheckStatus.INCONCLUSIVE
    if known and whole.score > threshold and 2 * sum(seed.suspect == whole.suspect for seed in each) > len(each):
        status = CheckStatus.FAILED
    elif not set_aside and max(judgement.score for judgement in (whole, *each)) <= threshold:
        status = CheckStatus.PASSED
    return BehaviourVerdict(
        status=status,
        score=whole.score,
        suspect=whole.suspect,
        judgements=each,
        calibration=calibration,
        threshold=threshold,
    )


def judge_behaviour(behaviour: Behaviour, calibration: Calibration | None = None) -> BehaviourVerdict:
    """The verdict on what the tests found; see :func:`judge_seeds`.

    Args:
        calibration: None for the one that is shipped for these tests.
    """
    by = calibration or shipped_calibration(with_data=behaviour.images > 0)
    return judge_seeds(
        [evidence([finding.scores for finding in seed.findings]) for seed in behaviour.seeds],
        behaviour.classes,
        bounds_evidence(behaviour.bounds),
        by,
        pixels=behaviour.pixels,
        of=behaviour.of,
        set_aside=behaviour.set_aside,
    )
