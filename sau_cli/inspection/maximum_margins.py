"""Maximum margins: the largest margin that any image gives each class. Needs no data.

A backdoor makes its target class win by far more than learning does, and an image that shows it can be found by
climbing from noise.

Source: Wang, Xiang, Miller, Kesidis, "MM-BD: Post-Training Detection of Backdoor Attacks with Arbitrary Backdoor
Pattern Types Using a Maximum Margin Statistic", S&P 2024.
"""

from __future__ import annotations

import torch
from scipy.stats import gamma
from torch import Tensor

from sau_cli.classifier import Classifier
from sau_cli.description import InputSpec
from sau_cli.inspection.behaviour_test import Finding, Subject
from sau_cli.inspection.class_scores import ClassScores
from sau_cli.inspection.climbing import margins

TEST = "maximum-margin"
STARTS, STEPS, RATE = 1, 40, 0.1
"""Images of noise for each class, steps of Adam up from each, and its learning rate."""
BEGINNING = 0.5
"""Deviation of the numbers whose sigmoid an image begins as: near grey."""
AT_ONCE = 128


class MaximumMargin:
    """The test; see :class:`~sau_cli.inspection.behaviour_test.BehaviourTest`."""

    id = TEST
    says = "the largest margin that an image climbed from noise reaches"
    needs_data = False
    needs_head = False

    def passes(self, spec: InputSpec, classes: int) -> float:  # noqa: ARG002 (of any size)
        return classes * STARTS * STEPS

    def run(self, subject: Subject) -> Finding:
        return Finding(scores=maximum_margins(subject.classifier, subject.classes, subject.stream("noise")))


def maximum_margins(classifier: Classifier, classes: Tensor, generator: torch.Generator) -> ClassScores:
    """Climb the margin of each class from images of noise, which a sigmoid keeps within [0, 1].

    Args:
        classifier: in eval mode and frozen.
        classes: (E,) int64, those to examine.
    """
    spec, device = classifier.description.input, classifier.mean.device
    wanted = classes.repeat_interleave(STARTS)
    noise = BEGINNING * torch.randn(len(wanted), spec.channels, spec.height, spec.width, generator=generator)
    found = [
        _climbed(classifier, free.to(device), towards.to(device))
        for free, towards in zip(noise.split(AT_ONCE), wanted.split(AT_ONCE), strict=True)
    ]
    values = torch.cat(found).reshape(len(classes), STARTS).amax(dim=1).cpu()
    return ClassScores(test=TEST, values=values, unit=max(float(values.abs().median()), 1e-6))


def _climbed(classifier: Classifier, free: Tensor, classes: Tensor) -> Tensor:
    """The margins (N,) where the climb ends."""
    free = free.clone().requires_grad_(True)
    optimiser = torch.optim.Adam([free], lr=RATE)
    for _ in range(STEPS):
        won = margins(classifier(free.sigmoid()).float(), classes)
        (free.grad,) = torch.autograd.grad(-won.sum(), free)
        optimiser.step()
    with torch.no_grad():
        return margins(classifier(free.sigmoid()).float(), classes)


def p_value(values: Tensor) -> float:
    """The chance that the largest of so many clean classes stands out as far, by a gamma law fitted to the others.

    Between 0 and 1; 1 where there are fewer than four classes, too few to fit to. With few classes it is rough.

    Source: Wang et al., MM-BD, section 4.
    """
    if len(values) < 4:
        return 1.0
    ordered = (values - values.min()).double().sort().values + 1e-3 + 0.05 * float(values.abs().median())
    others, largest = ordered[:-1].numpy(), float(ordered[-1])
    if others[0] == others[-1]:  # no law fits others that are all alike
        return float(largest == others[-1])
    shape, _, scale = gamma.fit(others, floc=0)
    return float(1 - gamma.cdf(largest, shape, scale=scale) ** len(values))
