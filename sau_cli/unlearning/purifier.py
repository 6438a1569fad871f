"""Shared Adversarial Unlearning: the outer problem.

Source: Wei, Zhang, Zha, Wu, "Shared Adversarial Unlearning: Backdoor Mitigation by Unlearning
Shared Adversarial Examples", NeurIPS 2023, arXiv 2307.10562.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from math import isfinite

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from sau_cli.classifier import Classifier, check_finite_weights
from sau_cli.errors import NotEvaluable
from sau_cli.evaluation.predictions import predicted_labels
from sau_cli.images import CleanData, LabelledImages, as_pixels, check_fits
from sau_cli.model_state import evaluating, frozen
from sau_cli.seeding import random_stream
from sau_cli.unlearning.recipes import Recipe
from sau_cli.unlearning.shared_examples import find_shared_examples


@dataclass(frozen=True, slots=True, kw_only=True)
class Epoch:
    """What one epoch did.

    Attributes:
        clean_loss, unlearning_loss: L_cl and L_sar, means over the images.
        shared: images whose perturbation fooled both models to the same wrong label, before each step.
        images: images seen.
        held_back_accuracy: on clean images that are never learned from, after the epoch.
        seconds: wall time.
    """

    number: int
    clean_loss: float
    unlearning_loss: float
    shared: int
    images: int
    held_back_accuracy: float
    seconds: float

    @property
    def shared_share(self) -> float:
        return self.shared / self.images


@dataclass(frozen=True, slots=True, kw_only=True)
class PurifyProgress:
    """Where purification stands after a batch: the epoch so far, and the last accuracy measured."""

    epoch: int
    epochs: int
    batch: int
    batches: int
    clean_loss: float
    unlearning_loss: float
    shared_share: float
    held_back_accuracy: float


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Purification:
    """The purified classifier and how it came about."""

    classifier: Classifier
    recipe: Recipe
    epochs: tuple[Epoch, ...]
    held_back_accuracy_before: float
    learned_from: int
    held_back: int

    @property
    def held_back_accuracy(self) -> float:
        return self.epochs[-1].held_back_accuracy


def unlearning_loss(logits: Tensor, received_labels: Tensor) -> Tensor:
    """L_sar of each sample: push the model off the label that the received model gives; (N, K), (N,) to (N,).

    The mean of -log(1e-6 + min(1 - p, 0.999)) and -log(1 + 1e-6 - max(p, 0.001)) with p the
    probability of that label; it has no gradient once p < 0.001.

    Source: the authors' released code, for -log(1 - p) of Wei et al.
    """
    p = logits.softmax(dim=1).gather(1, received_labels[:, None]).squeeze(1)
    capped = -(1e-6 + (1 - p).clamp(max=0.999)).log()
    floored = -(1 + 1e-6 - p.clamp(min=0.001)).log()
    return (capped + floored) / 2


@dataclass(slots=True)
class _Step:
    clean_loss: float
    unlearning_loss: float
    shared: int


def _outer_step(
    purified: Classifier,
    received: Classifier,
    optimiser: torch.optim.Optimizer,
    images: Tensor,
    labels: Tensor,
    received_labels: Tensor,
    recipe: Recipe,
) -> _Step:
    """One step of the outer problem on one batch.

    The gradient of the clean loss is taken before the search for δ, so that one forward pass serves
    both and no more than one graph is alive at a time.
    """
    optimiser.zero_grad(set_to_none=True)
    clean_logits = purified(images)
    clean_loss = cross_entropy(clean_logits, labels)
    (recipe.clean_weight * clean_loss).backward()
    purified_labels = clean_logits.detach().argmax(dim=1)
    with frozen(purified):
        found = find_shared_examples(
            purified,
            received,
            images,
            labels,
            purified_labels=purified_labels,
            received_labels=received_labels,
            recipe=recipe,
        )
    wrong = (found.received_labels != labels) & (found.received_labels != received_labels)
    loss, shared = 0.0, 0
    if wrong.any():
        logits = purified((images + found.delta)[wrong])
        sar_loss = unlearning_loss(logits, found.received_labels[wrong]).sum() / len(images)
        (recipe.unlearning_weight * sar_loss).backward()
        loss = sar_loss.item()
        now = logits.detach().argmax(dim=1)
        shared = int(((now == found.received_labels[wrong]) & (now != purified_labels[wrong])).sum())
    optimiser.step()
    return _Step(clean_loss=clean_loss.item(), unlearning_loss=loss, shared=shared)


def purify(
    classifier: Classifier,
    clean: CleanData,
    *,
    recipe: Recipe,
    seed: int,
    watch: Callable[[PurifyProgress], None] | None = None,
) -> Purification:
    """Remove a backdoor, with clean images only. The given classifier is not changed.

    Nothing about a trigger or a target is used: the labels that are unlearned are those that the
    received model gives to adversarial examples which both models share.

    Args:
        classifier: the received model, on the device to work on.
        clean: the images to learn from, and others on which the accuracy is only watched.
        seed: fixes the order of the images.
        watch: called after every batch.

    Raises:
        NotEvaluable: the data does not fit the model, the model returns NaN, or the loss stops being finite.

    Source: Wei et al., the bi-level problem; recipe ``paper`` is what their released code runs.
    """
    check_fits(clean.learning, classifier.description)
    check_fits(clean.held_back, classifier.description)
    check_finite_weights(classifier)
    device = classifier.mean.device
    received, purified = deepcopy(classifier), deepcopy(classifier)
    purified.requires_grad_(True)
    learning = clean.learning.to(device)
    optimiser = torch.optim.Adam(purified.parameters(), lr=recipe.lr, amsgrad=True)
    order_stream = random_stream(seed, "order")
    history: list[Epoch] = []
    with evaluating(received, purified), frozen(received):
        received_labels = predicted_labels(received, learning.images)
        before = _accuracy(received, clean.held_back)
        accuracy = before
        for number in range(1, recipe.epochs + 1):
            started = time.monotonic()
            batches = torch.randperm(len(learning), generator=order_stream).split(recipe.batch_size)
            running = _Running()
            for index, batch in enumerate(batches, start=1):
                at = batch.to(device)
                step = _outer_step(
                    purified,
                    received,
                    optimiser,
                    as_pixels(learning.images[at]),
                    learning.labels[at],
                    received_labels[at],
                    recipe,
                )
                running.add(step, len(at))
                if index == len(batches):
                    _check_loss(running, number)
                    accuracy = _accuracy(purified, clean.held_back)
                if watch:
                    watch(
                        PurifyProgress(
                            epoch=number,
                            epochs=recipe.epochs,
                            batch=index,
                            batches=len(batches),
                            clean_loss=running.clean_loss / running.images,
                            unlearning_loss=running.unlearning_loss / running.images,
                            shared_share=running.shared / running.images,
                            held_back_accuracy=accuracy,
                        )
                    )
            history.append(
                Epoch(
                    number=number,
                    clean_loss=running.clean_loss / running.images,
                    unlearning_loss=running.unlearning_loss / running.images,
                    shared=running.shared,
                    images=running.images,
                    held_back_accuracy=accuracy,
                    seconds=time.monotonic() - started,
                )
            )
    return Purification(
        classifier=purified,
        recipe=recipe,
        epochs=tuple(history),
        held_back_accuracy_before=before,
        learned_from=len(learning),
        held_back=len(clean.held_back),
    )


@dataclass(slots=True)
class _Running:
    """Sums over the images of the epoch so far."""

    clean_loss: float = 0.0
    unlearning_loss: float = 0.0
    shared: int = 0
    images: int = 0

    def add(self, step: _Step, images: int) -> None:
        self.clean_loss += step.clean_loss * images
        self.unlearning_loss += step.unlearning_loss * images
        self.shared += step.shared
        self.images += images


def _accuracy(classifier: Classifier, data: LabelledImages) -> float:
    labels = predicted_labels(classifier, data.images)
    return float((labels.cpu() == data.labels.cpu()).float().mean())


def _check_loss(running: _Running, epoch: int) -> None:
    loss = running.clean_loss + running.unlearning_loss
    if not isfinite(loss):
        raise NotEvaluable(f"the loss became {loss} in epoch {epoch}; try again with a lower --lr")
