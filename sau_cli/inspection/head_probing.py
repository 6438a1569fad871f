"""Head probing: what the head says of features drawn at random, each as far from 0 as clean images take it.

A backdoor needs a direction in which its target wins over all, and a head that has one names the target for more of
random features than it names any other class.

Source: the statistics of heads of HTell (arXiv 2605.18908) and DFBScanner (arXiv 2605.18907), of which this asks the
head itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from sau_cli.head import Head
from sau_cli.inspection.behaviour_test import BehaviourTest, Finding, Subject
from sau_cli.inspection.class_scores import ClassScores
from sau_cli.settings import Count, Positive


@dataclass(frozen=True, kw_only=True)
class HeadProbing(BehaviourTest):
    """The share of random features that each class is given.

    Attributes:
        unit: a large difference between shares.
    """

    id = "head-probing"
    says = "the share of random features that the head gives it"
    needs_head: ClassVar[bool] = True

    draws: Count = 4096
    unit: Positive = 0.4

    def run(self, subject: Subject) -> Finding:
        shares = self.shares(subject.head, subject.stream("random features"))
        return Finding(scores=ClassScores(test=self.id, values=shares[subject.classes], unit=self.unit))

    def shares(self, head: Head, stream: torch.Generator) -> Tensor:
        """Of every class (K,).

        A feature is drawn from a normal law with its deviation over images, and without its sign where none is
        negative.
        """
        spread = head.features.std(dim=0)
        drawn = torch.randn(self.draws, len(spread), generator=stream).to(spread)
        said = head.logits((drawn.abs() if head.rectified else drawn) * spread).argmax(dim=1)
        return torch.bincount(said, minlength=len(head.weight)).float().cpu() / self.draws
