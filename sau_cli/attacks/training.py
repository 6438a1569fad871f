"""Train a classifier on images in memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch.nn.functional import cross_entropy

from sau_cli.augmentation import Augmentation
from sau_cli.classifier import Classifier
from sau_cli.errors import NotEvaluable, UsageError
from sau_cli.images import LabelledImages, as_pixels
from sau_cli.precision import Precision, check_precision, fast_layout, running_in
from sau_cli.seeding import random_stream, seeded

LARGEST = 10_000_000
"""No count, size or rate of training is as large."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingSettings:
    """SGD with momentum 0.9 and weight decay 5e-4 under a one-cycle schedule.

    Attributes:
        peak_lr: the highest learning rate of the cycle.
        augmentation: how the images are varied.
        precision: of the forward and backward passes.
    """

    epochs: int
    peak_lr: float
    batch_size: int = 128
    augmentation: Augmentation = field(default_factory=Augmentation)
    precision: Precision = Precision.FP32

    def __post_init__(self) -> None:
        if not (0 < self.epochs < LARGEST and 1 < self.batch_size < LARGEST and 0 < self.peak_lr < LARGEST):
            raise UsageError(
                f"{self.epochs} epochs at batch size {self.batch_size} and learning rate {self.peak_lr:g} "
                "cannot train; give at least 1 epoch, a batch of 2 and a rate above 0"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingProgress:
    """Where training stands after a batch; ``loss`` is the mean of the epoch so far."""

    epoch: int
    epochs: int
    batch: int
    batches: int
    loss: float


def train(
    classifier: Classifier,
    data: LabelledImages,
    settings: TrainingSettings,
    *,
    seed: int,
    watch: Callable[[TrainingProgress], None] | None = None,
) -> None:
    """Train in place, on the device that the classifier is on. The last epoch is kept.

    A last batch of a single image is left out: batch norm cannot use it.

    Raises:
        NotEvaluable: the loss stops being finite.
        UsageError: a precision that the device lacks.
    """
    device = classifier.mean.device
    check_precision(settings.precision, device)
    layout = fast_layout(settings.precision, device)
    classifier.to(memory_format=layout)
    data = data.to(device)
    batches = [part for part in torch.arange(len(data)).split(settings.batch_size) if len(part) > 1]
    if not any(True for _ in classifier.parameters()):
        raise NotEvaluable("the network has no parameters to train; choose another --arch")
    optimiser = torch.optim.SGD(
        classifier.parameters(), lr=settings.peak_lr, momentum=0.9, weight_decay=5e-4, nesterov=True
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, max_lr=settings.peak_lr, total_steps=settings.epochs * len(batches) + 1, pct_start=0.3
    )
    order_stream, augmentation_stream = random_stream(seed, "order"), random_stream(seed, "augmentation")
    classifier.train()
    with seeded(seed, "dropout"):
        for epoch in range(1, settings.epochs + 1):
            order = torch.randperm(len(data), generator=order_stream).to(device)
            total = 0.0
            for number, batch in enumerate(batches, start=1):
                at = order[batch.to(device)]
                pixels = as_pixels(settings.augmentation(data.images[at], augmentation_stream))
                with running_in(settings.precision, device):
                    logits = classifier(pixels.contiguous(memory_format=layout)).float()
                loss = cross_entropy(logits, data.labels[at])
                optimiser.zero_grad(set_to_none=True)
                loss.backward()
                optimiser.step()
                schedule.step()
                total += loss.item()
                if not torch.isfinite(loss):
                    raise NotEvaluable(
                        f"the training loss became {loss.item()} in epoch {epoch}; try again with a lower --lr"
                    )
                if watch:
                    watch(
                        TrainingProgress(
                            epoch=epoch, epochs=settings.epochs, batch=number, batches=len(batches), loss=total / number
                        )
                    )
    classifier.eval().to(memory_format=torch.contiguous_format)
