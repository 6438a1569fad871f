"""Whether a backdoor is asleep and not gone: a small perturbation of triggered images that brings it back.

Source: Zhu, Liang, Wu, "Breaking the False Sense of Security in Backdoor Defense through Re-Activation Attack",
NeurIPS 2024, arXiv 2405.16134; their universal perturbation, with the weights at hand.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import cos, pi

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from sau_cli.classifier import Classifier
from sau_cli.errors import NotEvaluable
from sau_cli.evaluation.metrics import rate
from sau_cli.images import LabelledImages, as_pixels
from sau_cli.model_state import evaluating, frozen
from sau_cli.predictions import predicted_labels
from sau_cli.results import Measure
from sau_cli.seeding import random_stream
from sau_cli.triggers.trigger import Trigger

EPSILON = 0.05
"""The most that a pixel in [0, 1] is changed by."""
REACTIVATION_STEPS, REACTIVATION_BATCH, FIRST_STEP = 200, 128, 0.1
"""Signed-gradient steps, images a step, and the first step's length over ε; it falls to nothing as a cosine."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reactivation:
    """Shares sent to the target among images that the perturbations were not made on.

    Attributes:
        asr: triggered images; ``reactivated``: under the perturbation that was made for such.
        untouched: the same images without trigger; ``control``: under a perturbation made for them.
    """

    trigger: str
    epsilon: float
    asr: Measure
    reactivated: Measure
    untouched: Measure
    control: Measure


def reactivate(
    classifier: Classifier,
    made_on: LabelledImages,
    measured_on: LabelledImages,
    trigger: Trigger,
    *,
    epsilon: float = EPSILON,
    seed: int,
) -> Reactivation:
    """Search one perturbation that sends triggered images to the target, and one that does so without the trigger.

    Any classifier can be fooled by such perturbations. What is left of a backdoor is what they do to triggered
    images beyond what they do to others.

    Args:
        made_on: images to search on, none of which is among ``measured_on``.
    """
    rates = {}
    for name in ("triggered", "plain"):
        found = []
        delta = None
        for part in (made_on, measured_on):
            counted = trigger.rule.counted(part.labels)
            targets = trigger.rule.targets(part.labels, part.classes)[counted]
            images = trigger.stamp(part.images[counted]) if name == "triggered" else part.images[counted]
            if delta is None:
                delta = universal_perturbation(classifier, images, targets, epsilon=epsilon, seed=seed)
                continue
            for shown in (images, perturbed(images, delta)):
                hits = predicted_labels(classifier, shown).cpu() == targets
                found.append(rate(int(hits.sum()), len(hits)))
        rates[name] = found
    (asr, reactivated), (untouched, control) = rates["triggered"], rates["plain"]
    return Reactivation(
        trigger=trigger.name,
        epsilon=epsilon,
        asr=asr,
        reactivated=reactivated,
        untouched=untouched,
        control=control,
    )


def universal_perturbation(
    classifier: Classifier, images: Tensor, targets: Tensor, *, epsilon: float, seed: int
) -> Tensor:
    """One δ, ‖δ‖∞ ≤ ε, that lowers the mean cross-entropy with the targets over all images.

    Args:
        images: (N, C, H, W) uint8, with (N,) targets; random batches of them are taken.

    Returns:
        (1, C, H, W) float on the CPU, in whole steps of an 8-bit pixel.

    Raises:
        NotEvaluable: there is no image.
    """
    if len(images) == 0:
        raise NotEvaluable(
            "half of the test images has none that the trigger counts for, so no perturbation could be made on it; "
            "give data with more images of other classes than the target"
        )
    device, stream = classifier.mean.device, random_stream(seed, "re-activation")
    delta = torch.zeros(1, *images.shape[1:], device=device)
    with evaluating(classifier), frozen(classifier):
        for number in range(REACTIVATION_STEPS):
            at = torch.randperm(len(images), generator=stream)[:REACTIVATION_BATCH]
            pixels = as_pixels(images[at].to(device))
            delta.requires_grad_(True)
            loss = cross_entropy(classifier((pixels + delta).clamp(0, 1)), targets[at].to(device))
            (slope,) = torch.autograd.grad(loss, delta)
            length = epsilon * FIRST_STEP * (1 + cos(pi * number / REACTIVATION_STEPS)) / 2
            delta = (delta.detach() - length * slope.sign()).clamp(-epsilon, epsilon)
    return (delta.cpu() * 255).trunc() / 255


def perturbed(images: Tensor, delta: Tensor) -> Tensor:
    """Images (N, C, H, W) uint8 with δ added, as they would be stored: no pixel moves by more than δ says."""
    return (as_pixels(images) + delta).clamp(0, 1).mul(255).round().to(torch.uint8)
