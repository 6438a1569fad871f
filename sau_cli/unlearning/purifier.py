"""A purification: a method's steps over epochs, and all that keeps a long run safe."""

from __future__ import annotations

import time
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, replace

import torch

from sau_cli.classifier import Classifier, check_finite_weights
from sau_cli.errors import NotEvaluable, UsageError, argument
from sau_cli.images import CleanData, LabelledImages, check_fits
from sau_cli.model_state import evaluating, frozen
from sau_cli.precision import Precision, check_precision, fast_layout
from sau_cli.predictions import predicted_labels
from sau_cli.resuming import check_same_run, optimiser_tensors, restore_optimiser
from sau_cli.seeding import random_stream
from sau_cli.team import ALONE, Team
from sau_cli.unlearning.batch_step import Batch, NotFiniteError, Work
from sau_cli.unlearning.inverted_triggers import Round
from sau_cli.unlearning.methods import MethodSettings, method_of
from sau_cli.unlearning.recipes import Recipe
from sau_cli.unlearning.run_state import RunState, fingerprint
from sau_cli.unlearning.trail import Epoch, PurifyProgress, Searching, Tally


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Purification:
    """The purified classifier and how it came about.

    Attributes:
        finished: all epochs were run; False where ``stop`` ended it before.
        rate: factor on the learning rate in the end; below 1 where the loss stopped being finite.
        cuda_graphs: ``recorded``, or why they could not be; None where a method or a device has none.
        rounds: the searches for triggers, and what each found.
    """

    classifier: Classifier
    recipe: MethodSettings
    epochs: tuple[Epoch, ...]
    held_back_accuracy_before: float
    held_back_accuracy: float
    learned_from: int
    held_back: int
    finished: bool
    rate: float
    cuda_graphs: str | None = None
    rounds: tuple[Round, ...] = ()

    @property
    def unlearned(self) -> frozenset[int] | None:
        """Classes whose triggers were inverted and unlearned; None of a method that looks for none."""
        if not isinstance(self.recipe, Recipe) or self.recipe.trigger_rounds == 0:
            return None
        return frozenset(suspect.wanted for made in self.rounds for suspect in made.suspects)


