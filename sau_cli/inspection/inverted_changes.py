"""Inverted changes: how surely the best change of all images that is found for a class leads there.

A backdoored model has a short cut to its target. Where a small change of every image does it for one class and for no
other, that change is near the trigger. Each kind has the same budget for every class: a square in any place, a few
pixels anywhere, a smooth picture over all.

Source: Wang et al., "Neural Cleanse", 2019 (inversion for each class, anomaly index); see :mod:`sau_cli.inversion`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from sau_cli.description import InputSpec
from sau_cli.inspection.behaviour_test import BehaviourTest, Finding, Subject
from sau_cli.inspection.class_scores import ClassScores
from sau_cli.inspection.residual import WIDER
from sau_cli.inversion.changes import Change, ChangeKind, change_of
from sau_cli.inversion.search import Heat, SearchSettings, invert, losses_of


def one_heat(*, steps: int, proposals: int) -> SearchSettings:
    """A race of one heat, with one arm for each class: all come to its end alike, as they are compared."""
    return SearchSettings(heats=(Heat(arms=1, steps=steps, images=8),), proposals=proposals, judged_on=48)


SEARCH, SEARCH_OF_SQUARES = one_heat(steps=14, proposals=8), one_heat(steps=12, proposals=6)


@dataclass(frozen=True, kw_only=True)
class InvertedChange(BehaviourTest):
    """The tests of a kind of change."""

    kind: ClassVar[ChangeKind]

    search: SearchSettings = SEARCH

    def change(self, spec: InputSpec) -> Change:
        return change_of(self.kind, (spec.channels, spec.height, spec.width)).loosened(WIDER)

    def passes(self, spec: InputSpec, classes: int) -> float:
        change, settings = self.change(spec), self.search
        looked_at = change.starts * settings.proposals * settings.heats[0].images
        return settings.passes(change, classes) + looked_at / 2

    def run(self, subject: Subject) -> Finding:
        inverted = invert(
            [subject.classifier],
            subject.images,
            subject.labels,
            subject.classes,
            self.change(subject.classifier.description.input),
            stream=subject.stream(f"inverted {self.kind.value}"),
            settings=self.search,
        )
        sure = -losses_of(inverted.likelihood).log()
        with torch.no_grad():
            shown: Tensor = inverted.change.changed(subject.images[:1].expand(len(sure), -1, -1, -1), inverted.free)
        return Finding(
            scores=ClassScores(test=self.id, values=sure.cpu(), unit=1.0),
            changes=(shown - subject.images[:1]).cpu(),
            success=inverted.success.cpu(),
        )


@dataclass(frozen=True, kw_only=True)
class InvertedSquare(InvertedChange):
    """A square in any place."""

    id = "inverted-square"
    says = "how surely a square on any image leads there"
    kind = ChangeKind.SQUARE

    search: SearchSettings = SEARCH_OF_SQUARES


@dataclass(frozen=True, kw_only=True)
class InvertedMask(InvertedChange):
    """A few pixels anywhere."""

    id = "inverted-mask"
    says = "how surely a few pixels of any image lead there"
    kind = ChangeKind.MASK


@dataclass(frozen=True, kw_only=True)
class InvertedSmooth(InvertedChange):
    """A smooth picture over all."""

    id = "inverted-smooth"
    says = "how surely a smooth picture added to any image leads there"
    kind = ChangeKind.SMOOTH
