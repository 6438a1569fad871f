"""Where adversarial examples flow: the classes that images end in when they are pushed away from their own.

Unlearning starts from this: adversarial examples of a backdoored model have much in common with triggered images, and
many of them end in the target class.

Source: Wei et al., "Shared Adversarial Unlearning", NeurIPS 2023, section 3; Mu et al., "Progressive Backdoor Erasing
via Connecting Backdoor and Adversarial Attacks", CVPR 2023.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from sau_cli.classifier import Classifier
from sau_cli.description import InputSpec
from sau_cli.devices import images_a_pass
from sau_cli.inspection.behaviour_test import BehaviourTest, Finding, Subject
from sau_cli.inspection.class_scores import ClassScores
from sau_cli.inspection.climbing import in_range
from sau_cli.settings import Count, Portion


@dataclass(frozen=True, kw_only=True)
class AdversarialFlow(BehaviourTest):
    """The share of fooled images that end in each class, after a few signed-gradient steps in an L∞ ball.

    Attributes:
        epsilon: of the ball, on pixels in 0 to 1.
        images: that are pushed.
    """

    id = "adversarial-flow"
    says = "the share of adversarial examples that end there"

    steps: Count = 4
    images: Count = 64
    epsilon: Portion = 0.1

    def passes(self, spec: InputSpec, classes: int) -> float:
        return self.steps * self.images  # one search serves all classes

    def run(self, subject: Subject) -> Finding:
        images, labels = subject.images[: self.images], subject.labels[: self.images]
        parts = torch.arange(len(images), device=images.device).split(images_a_pass(images, self.images))
        said = torch.cat([self._said(subject.classifier, images[part], labels[part]) for part in parts])
        fooled = said[said != labels]
        counted = torch.bincount(fooled, minlength=subject.classifier.description.classes).float()
        shares = counted / max(1, len(fooled))
        examined = shares[subject.classes.to(shares.device)].cpu()
        return Finding(scores=ClassScores(test=self.id, values=examined, unit=1.0))

    def _said(self, classifier: Classifier, images: Tensor, labels: Tensor) -> Tensor:
        """What is said of images (n, C, H, W) once they are pushed: (n,)."""
        delta = torch.zeros_like(images)
        for _ in range(self.steps):
            delta.requires_grad_(True)
            loss = cross_entropy(classifier(in_range(images + delta)).float(), labels, reduction="sum")
            (slope,) = torch.autograd.grad(loss, delta)
            moved = delta.detach() + 2 * self.epsilon / self.steps * slope.sign()
            delta = moved.clamp(-self.epsilon, self.epsilon)
        with torch.no_grad():
            said: Tensor = classifier(in_range(images + delta)).argmax(dim=1)
        return said