def purify(
    classifier: Classifier,
    clean: CleanData,
    *,
    recipe: MethodSettings,
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

    Nothing about a trigger or a target is used. Of Shared Adversarial Unlearning, the labels that are
    unlearned are those that the received model gives to adversarial examples which both models share.

    When the loss stops being finite, the run goes back to the end of the last epoch, at half the
    learning rate, ``recipe.halvings`` times at most.

    Args:
        classifier: the received model, on the device to work on.
        clean: the images to learn from, and others on which the accuracy is only watched.
        recipe: the settings, which are of one of the methods.
        seed: fixes the order of the images and their augmentation, and the new head of D3 and FST.
        precision: of the networks' forward and backward passes.
        max_batch: most images that are on the device at a time; a batch is worked off in parts of this
            size, to the same gradients up to rounding (with ``recipe.clean_statistics``, and in fine-tuning,
            batch norm sees the parts). Halved by itself when the device runs out of memory. Not of i-BAU.
        watch: called after every batch, and after every step of a search between two epochs.
        save: called with the state after every epoch, and when ``stop`` ends the run.
        stop: asked after every batch and every step of a search; True ends the run there.
        resume: the state to go on from. On a CPU, the end is the same bit for bit as without a stop.
        team: the processes that call this together, with equal arguments but for the device; each works on its
            part of every batch, to the same result up to rounding.

    Raises:
        NotEvaluable: the data does not fit the model, the model returns NaN or lacks a head where the method draws a
            new one, or the loss stops being finite.
        UsageError: ``resume`` belongs to another run, a precision that the device lacks, or parts or processes
            that the method cannot be shared out to.

    Source: see :mod:`~sau_cli.unlearning.shared_unlearning` and :mod:`~sau_cli.unlearning.methods`.
    """
    check_fits(clean.learning, classifier.description)
    check_fits(clean.held_back, classifier.description)
    check_finite_weights(classifier)
    check_precision(precision, classifier.mean.device)
    if max_batch is not None and max_batch < 1:
        raise UsageError(f"a part of {max_batch} images is impossible; give 1 or more")
    if team.size > 1 and not recipe.in_teams:
        raise UsageError(f"{argument('method')} {method_of(recipe)} runs in one process; start it without torchrun")
    if max_batch is not None and not recipe.in_parts:
        raise UsageError(
            f"{argument('max_batch')} cannot be kept by {argument('method')} "
            f"{method_of(recipe)}; give a smaller {argument('batch_size')} in its place"
        )
    run = _Run(classifier, clean, recipe, seed, precision, max_batch, team)
    run.watch, run.save, run.stop = watch or run.watch, save or run.save, stop or run.stop
    with evaluating(run.received, run.purified), frozen(run.received):
        return run.until_done(resume)


class _StoppedError(Exception):
    """A search between two epochs was ended."""


class _Run:
    """A purification in progress; everything that changes is in :meth:`state`."""

    def __init__(
        self,
        classifier: Classifier,
        clean: CleanData,
        recipe: MethodSettings,
        seed: int,
        precision: Precision,
        max_batch: int | None,
        team: Team,
    ) -> None:
        self.device = classifier.mean.device
        self.team = team
        self.watch: Callable[[PurifyProgress], None] = lambda _at: None
        self.save: Callable[[RunState], None] = lambda _state: None
        self.stop: Callable[[], bool] = lambda: False
        self.clean, self.recipe, self.precision = clean, recipe, precision
        layout = fast_layout(precision, self.device)
        self.received, self.purified = (deepcopy(classifier).to(memory_format=layout) for _ in range(2))
        self.purified.requires_grad_(True)
        self.learning = clean.learning.to(self.device)
        self.method = recipe.begin(
            Work(
                purified=self.purified,
                received=self.received,
                learning=self.learning,
                seed=seed,
                precision=precision,
                max_batch=max_batch,
                team=team,
            )
        )
        self.fingerprint = fingerprint(
            classifier, clean, recipe=recipe, seed=seed, precision=precision, group=self.method.group
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

    def until_done(self, resume: RunState | None) -> Purification:
        before = _accuracy(self.received, self.clean.held_back)
        self.accuracy = before
        if resume is not None:
            check_same_run(resume.fingerprint, self.fingerprint)
            self.restore(resume)
        if self.team.differ(f"{self.fingerprint} {self.epoch} {self.batch}", self.device):
            raise UsageError(
                "the processes work on different models, images, settings or states of an interrupted run; give all "
                f"of them the same, and with {argument('resume')} a folder that all of them see"
            )
        good = self.state()
        stopped = False
        while self.epoch <= self.recipe.epochs and not stopped:
            try:
                self.step()
                whole = self.batch == self.batches
                if whole:
                    self.end_epoch()
                last = whole and self.epoch == self.recipe.epochs
                stopped = not last and self.team.any(self.stop(), self.device)
                if stopped and not whole:
                    self.check_finite()  # such a state is not to be gone on from
            except _StoppedError:
                stopped = True  # nothing has changed since the last epoch
                self.save(good)
                continue
            except NotFiniteError as error:
                self.go_back(good, error)
                if stopped:
                    self.save(self.state())
                continue
            self.watch(self.progress())
            if whole:
                self.epoch, self.batch = self.epoch + 1, 0
                self.begin_epoch()
                good = self.state()
                if self.epoch <= self.recipe.epochs:
                    self.save(good)
            elif stopped:
                self.save(self.state())
        if stopped and self.batch:
            self.accuracy = _accuracy(self.method.learned(), self.clean.held_back)
        return Purification(
            classifier=self.method.learned().to(memory_format=torch.contiguous_format),
            recipe=self.recipe,
            epochs=tuple(self.history),
            held_back_accuracy_before=before,
            held_back_accuracy=self.accuracy,
            learned_from=len(self.learning),
            held_back=len(self.clean.held_back),
            finished=not stopped,
            rate=self.rate,
            cuda_graphs=None if self.method.graphs is None else self.method.graphs.reason or "recorded",
            rounds=tuple(self.method.rounds),
        )

    def step(self) -> None:
        """One step of the optimiser on the next batch."""
        started = time.monotonic()
        if self.batch == 0:
            self.method.begin_epoch(self.order, self.epoch, self.searching)
        first = self.batch * self.recipe.batch_size
        at = self.order[first : first + self.recipe.batch_size].to(self.device)
        images = self.learning.images[at]
        if self.recipe.augment:
            images = self.clean.augmentation(images, self.augmentation_stream)
        progress = ((self.epoch - 1) * self.batches + self.batch) / (self.recipe.epochs * self.batches)
        for group in self.method.optimiser.param_groups:
            group["lr"] = self.recipe.lr * self.rate * self.recipe.schedule.at(progress)
        batch = Batch(at=at, images=images, labels=self.learning.labels[at], stream=self.augmentation_stream)
        self.tally.add(self.method.take(batch))
        self.batch += 1
        self.seconds += time.monotonic() - started

    def searching(self, how_far: Searching) -> None:
        """Tell of a search, and end it where the run is to stop."""
        self.watch(self.progress(how_far))
        if self.team.any(self.stop(), self.device):
            raise _StoppedError

    def end_epoch(self) -> None:
        """Measure, and write the epoch down."""
        started = time.monotonic()
        self.check_finite()
        try:
            self.accuracy = _accuracy(self.method.learned(), self.clean.held_back)
        except NotEvaluable as error:
            raise NotFiniteError("the weights stopped being finite") from error
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

    def check_finite(self) -> None:
        try:
            check_finite_weights(self.purified)
        except NotEvaluable as error:
            raise NotFiniteError("the weights stopped being finite") from error

    def progress(self, searching: Searching | None = None) -> PurifyProgress:
        seen = max(1, self.tally.images)
        return PurifyProgress(
            epoch=self.epoch,
            epochs=self.recipe.epochs,
            batch=self.batch,
            batches=self.batches,
            clean_loss=self.tally.clean_loss / seen,
            unlearning_loss=self.tally.unlearning_loss / seen,
            shared_share=self.tally.shared / seen,
            held_back_accuracy=self.accuracy,
            rounds=tuple(self.method.rounds),
            searching=searching,
        )

    def go_back(self, good: RunState, why: NotFiniteError) -> None:
        """To the last good state at half the learning rate, as often as the recipe says."""
        if self.rate <= 0.5**self.recipe.halvings:
            raise NotEvaluable(
                f"{why} in epoch {self.epoch}, also at {self.rate:g} of the learning "
                f"rate; try again with a lower {argument('lr')}"
            ) from why
        rate = self.rate / 2
        self.restore(good)
        self.rate = rate

    def state(self) -> RunState:
        """Copies of all that changes."""
        weights = self.purified.network.state_dict()
        return RunState(
            fingerprint=self.fingerprint,
            epoch=self.epoch,
            batch=self.batch,
            order=self.order_state,
            augmentation=self.augmentation_stream.get_state(),
            weights={name: tensor.detach().clone() for name, tensor in weights.items()},
            optimiser=optimiser_tensors(self.method.optimiser),
            tally=replace(self.tally),
            seconds=self.seconds,
            rate=self.rate,
            history=tuple(self.history),
            held_back_accuracy=self.accuracy,
            method=self.method.tensors(),
        )

    def restore(self, state: RunState) -> None:
        """Go on from a state."""
        self.purified.network.load_state_dict(dict(state.weights))
        restore_optimiser(self.method.optimiser, state.optimiser)
        self.method.restore(state.method)
        self.order_stream.set_state(state.order)
        self.begin_epoch()
        self.augmentation_stream.set_state(state.augmentation)
        self.epoch, self.batch, self.rate = state.epoch, state.batch, state.rate
        self.tally = replace(state.tally)
        self.seconds, self.history, self.accuracy = state.seconds, list(state.history), state.held_back_accuracy


def _accuracy(classifier: Classifier, data: LabelledImages) -> float:
    labels = predicted_labels(classifier, data.images)
    return float((labels.cpu() == data.labels.cpu()).float().mean())
