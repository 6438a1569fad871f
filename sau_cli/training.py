"""Train a classifier on images in memory, and what may take part: it sees every batch, and may learn beside it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from sau_cli.augmentation import Augmentation
from sau_cli.classifier import Classifier
from sau_cli.errors import NotEvaluable, UsageError, argument
from sau_cli.images import LabelledImages, as_pixels
from sau_cli.precision import Precision, check_precision, fast_layout, running_in
from sau_cli.resuming import optimiser_tensors, restore_optimiser, with_prefix
from sau_cli.seeding import random_stream, seeded
from sau_cli.settings import LARGEST
from sau_cli.triggers.stamps import Stamp


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TrainingBatch:
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
    def on_batch(self, classifier: Classifier, batch: TrainingBatch) -> TrainingBatch:
        """What is learned from in place of a batch."""

    def stamping(self, before: Stamp) -> Stamp:
        """The stamp once training is over; ``before`` where it has not changed."""
        return before

    def some_free(self, batch: TrainingBatch, count: int) -> Tensor:
        """(B,) bool: so many of the free images, drawn at random."""
        order = torch.randperm(len(batch.free), generator=self.generator).to(batch.free.device)
        chosen = torch.zeros_like(batch.free)
        chosen[order[batch.free[order]][:count]] = True
        return chosen


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


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TrainingState:
    """Training between two epochs: all that changes, whole enough to go on from as if it had never stopped.

    Attributes:
        epochs: those that are done.
        tensors: by name: generators, weights, the optimiser's, and of what takes part.
        rates: learning rate and momentum of the step to come.
    """

    epochs: int
    tensors: Mapping[str, Tensor]
    rates: Mapping[str, float]


def train(
    classifier: Classifier,
    data: LabelledImages,
    settings: TrainingSettings,
    *,
    seed: int,
    free: Tensor | None = None,
    in_training: Sequence[InTraining] = (),
    watch: Callable[[TrainingProgress], None] | None = None,
    save: Callable[[TrainingState], None] | None = None,
    stop: Callable[[], bool] | None = None,
    resume: TrainingState | None = None,
) -> bool:
    """Train in place, on the device that the classifier is on. The last epoch is kept.

    A last batch of a single image is left out: batch norm cannot use it.

    Args:
        free: (N,) bool, the images that what takes part may change; None for all.
        in_training: what takes part, one after another in every batch.
        save: called with the state after every epoch but the last.
        stop: asked after every batch; True ends training there, and what the epoch has learned is not in a state.
        resume: the state to go on from. On a CPU, the end is the same bit for bit as without a stop.

    Returns:
        Whether all epochs were run.

    Raises:
        NotEvaluable: the loss stops being finite.
        UsageError: a precision that the device lacks.
    """
    device = classifier.mean.device
    check_precision(settings.precision, device)
    layout = fast_layout(settings.precision, device)
    classifier.to(memory_format=layout)
    data = data.to(device)
    free = (torch.ones(len(data), dtype=torch.bool) if free is None else free).to(device)
    batches = [part for part in torch.arange(len(data)).split(settings.batch_size) if len(part) > 1]
    if not any(True for _ in classifier.parameters()):
        raise NotEvaluable(f"the network has no parameters to train; choose another {argument('architecture')}")
    optimiser = torch.optim.SGD(
        classifier.parameters(), lr=settings.peak_lr, momentum=0.9, weight_decay=5e-4, nesterov=True
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, max_lr=settings.peak_lr, total_steps=settings.epochs * len(batches) + 1, pct_start=0.3
    )
    optimisers = [optimiser, *(part.optimiser for part in in_training if part.optimiser)]
    streams = {"order": random_stream(seed, "order"), "augmentation": random_stream(seed, "augmentation")}
    classifier.train()
    with seeded(seed, "dropout"):
        if resume is not None:
            _restore(resume, classifier, optimiser, streams, in_training)
            schedule.last_epoch = resume.epochs * len(batches)
        for epoch in range(1 if resume is None else resume.epochs + 1, settings.epochs + 1):
            order = torch.randperm(len(data), generator=streams["order"]).to(device)
            total = 0.0
            for number, batch in enumerate(batches, start=1):
                at = order[batch.to(device)]
                pixels = as_pixels(settings.augmentation(data.images[at], streams["augmentation"]))
                learned = TrainingBatch(pixels=pixels, labels=data.labels[at], free=free[at])
                with running_in(settings.precision, device):
                    loss, extra = _losses(classifier, learned, in_training, layout)
                for each_optimiser in optimisers:
                    each_optimiser.zero_grad(set_to_none=True)
                (loss + extra).backward()
                for each_optimiser in optimisers:
                    each_optimiser.step()
                schedule.step()
                total += loss.item()
                if not torch.isfinite(loss):
                    raise NotEvaluable(
                        f"the training loss became {loss.item()} in epoch {epoch}; try "
                        f"again with a lower {argument('lr')}"
                    )
                if watch:
                    watch(
                        TrainingProgress(
                            epoch=epoch, epochs=settings.epochs, batch=number, batches=len(batches), loss=total / number
                        )
                    )
                if stop and stop() and number < len(batches):
                    return False
            if epoch < settings.epochs:
                if save:
                    save(_state(epoch, classifier, optimiser, streams, in_training))
                if stop and stop():
                    return False
    classifier.eval().to(memory_format=torch.contiguous_format)
    return True


def _losses(
    classifier: Classifier, batch: TrainingBatch, in_training: Sequence[InTraining], layout: torch.memory_format
) -> tuple[Tensor, Tensor | float]:
    """The cross-entropy of a batch, and what is to be added to it."""
    for part in in_training:
        batch = part.on_batch(classifier, batch)
    logits = classifier(batch.pixels.contiguous(memory_format=layout)).float()
    return cross_entropy(logits, batch.labels), 0.0 if batch.extra_loss is None else batch.extra_loss


def _state(
    epochs: int,
    classifier: Classifier,
    optimiser: torch.optim.Optimizer,
    streams: Mapping[str, torch.Generator],
    in_training: Sequence[InTraining],
) -> TrainingState:
    tensors = {f"generator.{name}": stream.get_state() for name, stream in streams.items()}
    tensors["generator.dropout"] = torch.get_rng_state()
    tensors |= {f"weights.{name}": tensor for name, tensor in classifier.network.state_dict().items()}
    tensors |= {f"optimiser.{name}": tensor for name, tensor in optimiser_tensors(optimiser).items()}
    for place, part in enumerate(in_training):
        tensors[f"part{place}.generator"] = part.generator.get_state()
        if part.learner:
            tensors |= {f"part{place}.weights.{name}": tensor for name, tensor in part.learner.state_dict().items()}
        if part.optimiser:
            tensors |= {
                f"part{place}.optimiser.{name}": tensor for name, tensor in optimiser_tensors(part.optimiser).items()
            }
    group = optimiser.param_groups[0]
    return TrainingState(
        epochs=epochs,
        tensors={name: tensor.detach().clone() for name, tensor in tensors.items()},
        rates={"lr": group["lr"], "momentum": group["momentum"]},
    )


def _restore(
    state: TrainingState,
    classifier: Classifier,
    optimiser: torch.optim.Optimizer,
    streams: Mapping[str, torch.Generator],
    in_training: Sequence[InTraining],
) -> None:
    for name, stream in streams.items():
        stream.set_state(state.tensors[f"generator.{name}"])
    torch.set_rng_state(state.tensors["generator.dropout"])
    classifier.network.load_state_dict(with_prefix(state.tensors, "weights."))
    restore_optimiser(optimiser, with_prefix(state.tensors, "optimiser."))
    for group in optimiser.param_groups:
        group.update(state.rates)
    for place, part in enumerate(in_training):
        part.generator.set_state(state.tensors[f"part{place}.generator"])
        if part.learner:
            part.learner.load_state_dict(with_prefix(state.tensors, f"part{place}.weights."))
        if part.optimiser:
            restore_optimiser(part.optimiser, with_prefix(state.tensors, f"part{place}.optimiser."))
