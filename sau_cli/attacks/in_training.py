"""What takes part while a classifier learns: it sees every batch, and may learn beside the classifier."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from sau_cli.attacks.stamps import Stamp
from sau_cli.attacks.triggers import Trigger
from sau_cli.classifier import Classifier
from sau_cli.model_state import evaluating, frozen


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Batch:
    """A batch in training.

    Attributes:
        pixels: (B, C, H, W) float in [0, 1], after augmentation, with (B,) labels.
        free: (B,) bool, images that no attack has changed.
        extra_loss: added to the cross-entropy, () float.
    """

    pixels: Tensor
    labels: Tensor
    free: Tensor
    extra_loss: Tensor | None = None


class InTraining(ABC):
    """The part of an attack that is there while the classifier learns.

    Attributes:
        learner: what is learned beside the classifier, with its optimiser; both go into the state of the run.
        generator: random numbers, part of that state too.
    """

    learner: nn.Module | None = None
    optimiser: torch.optim.Optimizer | None = None

    def __init__(self, generator: torch.Generator) -> None:
        self.generator = generator

    @abstractmethod
    def on_batch(self, classifier: Classifier, batch: Batch) -> Batch:
        """What is learned from in place of a batch."""

    def stamping(self, before: Stamp) -> Stamp:
        """The stamp once training is over; ``before`` where it has not changed."""
        return before

    def some_free(self, batch: Batch, count: int) -> Tensor:
        """(B,) bool: so many of the free images, drawn at random."""
        order = torch.randperm(len(batch.free), generator=self.generator).to(batch.free.device)
        chosen = torch.zeros_like(batch.free)
        chosen[order[batch.free[order]][:count]] = True
        return chosen


class AdversarialTraining(InTraining):
    """Half of each batch is perturbed by one signed-gradient step against the model as it stands, label kept.

    Source: Wong, Rice, Kolter, "Fast is better than free: Revisiting adversarial training", 2020.
    """

    def __init__(self, epsilon: float, generator: torch.Generator, share: float = 0.5) -> None:
        super().__init__(generator)
        self.epsilon, self.share = epsilon, share

    def on_batch(self, classifier: Classifier, batch: Batch) -> Batch:
        chosen = self.some_free(batch, round(self.share * len(batch.pixels)))
        clean = batch.pixels[chosen]
        noise = torch.rand(clean.shape, generator=self.generator).to(clean.device)
        start = (2 * noise - 1) * self.epsilon
        with evaluating(classifier), frozen(classifier):
            delta = start.clone().requires_grad_(True)
            loss = cross_entropy(classifier(clean + delta).float(), batch.labels[chosen], reduction="sum")
            (slope,) = torch.autograd.grad(loss, delta)
        delta = (start + 1.25 * self.epsilon * slope.sign()).clamp(-self.epsilon, self.epsilon)
        pixels = batch.pixels.clone()
        pixels[chosen] = (clean + delta).clamp(0, 1)
        return replace(batch, pixels=pixels)


class StampedBatches(InTraining):
    """A share of every batch is stamped and relabelled, drawn anew, and another share are decoys with their label.

    Args:
        decoys: (n, C, H, W) float pixels that look stamped to (the same); they must not be.
    """

    def __init__(
        self,
        generator: torch.Generator,
        trigger: Trigger,
        *,
        rate: float,
        decoy_rate: float = 0.0,
        decoys: Callable[[Tensor], Tensor] = lambda pixels: pixels,
    ) -> None:
        super().__init__(generator)
        self.trigger, self.rate, self.decoy_rate, self.decoys = trigger, rate, decoy_rate, decoys

    def on_batch(self, classifier: Classifier, batch: Batch) -> Batch:
        classes = classifier.description.classes
        stamped = self.some_free(batch, round(self.rate * len(batch.pixels)))
        left = replace(batch, free=batch.free & ~stamped)
        decoys = self.some_free(left, round(self.decoy_rate * len(batch.pixels)))
        pixels, labels = batch.pixels.clone(), batch.labels.clone()
        pixels[stamped] = self.trigger.stamp_pixels(pixels[stamped])
        labels[stamped] = self.trigger.rule.targets(labels[stamped], classes)
        if bool(decoys.any()):
            pixels[decoys] = self.decoys(pixels[decoys]).clamp(0, 1).mul(255).round().div(255)
        return Batch(pixels=pixels, labels=labels, free=left.free & ~decoys, extra_loss=batch.extra_loss)
