"""Where adversarial examples flow: the classes that images end in when they are pushed away from their own.

Unlearning starts from this: adversarial examples of a backdoored model have much in common with triggered images, and
many of them end in the target class.

Source: Wei et al., "Shared Adversarial Unlearning", NeurIPS 2023, section 3; Mu et al., "Progressive Backdoor Erasing
via Connecting Backdoor and Adversarial Attacks", CVPR 2023.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from sau_cli.classifier import Classifier
from sau_cli.description import InputSpec
from sau_cli.inspection.behaviour_test import Finding, Subject
from sau_cli.inspection.class_scores import ClassScores
from sau_cli.inspection.climbing import in_range

TEST = "adversarial-flow"
STEPS, IMAGES, EPSILON = 4, 64, 0.1


class AdversarialFlow:
    """The test; see :class:`~sau_cli.inspection.behaviour_test.BehaviourTest`."""

    id = TEST
    says = "the share of adversarial examples that end there"
    needs_data = True
    needs_head = False

    def passes(self, spec: InputSpec, classes: int) -> float:  # noqa: ARG002 (one search serves all classes)
        return STEPS * IMAGES

    def run(self, subject: Subject) -> Finding:
        some = slice(IMAGES)
        return Finding(
            scores=adversarial_flow(subject.classifier, subject.images[some], subject.labels[some], subject.classes)
        )


def adversarial_flow(classifier: Classifier, images: Tensor, labels: Tensor, classes: Tensor) -> ClassScores:
    """The share of fooled images that end in each class, after a few signed-gradient steps in an L∞ ball.

    Args:
        classifier: in eval mode and frozen.
        images: (n, C, H, W) float in [0, 1], on the classifier's device, with (n,) labels.
        classes: (E,) int64, those to examine.
    """
    delta = torch.zeros_like(images)
    for _ in range(STEPS):
        delta.requires_grad_(True)
        loss = cross_entropy(classifier(in_range(images + delta)).float(), labels, reduction="sum")
        (slope,) = torch.autograd.grad(loss, delta)
        delta = (delta.detach() + 2 * EPSILON / STEPS * slope.sign()).clamp(-EPSILON, EPSILON)
    with torch.no_grad():
        said = classifier(in_range(images + delta)).argmax(dim=1)
    fooled = said[said != labels]
    counted = torch.bincount(fooled, minlength=classifier.description.classes).float()
    shares = counted / max(1, len(fooled))
    return ClassScores(test=TEST, values=shares[classes.to(shares.device)].cpu(), unit=1.0)
