"""Shared Adversarial Unlearning: the outer problem, over epochs, and all that keeps a long run safe.

Source: Wei, Zhang, Zha, Wu, "Shared Adversarial Unlearning: Backdoor Mitigation by Unlearning
Shared Adversarial Examples", NeurIPS 2023, arXiv 2307.10562.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from copy import deepcopy
from dataclasses import astuple, dataclass, replace
from math import isfinite

import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_

from sau_cli.classifier import Classifier, check_finite_weights
from sau_cli.errors import NotEvaluable, UsageError
from sau_cli.evaluation.predictions import predicted_labels, predicted_logits
from sau_cli.images import CleanData, LabelledImages, as_pixels, check_fits
from sau_cli.model_state import evaluating, frozen
from sau_cli.precision import Precision, check_precision, fast_layout, running_in
from sau_cli.resuming import check_same_run, optimiser_tensors, restore_optimiser
from sau_cli.seeding import random_stream
from sau_cli.team import ALONE, Team
from sau_cli.unlearning.batch_statistics import GROUP, BatchStatistics, group_sizes, packed
from sau_cli.unlearning.outer_step import accumulate_gradients, recognised_classes
from sau_cli.unlearning.recipes import Optimiser, Recipe
from sau_cli.unlearning.run_state import RunState, fingerprint
from sau_cli.unlearning.search_space import drawn_space, draws_needed
from sau_cli.unlearning.trail import Epoch, PurifyProgress, Tally

LOWEST_RATE = 0.5**3


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Purification:
    """The purified classifier and how it came about.

    Attributes:
        finished: all epochs were run; False where ``stop`` ended it before.
        rate: factor on the learning rate in the end; below 1 where the loss stopped being finite.
    """

    classifier: Classifier
    recipe: Recipe
    epochs: tuple[Epoch, ...]
    held_back_accuracy_before: float
    held_back_accuracy: float
    learned_from: int
    held_back: int
    finished: bool
    rate: float


def purify(
    classifier: Classifier,
    clean: CleanData,
    *,
    recipe: Recipe,
    seed: int,
    precision: Precision = Precision.FP32,
    max_batch: int | None = None,
    watch: Callable[[PurifyProgress], None] | None = None,
    save: Callable[[RunState], None] | None = None,
    stop: Callable[[], bool] | None = None,
    resume: RunState | None = None,
    team: Team = ALONE,
) -> Purification:
    """Remove a backdoor, with clean images only. The given classifier is not changed.

    Nothing about a trigger or a target is used: the labels that are unlearned are those that the
    received model gives to adversarial examples which both models share.

    When the loss stops being finite, the run goes back to the end of the last epoch, at half the
    learning rate, three times at most.

    Args:
        classifier: the received model, on the device to work on.
        clean: the images to learn from, and others on which the accuracy is only watched.
        seed: fixes the order of the images and their augmentation.
        precision: of the networks' forward and backward passes.
        max_batch: most images that are on the device at a time; a batch is worked off in parts of this
            size, to the same gradients up to rounding (with ``recipe.clean_statistics``, batch norm sees
            the parts). Halved by itself when the device runs out of memory.
        watch: called after every batch.
        save: called with the state after every epoch, and when ``stop`` ends the run.
        stop: asked after every batch; True ends the run there.
        resume: the state to go on from. On a CPU, the end is the same bit for bit as without a stop.
        team: the processes that call this together, with equal arguments but for the device; each works on its
            part of every batch, to the same result up to rounding.

    Raises:
        NotEvaluable: the data does not fit the model, the model returns NaN, or the loss stops being finite.
        UsageError: ``resume`` belongs to another run, or a precision that the device lacks.

    Source: Wei et al., the bi-level problem; recipe ``paper`` is what their released code runs.
    """
    check_fits(clean.learning, classifier.description)
    check_fits(clean.held_back, classifier.description)
    check_finite_weights(classifier)
    check_precision(precision, classifier.mean.device)
    if max_batch is not None and max_batch < 1:
        raise UsageError(f"a part of {max_batch} images is impossible; give 1 or more")
    run = _Run(classifier, clean, recipe, seed, precision, max_batch, team)
    with evaluating(run.received, run.purified), frozen(run.received):
        return run.until_done(watch=watch, save=save, stop=stop, resume=resume)


class _NotFiniteError(Exception):
    """The loss or the weights hold a NaN or an infinity."""


class _Run:
    """A purification in progress; everything that changes is in :meth:`state`."""

    def __init__(
        self,
        classifier: Classifier,
        clean: CleanData,
        recipe: Recipe,
        seed: int,
        precision: Precision,
        max_batch: int | None,
        team: Team,
    ) -> None:
        self.device = classifier.mean.device
        self.team = team
        self.clean, self.recipe, self.precision = clean, recipe, precision
        self.fingerprint = fingerprint(classifier, clean, recipe=recipe, seed=seed, precision=precision)
        self.layout = fast_layout(precision, self.device)
        self.received, self.purified = (deepcopy(classifier).to(memory_format=self.layout) for _ in range(2))
        self.purified.requires_grad_(True)
        self.statistics = BatchStatistics(self.purified)
        self.learning = clean.learning.to(self.device)
        self.part = max_batch or recipe.batch_size
        match recipe.optimiser:
            case Optimiser.ADAM:
                self.optimiser: torch.optim.Optimizer = torch.optim.Adam(
                    self.purified.parameters(), lr=recipe.lr, amsgrad=True
                )
            case Optimiser.SGD:
                self.optimiser = torch.optim.SGD(
                    self.purified.parameters(), lr=recipe.lr, momentum=0.9, nesterov=True, weight_decay=5e-4
                )
        self.order_stream = random_stream(seed, "order")
        self.augmentation_stream = random_stream(seed, "augmentation")
        self.batches = -(-len(self.learning) // recipe.batch_size)
        self.epoch, self.batch, self.rate = 1, 0, 1.0
        self.history: list[Epoch] = []
        self.begin_epoch()

    def begin_epoch(self) -> None:
        self.order_state = self.order_stream.get_state()
        self.order = torch.randperm(len(self.learning), generator=self.order_stream)
        self.tally, self.seconds = Tally(), 0.0

    def until_done(
        self,
        *,
        watch: Callable[[PurifyProgress], None] | None,
        save: Callable[[RunState], None] | None,
        stop: Callable[[], bool] | None,
        resume: RunState | None,
    ) -> Purification:
        self.received_logits = predicted_logits(self.received, self.learning.images)
        self.recognised = recognised_classes(self.received_logits, self.learning.labels)
        before = _accuracy(self.received, self.clean.held_back)
        self.accuracy = before
        if resume is not None:
            check_same_run(resume.fingerprint, self.fingerprint)
            self.restore(resume)
        good = self.state()
        stopped = False
        while self.epoch <= self.recipe.epochs and not stopped:
            try:
                self.step()
                whole = self.batch == self.batches
                if whole:
                    self.end_epoch()
            except _NotFiniteError as error:
                if self.rate <= LOWEST_RATE:
                    raise NotEvaluable(
                        f"{error} in epoch {self.epoch}, also at an eighth of the learning rate; "
                        "try again with a lower --lr"
                    ) from error
                rate = self.rate / 2
                self.restore(good)
                self.rate = rate
                continue
            if watch:
                watch(self.progress())
            if whole:
                self.epoch, self.batch = self.epoch + 1, 0
                self.begin_epoch()
                good = self.state()
                if save and self.epoch <= self.recipe.epochs:
                    save(good)
            if stop and self.epoch <= self.recipe.epochs and self.team.any(stop(), self.device):
                stopped = True
                if save and not whole:
                    save(self.state())
        if stopped and self.batch:
            self.accuracy = _accuracy(self.purified, self.clean.held_back)
        return Purification(
            classifier=self.purified.to(memory_format=torch.contiguous_format),
            recipe=self.recipe,
            epochs=tuple(self.history),
            held_back_accuracy_before=before,
            held_back_accuracy=self.accuracy,
            learned_from=len(self.learning),
            held_back=len(self.clean.held_back),
            finished=not stopped,
            rate=self.rate,
        )

    def step(self) -> None:
        """One step of the optimiser on the next batch."""
        started = time.monotonic()
        first = self.batch * self.recipe.batch_size
        at = self.order[first : first + self.recipe.batch_size].to(self.device)
        images = self.learning.images[at]
        if self.recipe.augment:
            images = self.clean.augmentation(images, self.augmentation_stream)
        draws = torch.zeros(len(images), draws_needed(images.shape[1]))
        if self.recipe.patch_share or self.recipe.universal:
            draws = torch.rand(draws.shape, generator=self.augmentation_stream)
        # Images of a group depend on each other, however the batch is worked off; without groups, none does.
        groups = group_sizes(len(at), min(GROUP, self.part) if self.recipe.grouped else 1)
        ours = self.team.part(len(groups))
        mine = slice(sum(groups[: ours.start]), sum(groups[: ours.stop]))
        images, draws = images[mine], draws[mine].to(self.device)
        varied = self.recipe.augment and len(images) > 0
        received_logits = self.received_on(images) if varied else self.received_logits[at[mine]]
        tally = self.gradients(
            images, self.learning.labels[at[mine]], received_logits, draws, groups=groups[ours], of=len(at)
        )
        if not isfinite(tally.clean_loss + tally.unlearning_loss):
            raise _NotFiniteError("the loss stopped being finite")
        progress = ((self.epoch - 1) * self.batches + self.batch) / (self.recipe.epochs * self.batches)
        for group in self.optimiser.param_groups:
            group["lr"] = self.recipe.lr * self.rate * self.recipe.schedule.at(progress)
        if self.recipe.gradient_norm > 0:
            clip_grad_norm_(self.purified.parameters(), self.recipe.gradient_norm)
        self.optimiser.step()
        self.statistics.follow()
        self.tally.add(tally)
        self.batch += 1
        self.seconds += time.monotonic() - started

    def received_on(self, images: Tensor) -> Tensor:
        """Logits of the received model on images (N, C, H, W) uint8."""
        with torch.no_grad(), running_in(self.precision, self.device):
            return torch.cat([self.received(self.pixels(part)).float() for part in images.split(self.part)])

    def gradients(
        self, images: Tensor, labels: Tensor, received_logits: Tensor, draws: Tensor, *, groups: list[int], of: int
    ) -> Tally:
        """Of a batch of ``of`` images, from this process's (N, C, H, W) uint8, in groups, and the others'.

        Worked off part by part; the parts are halved while memory does not suffice.
        """
        while True:
            self.optimiser.zero_grad(set_to_none=True)
            self.statistics.forget()
            tally = Tally()
            try:
                first = 0
                for part in packed(groups, self.part):
                    where = slice(first, first + sum(part))
                    first += sum(part)
                    pixels = self.pixels(images[where])
                    sizes = part if self.recipe.grouped else [sum(part)]
                    tally.add(
                        accumulate_gradients(
                            self.purified,
                            self.received,
                            pixels,
                            labels[where],
                            received_logits[where],
                            recognised=self.recognised,
                            space=drawn_space(pixels, draws[where], self.recipe, sizes),
                            groups=sizes,
                            of=of,
                            recipe=self.recipe,
                            precision=self.precision,
                            statistics=self.statistics,
                        )
                    )
                break
            except RuntimeError as error:
                if not _out_of_memory(error) or self.part == 1:
                    raise
            self.part = (min(self.part, len(images)) + 1) // 2
            if self.device.type == "cuda":
                torch.cuda.empty_cache()
        return self.shared_with_others(tally)

    def shared_with_others(self, tally: Tally) -> Tally:
        """Gradients, statistics and tally become those of the whole batch, in every process."""
        if self.team.size == 1:
            return tally
        trained = [parameter for parameter in self.purified.parameters() if parameter.requires_grad]
        for parameter in trained:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        self.team.add_up([parameter.grad for parameter in trained if parameter.grad is not None])
        if self.recipe.clean_statistics:
            self.team.add_up(self.statistics.all_sums())
        sums = torch.tensor(astuple(tally), dtype=torch.float32 if self.device.type == "mps" else torch.float64)
        sums = sums.to(self.device)
        self.team.add_up([sums])
        images, clean, unlearning, *kinds = sums.tolist()
        return Tally(int(images), clean, unlearning, *map(int, kinds))

    def pixels(self, images: Tensor) -> Tensor:
        return as_pixels(images).contiguous(memory_format=self.layout)

    def end_epoch(self) -> None:
        """Measure, and write the epoch down."""
        started = time.monotonic()
        try:
            check_finite_weights(self.purified)
            self.accuracy = _accuracy(self.purified, self.clean.held_back)
        except NotEvaluable as error:
            raise _NotFiniteError("the weights stopped being finite") from error
        tally = self.tally
        self.history.append(
            Epoch(
                number=self.epoch,
                clean_loss=tally.clean_loss / tally.images,
                unlearning_loss=tally.unlearning_loss / tally.images,
                shared=tally.shared,
                purified_only=tally.purified_only,
                different=tally.different,
                images=tally.images,
                held_back_accuracy=self.accuracy,
                seconds=self.seconds + time.monotonic() - started,
            )
        )

    def progress(self) -> PurifyProgress:
        return PurifyProgress(
            epoch=self.epoch,
            epochs=self.recipe.epochs,
            batch=self.batch,
            batches=self.batches,
            clean_loss=self.tally.clean_loss / self.tally.images,
            unlearning_loss=self.tally.unlearning_loss / self.tally.images,
            shared_share=self.tally.shared / self.tally.images,
            held_back_accuracy=self.accuracy,
        )

    def state(self) -> RunState:
        """Copies of all that changes, on the CPU."""
        weights = self.purified.network.state_dict()
        return RunState(
            fingerprint=self.fingerprint,
            epoch=self.epoch,
            batch=self.batch,
            order=self.order_state,
            augmentation=self.augmentation_stream.get_state(),
            weights={name: tensor.detach().cpu().clone() for name, tensor in weights.items()},
            optimiser=optimiser_tensors(self.optimiser),
            tally=replace(self.tally),
            seconds=self.seconds,
            rate=self.rate,
            history=tuple(self.history),
            held_back_accuracy=self.accuracy,
        )

    def restore(self, state: RunState) -> None:
        """Go on from a state."""
        self.purified.network.load_state_dict(dict(state.weights))
        restore_optimiser(self.optimiser, state.optimiser)
        self.order_stream.set_state(state.order)
        self.begin_epoch()
        self.augmentation_stream.set_state(state.augmentation)
        self.epoch, self.batch, self.rate = state.epoch, state.batch, state.rate
        self.tally = replace(state.tally)
        self.seconds, self.history, self.accuracy = state.seconds, list(state.history), state.held_back_accuracy


def _accuracy(classifier: Classifier, data: LabelledImages) -> float:
    labels = predicted_labels(classifier, data.images)
    return float((labels.cpu() == data.labels.cpu()).float().mean())


def _out_of_memory(error: RuntimeError) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)
