"""Feature shifts: how far one shift of all features, of a length that is the same for every class, leads to it.

A trigger moves the features of any image along one direction, to where the head knows nothing but the target. The shift
is searched behind the network, so that a thousand classes cost no more than a few passes.

Source: TAC (arXiv 2511.08944), where the least change of features that sends clean images to a class is what tells.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from sau_cli.head import Head
from sau_cli.inspection.behaviour_test import BehaviourTest, Finding, Subject
from sau_cli.inspection.class_scores import ClassScores
from sau_cli.inspection.climbing import margins
from sau_cli.inspection.standard_logits import TYPICAL
from sau_cli.settings import Count, Positive


@dataclass(frozen=True, kw_only=True)
class FeatureShiftTest(BehaviourTest):
    """The mean margin of each class over images of others, with the best shift that was found for it.

    Attributes:
        length: of a shift, in deviations of each feature.
        step: in lengths.
        at_once: classes.
    """

    id = "feature-shift"
    says = "how far one shift of all features leads there"
    needs_head: ClassVar[bool] = True

    steps: Count = 30
    length: Positive = 0.5
    step: Positive = 0.2
    at_once: Count = 32

    def run(self, subject: Subject) -> Finding:
        parts = [self.margins(subject.head, subject.labels, some) for some in subject.classes.split(self.at_once)]
        return Finding(scores=ClassScores(test=self.id, values=torch.cat(parts), unit=TYPICAL))

    def margins(self, head: Head, labels: Tensor, classes: Tensor) -> Tensor:
        """Of each class (E,).

        Args:
            labels: (N,) int64, of the images whose features these are.
            classes: (E,) int64, those to examine.
        """
        spread = head.features.std(dim=0)
        alive = spread > 1e-3 * spread.max()
        length = self.length * float(alive.sum()) ** 0.5
        wanted = classes.to(labels.device)
        other = (labels[None] != wanted[:, None]).float()  # (E, N)
        counted = other.sum(dim=1).clamp_min(1)
        shift = torch.zeros(len(wanted), len(spread), device=spread.device)
        said = wanted[:, None].expand(-1, len(labels)).flatten()

        def logits() -> Tensor:
            moved = head.features[None] + (shift * spread)[:, None]
            return head.logits(moved.clamp_min(0) if head.rectified else moved).flatten(0, 1)

        for _ in range(self.steps):
            shift.requires_grad_(True)
            losses = cross_entropy(logits(), said, reduction="none").reshape(other.shape)
            (slope,) = torch.autograd.grad(((losses * other).sum(dim=1) / counted).sum(), shift)
            slope = slope / slope.norm(dim=1, keepdim=True).clamp_min(1e-12)
            moved = shift.detach() - self.step * length * slope
            shift = moved * (length / moved.norm(dim=1, keepdim=True).clamp_min(1e-12)).clamp_max(1)
        won = margins(logits(), said).reshape(other.shape)
        return ((won * other).sum(dim=1) / counted).detach().cpu()
