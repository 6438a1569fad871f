"""One perturbation that sends all images to a class, for each class: the trigger, inverted.

A backdoored model has a short cut to its target. Where a small change of every image does it for one class and for no
other, that change is near the trigger. Two kinds are looked for: a small square of any colours anywhere, and a smooth
pattern over the whole image, as blended pictures, waves and low frequencies are.

Source: Wang et al., "Neural Cleanse", 2019 (inversion for each class, anomaly index); Moosavi-Dezfooli et al.,
"Universal adversarial perturbations", 2017. Here the size of the change is fixed and the margin is compared, which
needs a tenth of the steps.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import assert_never

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate

from sau_cli.classifier import Classifier
from sau_cli.inspection.behaviour_test import Finding, Subject
from sau_cli.inspection.class_scores import ClassScores
from sau_cli.inspection.climbing import in_range, margins

STEPS, IMAGES = 10, 8
"""Steps of each search, and the images it sees; as many others are what is measured on."""
SIDE, SMALLEST = 0.15, 3
"""Of the square that a patch may fill: share of the image's shorter side, and pixels at the least."""
ANYWHERE = 2
"""The first steps, in which a patch may still go anywhere."""
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


@dataclass(frozen=True)
class InvertedTrigger:
    """The test of a kind; see :class:`~sau_cli.inspection.behaviour_test.BehaviourTest`."""

    kind: TriggerKind
    needs_data = True

    @property
    def id(self) -> str:
        return self.kind.value

    @property
    def says(self) -> str:
        match self.kind:
            case TriggerKind.PATCH:
                return "how well a patch on any image leads there"
            case TriggerKind.SMOOTH:
                return "how well a smooth pattern over any image leads there"
            case _ as never:
                assert_never(never)

    def passes(self, classes: int) -> int:
        return classes * STEPS * IMAGES

    def run(self, subject: Subject) -> Finding:
        some = slice(2 * IMAGES)
        found = universal_triggers(
            subject.classifier,
            subject.images[some],
            subject.labels[some],
            subject.classes,
            self.kind,
            unit=subject.unit,
        )
        return Finding(scores=found.scores, changes=found.changes, success=found.success)


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
    drawn = _drawing(kind, images.shape[1:])
    free = drawn.start.to(images).expand(len(classes), *drawn.start.shape).clone()
    for number in range(STEPS):
        free.requires_grad_(True)
        logits = classifier(_changed(seen, drawn.change(free))).float()
        wins = margins(logits, classes.repeat_interleave(len(seen)))
        (slope,) = torch.autograd.grad(wins.sum(), free)
        free = drawn.allowed(free.detach() + drawn.step(slope, number), number)
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
    """How a kind of change is parametrised.

    Attributes:
        start: of one class's parameters.
        step: the change of parameters along a slope (E, ...), in the step of this number.
        allowed: parameters brought back to what is allowed after that step.
        change: the change of pixels (E, C, H, W) that parameters mean.
    """

    start: Tensor
    step: Callable[[Tensor, int], Tensor]
    allowed: Callable[[Tensor, int], Tensor]
    change: Callable[[Tensor], Tensor]


def _drawing(kind: TriggerKind, shape: torch.Size) -> _Drawing:
    channels, height, width = shape
    if kind is TriggerKind.PATCH:
        side = min(max(SMALLEST, round(SIDE * min(height, width))), height, width)

        def patch(free: Tensor, number: int) -> Tensor:
            within = free.clamp(-1, 1)
            return within if number < ANYWHERE else _within_square(within, side)

        return _Drawing(
            start=torch.zeros(shape),
            step=lambda slope, _: 0.5 * slope / slope.abs().flatten(1).amax(1).clamp_min(1e-12)[:, None, None, None],
            allowed=patch,
            change=lambda free: free,
        )
    return _Drawing(
        start=torch.zeros(channels, COARSE, COARSE),
        step=lambda slope, number: 0.4 * HEIGHT * (1 - number / STEPS) * slope.sign(),
        allowed=lambda free, _: free.clamp(-HEIGHT, HEIGHT),
        change=lambda free: interpolate(free, size=(height, width), mode="bicubic").clamp(-HEIGHT, HEIGHT),
    )


def _within_square(changes: Tensor, side: int) -> Tensor:
    """Only what lies in the square of each (E, C, H, W) that changes most."""
    size = avg_pool2d(changes.abs().sum(dim=1, keepdim=True), side, stride=1)
    at = size.flatten(1).argmax(dim=1)
    rows, columns = at // size.shape[3], at % size.shape[3]
    height, width = (torch.arange(extent, device=changes.device) for extent in changes.shape[2:])
    inside_rows = (height >= rows[:, None]) & (height < rows[:, None] + side)
    inside_columns = (width >= columns[:, None]) & (width < columns[:, None] + side)
    return changes * (inside_rows[:, None, :, None] & inside_columns[:, None, None, :])
