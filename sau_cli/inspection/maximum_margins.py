"""Maximum margins: the largest margin that any image gives each class. Needs no data.

A backdoor makes its target class win by far more than learning does, and an image that shows it can be found by
climbing from noise.

Source: Wang, Xiang, Miller, Kesidis, "MM-BD: Post-Training Detection of Backdoor Attacks with Arbitrary Backdoor
Pattern Types Using a Maximum Margin Statistic", S&P 2024.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from scipy.stats import gamma
from torch import Tensor

from sau_cli.classifier import Classifier
from sau_cli.description import InputSpec
from sau_cli.devices import images_a_pass
from sau_cli.inspection.behaviour_test import BehaviourTest, Finding, Subject
from sau_cli.inspection.class_scores import ClassScores
from sau_cli.inspection.climbing import margins
from sau_cli.settings import Count, Positive


@dataclass(frozen=True, kw_only=True)
class MaximumMargin(BehaviourTest):
    """Climb the margin of each class from images of noise, which a sigmoid keeps within [0, 1].

    Attributes:
        starts: images of noise for each class.
        steps: of Adam up from each.
        rate: its learning rate.
        beginning: deviation of the numbers whose sigmoid an image begins as: near grey.
        at_once: images.
    """

    id = "maximum-margin"
    says = "the largest margin that an image climbed from noise reaches"
    needs_data: ClassVar[bool] = False

    starts: Count = 1
    steps: Count = 40
    rate: Positive = 0.1
    beginning: Positive = 0.5
    at_once: Count = 128

    def passes(self, spec: InputSpec, classes: int) -> float:
        return classes * self.starts * self.steps

    def run(self, subject: Subject) -> Finding:
        classifier, classes = subject.classifier, subject.classes
        spec, device = classifier.description.input, classifier.mean.device
        wanted = classes.repeat_interleave(self.starts)
        shape = (len(wanted), spec.channels, spec.height, spec.width)
        noise = self.beginning * torch.randn(shape, generator=subject.stream("noise"))
        at_once = images_a_pass(noise, self.at_once, device)
        found = [
            self._climbed(classifier, free.to(device), towards.to(device))
            for free, towards in zip(noise.split(at_once), wanted.split(at_once), strict=True)
        ]
        values = torch.cat(found).reshape(len(classes), self.starts).amax(dim=1).cpu()
        return Finding(scores=ClassScores(test=self.id, values=values, unit=max(float(values.abs().median()), 1e-6)))

    def _climbed(self, classifier: Classifier, free: Tensor, classes: Tensor) -> Tensor:
        """The margins (N,) where the climb ends."""
        free = free.clone().requires_grad_(True)
        optimiser = torch.optim.Adam([free], lr=self.rate)
        for _ in range(self.steps):
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
