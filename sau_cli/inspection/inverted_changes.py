"""Inverted changes: how surely the best change of all images that is found for a class leads there.

A backdoored model has a short cut to its target. Where a small change of every image does it for one class and for no
other, that change is near the trigger. Each kind has the same budget for every class: a square in any place, a few
pixels anywhere, a smooth picture over all.

Source: Wang et al., "Neural Cleanse", 2019 (inversion for each class, anomaly index); see :mod:`sau_cli.inversion`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sau_cli.description import InputSpec
from sau_cli.inspection.behaviour_test import Finding, Subject
from sau_cli.inspection.class_scores import ClassScores
from sau_cli.inspection.residual import WIDER
from sau_cli.inversion.changes import Change, ChangeKind, change_of
from sau_cli.inversion.search import Heat, SearchSettings, invert, losses_of

SETTINGS = {
    ChangeKind.SQUARE: SearchSettings(heats=(Heat(arms=1, steps=12, images=8),), proposals=6, judged_on=48),
    ChangeKind.MASK: SearchSettings(heats=(Heat(arms=1, steps=14, images=8),), proposals=8, judged_on=48),
    ChangeKind.SMOOTH: SearchSettings(heats=(Heat(arms=1, steps=14, images=8),), proposals=8, judged_on=48),
}
"""All classes come to the end of the race alike, as they are compared."""


@dataclass(frozen=True)
class InvertedChange:
    """The test of a kind; see :class:`~sau_cli.inspection.behaviour_test.BehaviourTest`."""

    kind: ChangeKind
    says: str
    needs_data = True
    needs_head = False

    @property
    def id(self) -> str:
        return f"inverted-{self.kind.value}"

    def change(self, spec: InputSpec) -> Change:
        return change_of(self.kind, (spec.channels, spec.height, spec.width)).loosened(WIDER)

    def passes(self, spec: InputSpec, classes: int) -> float:
        change, settings = self.change(spec), SETTINGS[self.kind]
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
            settings=SETTINGS[self.kind],
        )
        sure = -losses_of(inverted.likelihood).log()
        with torch.no_grad():
            shown: Tensor = inverted.change.changed(subject.images[:1].expand(len(sure), -1, -1, -1), inverted.free)
        return Finding(
            scores=ClassScores(test=self.id, values=sure.cpu(), unit=1.0),
            changes=(shown - subject.images[:1]).cpu(),
            success=inverted.success.cpu(),
        )
