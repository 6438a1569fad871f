"""One perturbation that sends all images to a class, for each class: the trigger, inverted.

A backdoored model has a short cut to its target. Where a small change of every image does it for one class and for no
other, that change is near the trigger. Two kinds are looked for: a few pixels of any colour, as patches are, and a
smooth pattern over the whole image, as blended pictures, waves and low frequencies are.

Source: Wang et al., "Neural Cleanse", 2019 (inversion for each class, anomaly index); Moosavi-Dezfooli et al.,
"Universal adversarial perturbations", 2017. Here the size of the change is fixed and the margin is compared, which
needs a tenth of the steps.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from sau_cli.classifier import Classifier
from sau_cli.inspection.class_scores import ClassScores
from sau_cli.inspection.climbing import in_range, margins

STEPS, IMAGES = 10, 8
"""Steps of each search, and the images it sees; as many others are what is measured on."""
PIXELS, FEWEST_PIXELS = 0.04, 9
"""Share of the pixels that a patch may change, and their number at the least."""
COARSE, HEIGHT = 4, 0.2
"""A smooth pattern is drawn on so many points a side, and stays within this of the image."""
AT_ONCE = 160


class TriggerKind(StrEnum):
    PATCH = "inverted-patch"
    SMOOTH = "smooth-pattern"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class UniversalTriggers:
    """What was found for each class.

    Attributes:
        scores: the mean margin of the class on images that the search did not see, with the perturbation added.
        changes: (E, C, H, W), the perturbations, in [-1, 1].
        success: (E,) share of unseen images of other classes that go to the class.
    """

    scores: ClassScores
    changes: Tensor
    success: Tensor


def universal_triggers(
    classifier: Classifier, images: Tensor, labels: Tensor, classes: Tensor, kind: TriggerKind, *, unit: float
) -> UniversalTriggers:
    """Search a perturbation for each class, on the first half of the images, and measure it on the second.

    Args:
        classifier: in eval mode and frozen.
        images: (2 n, C, H, W) float in [0, 1], on the classifier's device, with (2 n,) labels.
        classes: (E,) int64, those to examine.
        unit: what a large margin is for this model; see :func:`typical_margin`.
    """
    half = len(images) // 2
    at_once = max(1, AT_ONCE // half)
    parts = [_of(classifier, images, labels, some, kind, half) for some in classes.to(images.device).split(at_once)]
    return UniversalTriggers(
        scores=ClassScores(test=kind.value, values=torch.cat([margin for margin, _, _ in parts]).cpu(), unit=unit),
        changes=torch.cat([change for _, change, _ in parts]).cpu(),
        success=torch.cat([share for _, _, share in parts]).cpu(),
    )


def typical_margin(classifier: Classifier, images: Tensor, labels: Tensor) -> float:
    """The mean size of the margin of the true class, on images as they are; above 0."""
    with torch.no_grad():
        return max(float(margins(classifier(images).float(), labels).abs().mean()), 1e-6)


def _of(
    classifier: Classifier, images: Tensor, labels: Tensor, classes: Tensor, kind: TriggerKind, half: int
) -> tuple[Tensor, Tensor, Tensor]:
    seen, unseen, true = images[:half], images[half:], labels[half:]
    drawn, step = _drawing(kind, images.shape[1:])
    free = drawn.start.to(images).expand(len(classes), *drawn.start.shape).clone()
    for number in range(STEPS):
        free.requires_grad_(True)
        logits = classifier(_changed(seen, drawn.change(free))).float()
        wins = margins(logits, classes.repeat_interleave(len(seen)))
        (slope,) = torch.autograd.grad(wins.sum(), free)
        free = drawn.allowed(free.detach() + step(slope, number))
    change = drawn.change(free)
    with torch.no_grad():
        logits = classifier(_changed(unseen, change)).float()
    wins = margins(logits, classes.repeat_interleave(len(unseen))).reshape(len(classes), -1)
    other = (true[None] != classes[:, None]).float()
    success = ((wins > 0) * other).sum(dim=1) / other.sum(dim=1).clamp_min(1)
    return wins.mean(dim=1), change, success


def _changed(images: Tensor, changes: Tensor) -> Tensor:
    """Every image with every change: (n, C, H, W) and (E, C, H, W) to (E n, C, H, W)."""
    return in_range(images[None] + changes[:, None]).flatten(0, 1)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Drawing:
    """How a kind of change is parametrised: what it starts from, what is allowed, and the change in pixels."""

    start: Tensor
    allowed: Callable[[Tensor], Tensor]
    change: Callable[[Tensor], Tensor]


def _drawing(kind: TriggerKind, shape: torch.Size) -> tuple[_Drawing, Callable[[Tensor, int], Tensor]]:
    channels, height, width = shape
    if kind is TriggerKind.PATCH:
        count = min(max(FEWEST_PIXELS, round(PIXELS * height * width)), height * width)
        drawing = _Drawing(
            start=torch.zeros(shape), allowed=lambda free: _sparse(free.clamp(-1, 1), count), change=lambda free: free
        )
        return (
            drawing,
            lambda slope, _: 0.5 * slope / slope.abs().flatten(1).amax(1).clamp_min(1e-12)[:, None, None, None],
        )
    drawing = _Drawing(
        start=torch.zeros(channels, COARSE, COARSE),
        allowed=lambda free: free.clamp(-HEIGHT, HEIGHT),
        change=lambda free: interpolate(free, size=(height, width), mode="bicubic").clamp(-HEIGHT, HEIGHT),
    )
    return drawing, lambda slope, number: 0.4 * HEIGHT * (1 - number / STEPS) * slope.sign()


def _sparse(changes: Tensor, count: int) -> Tensor:
    """Only the ``count`` pixels that change most: (E, C, H, W) to the same."""
    size = changes.abs().sum(dim=1).flatten(1)
    kept = torch.zeros_like(size).scatter_(1, size.topk(count, dim=1).indices, 1.0)
    return changes * kept.reshape(len(changes), 1, *changes.shape[2:])
