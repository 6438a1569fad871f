"""The parts of attacks that are there while a classifier learns."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from sau_cli.classifier import Classifier
from sau_cli.model_state import evaluating, frozen
from sau_cli.training import InTraining, TrainingBatch
from sau_cli.triggers.trigger import Trigger


class AdversarialTraining(InTraining):
    """Half of each batch is perturbed by one signed-gradient step against the model as it stands, label kept.

    Source: Wong, Rice, Kolter, "Fast is better than free: Revisiting adversarial training", 2020.
    """

    def __init__(self, epsilon: float, generator: torch.Generator, share: float = 0.5) -> None:
        super().__init__(generator)
        self.epsilon, self.share = epsilon, share

    def on_batch(self, classifier: Classifier, batch: TrainingBatch) -> TrainingBatch:
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

    def on_batch(self, classifier: Classifier, batch: TrainingBatch) -> TrainingBatch:
        classes = classifier.description.classes
        stamped = self.some_free(batch, round(self.rate * len(batch.pixels)))
        left = replace(batch, free=batch.free & ~stamped)
        decoys = self.some_free(left, round(self.decoy_rate * len(batch.pixels)))
        pixels, labels = batch.pixels.clone(), batch.labels.clone()
        pixels[stamped] = self.trigger.stamp_pixels(pixels[stamped])
        labels[stamped] = self.trigger.rule.targets(labels[stamped], classes)
        if bool(decoys.any()):
            pixels[decoys] = self.decoys(pixels[decoys]).clamp(0, 1).mul(255).round().div(255)
        return TrainingBatch(pixels=pixels, labels=labels, free=left.free & ~decoys, extra_loss=batch.extra_loss)
