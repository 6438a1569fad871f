"""Head probing: what the head says of features drawn at random, each as far from 0 as clean images take it.

A backdoor needs a direction in which its target wins over all, and a head that has one names the target for more of
random features than it names any other class.

Source: the statistics of heads of HTell (arXiv 2605.18908) and DFBScanner (arXiv 2605.18907), of which this asks the
head itself.
"""

from __future__ import annotations

import torch

from sau_cli.description import InputSpec
from sau_cli.head import Head
from sau_cli.inspection.behaviour_test import Finding, Subject
from sau_cli.inspection.class_scores import ClassScores

DRAWS = 4096
UNIT = 0.4
"""A large difference between shares."""


class HeadProbing:
    """The test; see :class:`~sau_cli.inspection.behaviour_test.BehaviourTest`."""

    id = "head-probing"
    says = "the share of random features that the head gives it"
    needs_data = True
    needs_head = True

    def passes(self, spec: InputSpec, classes: int) -> float:  # noqa: ARG002 (the head alone is asked)
        return 0.0

    def run(self, subject: Subject) -> Finding:
        return Finding(scores=head_probing(subject.head, subject.classes, subject.stream("random features")))


def head_probing(head: Head, classes: torch.Tensor, stream: torch.Generator) -> ClassScores:
    """The share of random features that each class is given.

    A feature is drawn from a normal law with its deviation over images, and without its sign where none is negative.

    Args:
        classes: (E,) int64, those to examine.
    """
    spread = head.features.std(dim=0)
    drawn = torch.randn(DRAWS, len(spread), generator=stream).to(spread)
    said = head.logits((drawn.abs() if head.rectified else drawn) * spread).argmax(dim=1)
    shares = torch.bincount(said, minlength=len(head.weight)).float().cpu() / DRAWS
    return ClassScores(test=HeadProbing.id, values=shares[classes], unit=UNIT)
