"""The engine: for each class the change of all images that leads there best, on one model or shared by several.

Source: Wang et al., "Neural Cleanse", S&P 2019 (a class that a little leads to is suspicious); Shen et al., "Backdoor
Scanning for Deep Neural Networks through K-Arm Optimization", ICML 2021 (classes and starts compete for steps); Wei et
al., "Shared Adversarial Unlearning", NeurIPS 2023 (what fools two models alike is a backdoor's).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from sau_cli.classifier import Classifier
from sau_cli.devices import images_a_pass
from sau_cli.inversion.changes import LARGE, Change
from sau_cli.precision import Precision, fast_layout, running_in
from sau_cli.side_by_side import SideBySide, in_halves

MOMENTS = (0.5, 0.9)
"""Adam's, as in Neural Cleanse."""
REMEMBERED = 0.7
"""How much of the running likelihood a step keeps."""
AT_ONCE = 256
"""Images in one pass."""
LEAST_LOSS, MOST_LOSS = 0.01, 1e3
"""Cross-entropies below the first are all as good as none; of a class that nothing is known of it is the second."""
SHORT_ARMS, SHORT_STEPS, SHORT_PROPOSALS, SHORT_CLASSES = 3, 12, 8, 3
"""Of large images, at most: arms of a class in the first heat, of which one goes on, steps of each heat, proposals, and
classes in the last of several heats."""
SHORT_LOOKED_AT, SHORT_IMAGES, SHORT_JUDGED_ON = 4, 8, 48
"""Of them too, at most: images of a step in the first heat, and in others, and images that the end is measured on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Heat:
    """A part of the race.

    Attributes:
        arms: of each class that are in it, at most.
        steps: that each takes.
        images: that each step sees.
        classes: that are in it, those that are led to most surely; None for all.
    """

    arms: int
    steps: int
    images: int
    classes: int | None = None

    def entered(self, classes: int) -> int:
        """Of so many classes, how many take part."""
        return classes if self.classes is None else min(self.classes, classes)


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchSettings:
    """How long and how finely to search.

    Attributes:
        heats: one after another; the classes that are led to furthest, and their best arms, go on to the next.
        most_arms: of all classes together in the first, but one a class at the least.
        loosened: times its budget that a change may begin with.
        tightened: share of the steps after which the budget has fallen to what it is, by the same factor a step.
        proposals: that are looked at for each beginning, by all classes at once; the best is where an arm begins.
        most_proposals: of all beginnings together.
        rate: Adam's learning rate of the free numbers.
        judged_on: images that what is found is measured on.
    """

    heats: tuple[Heat, ...] = (
        Heat(arms=64, steps=5, images=8, classes=100),
        Heat(arms=2, steps=15, images=16, classes=10),
        Heat(arms=1, steps=40, images=16, classes=5),
    )
    most_arms: int = 400
    loosened: float = 8.0
    tightened: float = 2 / 3
    proposals: int = 16
    most_proposals: int = 2304
    rate: float = 1.0
    judged_on: int = 96

    def starts(self, change: Change, classes: int) -> int:
        """Of each class, in the first part of the race."""
        return min(change.starts, self.heats[0].arms, max(1, self.most_arms // classes))

    def fitted(self, change: Change) -> SearchSettings:
        """The same race, shorter where images are large, so that it ends in minutes, or beginnings are many."""
        proposals = max(1, min(self.proposals, self.most_proposals // change.starts))
        if change.shape[1] * change.shape[2] < LARGE:
            return replace(self, proposals=proposals)
        last = len(self.heats) - 1
        heats = tuple(
            replace(
                heat,
                arms=1 if number else min(heat.arms, SHORT_ARMS),
                steps=min(heat.steps, SHORT_STEPS),
                images=min(heat.images, SHORT_IMAGES if number else SHORT_LOOKED_AT),
                classes=heat.entered(SHORT_CLASSES) if 0 < number == last else heat.classes,
            )
            for number, heat in enumerate(self.heats)
        )
        return replace(
            self,
            heats=heats,
            proposals=min(proposals, SHORT_PROPOSALS),
            judged_on=min(self.judged_on, SHORT_JUDGED_ON),
        )

    def passes(self, change: Change, classes: int) -> int:
        """Images that go through each model and back, over the whole race."""
        fitted, passes = self.fitted(change), 0
        each = fitted.starts(change, classes)
        for heat in fitted.heats:
            classes = heat.entered(classes)
            passes += min(each, heat.arms) * classes * heat.steps * heat.images
        return passes


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Inverted:
    """The best change for each of the classes that came to the end of the race.

    Attributes:
        classes: (E,) int64, in ascending order.
        free: (E, P), the changes.
        success: (E,), share of images of other classes that every model sends to the class.
        likelihood: (E,), mean over these images of the logarithm of the class's probability, in the model where it is
            lowest; 0 at most.
    """

    change: Change
    classes: Tensor
    free: Tensor
    success: Tensor
    likelihood: Tensor


def losses_of(likelihood: Tensor) -> Tensor:
    """Likelihoods of :class:`Inverted` (E,) as cross-entropies that may be compared by their ratios."""
    return (-likelihood).clamp(LEAST_LOSS, MOST_LOSS)


def logits_of(models: Sequence[Classifier], images: Tensor, precision: Precision) -> list[Tensor]:
    """What each says of images (N, C, H, W), as (N, K) in single precision.

    On a CPU with several threads two models are at work at once, and one in halves where images are large.
    """
    threads = images.device.type == "cpu" and torch.get_num_threads() > 1
    with running_in(precision, images.device):
        if threads and len(models) == 2:
            said: Sequence[Tensor] = SideBySide(*models)(images)
        elif threads and len(images) > 1 and images.shape[2] * images.shape[3] >= LARGE:
            said = [in_halves(model, images) for model in models]
        else:
            said = [model(images) for model in models]
    return [logits.float() for logits in said]


def arms_a_pass(images: Tensor, each: int) -> int:
    """How many changes, on so many images each, go through a network at a time."""
    return max(1, images_a_pass(images, AT_ONCE) // each)


class Arms:
    """Changes in search, each with its class, its Adam and its running likelihood.

    Attributes:
        classes: (A,) int64.
        free: (A, P) float, moved in place.
        likelihood, success: (A,), running; see :class:`Inverted`.
    """

    def __init__(self, change: Change, classes: Tensor, free: Tensor, *, rate: float) -> None:
        self.change, self.rate = change, rate
        self.classes, self.free = classes, change.allowed(free).clone()
        self.first, self.second = torch.zeros_like(free), torch.zeros_like(free)
        self.taken = free.new_zeros(len(free))
        self.likelihood, self.success = free.new_zeros(len(free)), free.new_zeros(len(free))

    def __len__(self) -> int:
        return len(self.classes)

    def on(self, images: Tensor, at: Tensor) -> Tensor:
        """Images (N, C, H, W), each with the change of the arm ``at`` (N,)."""
        return self.change.changed(images, self.free[at])

    def step(
        self, models: Sequence[Classifier], images: Tensor, labels: Tensor, playing: Tensor, *, precision: Precision
    ) -> None:
        """One step of the arms ``playing`` (B,), each on its own n of the B·n images, which come arm by arm.

        Each takes a step of Adam down the cross-entropy with its class, a mean over models and images of other classes,
        and is brought back within its budget.

        Args:
            models: in eval mode and frozen.
            images: (B n, C, H, W) float in [0, 1], with (B n,) labels.
        """
        free = self.free[playing].requires_grad_(True)
        losses, success, likelihood = self._judged(models, images, labels, playing, free, precision)
        (slope,) = torch.autograd.grad(losses.sum(), free)
        fresh = self.taken[playing] == 0
        for running, now in ((self.likelihood, likelihood), (self.success, success)):
            before = running[playing]
            kept = torch.where(now.isfinite(), REMEMBERED * before + (1 - REMEMBERED) * now, before)
            running[playing] = torch.where(fresh | ~before.isfinite(), now, kept)
        self._moved(playing, slope)

    def measured(
        self, models: Sequence[Classifier], images: Tensor, labels: Tensor, *, precision: Precision
    ) -> tuple[Tensor, Tensor]:
        """Success and likelihood (A,) of every arm, as they are now, on images (N, C, H, W) with (N,) labels."""
        found = []
        with torch.no_grad():
            for arm in torch.arange(len(self), device=images.device).split(arms_a_pass(images, len(images))):
                some, theirs = images.repeat(len(arm), 1, 1, 1), labels.repeat(len(arm))
                found.append(self._judged(models, some, theirs, arm, self.free[arm], precision)[1:])
        return torch.cat([success for success, _ in found]), torch.cat([likelihood for _, likelihood in found])

    def _judged(
        self,
        models: Sequence[Classifier],
        images: Tensor,
        labels: Tensor,
        playing: Tensor,
        free: Tensor,
        precision: Precision,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Loss, success and likelihood of arms with these free numbers, (B,) each."""
        each, device = len(images) // len(playing), images.device
        changed = self.change.changed(images, free.repeat_interleave(each, dim=0))
        changed = changed.contiguous(memory_format=fast_layout(precision, device))
        wanted = self.classes[playing].repeat_interleave(each)
        other = labels != wanted
        counted = other.reshape(-1, each).sum(dim=1).clamp_min(1)
        losses, there = [], other
        for logits in logits_of(models, changed, precision):
            losses.append(cross_entropy(logits, wanted, reduction="none") * other)
            there = there & (logits.argmax(dim=1) == wanted)
        loss = torch.stack(losses).mean(dim=0).reshape(-1, each).sum(dim=1) / counted
        worst = torch.stack(losses).detach().amax(dim=0).reshape(-1, each).sum(dim=1) / counted
        # Without an image of another class there is nothing to tell of, and it is not easy to lead there.
        alone = ~other.reshape(-1, each).any(dim=1)
        return loss, there.reshape(-1, each).sum(dim=1) / counted, (-worst).masked_fill(alone, -torch.inf)

    def _moved(self, playing: Tensor, slope: Tensor) -> None:
        """One step of Adam. Source: Kingma and Ba, "Adam", ICLR 2015."""
        self.taken[playing] += 1
        count = self.taken[playing][:, None]
        first = MOMENTS[0] * self.first[playing] + (1 - MOMENTS[0]) * slope
        second = MOMENTS[1] * self.second[playing] + (1 - MOMENTS[1]) * slope.square()
        self.first[playing], self.second[playing] = first, second
        step = (first / (1 - MOMENTS[0] ** count)) / ((second / (1 - MOMENTS[1] ** count)).sqrt() + 1e-8)
        self.free[playing] = self.change.allowed(self.free[playing] - self.rate * step)

    def leading(self, racing: Tensor, each: int, classes: int | None = None) -> Tensor:
        """Of the arms ``racing`` (R,), those that lead each class furthest, ``each`` of them at most.

        Args:
            classes: that are led to furthest, alone; None for all.
        """
        ordered = racing[self.likelihood[racing].argsort(descending=True, stable=True)]
        going_on = list(dict.fromkeys(self.classes[ordered].tolist()))[:classes]
        return torch.cat([ordered[self.classes[ordered] == one_class][:each] for one_class in sorted(going_on)])


def best_beginnings(
    models: Sequence[Classifier],
    images: Tensor,
    classes: Tensor,
    change: Change,
    *,
    each: int,
    proposals: int,
    stream: torch.Generator,
    precision: Precision,
) -> tuple[Tensor, Tensor]:
    """For each class the rows that lead furthest there before any search, from as many beginnings.

    A pass forward tells of all classes at once, however many, and finds a place also where the models have no slope.

    Args:
        images: (n, C, H, W) float in [0, 1], a few.
        each: beginnings for a class, at most :attr:`~sau_cli.inversion.changes.Change.starts`.

    Returns:
        The rows (E, each, P), and their likelihood (E, each); see :class:`Inverted`.
    """
    device = images.device
    rows = change.proposals(proposals, stream)
    starts, count, _ = rows.shape
    likelihood = []
    with torch.no_grad():
        for some in change.allowed(rows.flatten(0, 1).to(images)).split(arms_a_pass(images, len(images))):
            changed = change.changed(images.repeat(len(some), 1, 1, 1), some.repeat_interleave(len(images), dim=0))
            changed = changed.contiguous(memory_format=fast_layout(precision, device))
            said = [logits.log_softmax(dim=1) for logits in logits_of(models, changed, precision)]
            worst = torch.stack(said).amin(dim=0)
            likelihood.append(worst.unflatten(0, (len(some), len(images))).mean(dim=1))
    found = torch.cat(likelihood)[:, classes].unflatten(0, (starts, count))
    best, which = found.max(dim=1)
    furthest = best.topk(each, dim=0)  # (each, E)
    return rows.to(images)[furthest.indices.T, which.gather(0, furthest.indices).T], furthest.values.T


def invert(
    models: Sequence[Classifier],
    images: Tensor,
    labels: Tensor,
    classes: Tensor,
    change: Change,
    *,
    stream: torch.Generator,
    settings: SearchSettings | None = None,
    precision: Precision = Precision.FP32,
    watch: Callable[[int, int], None] = lambda _done, _of: None,
) -> Inverted:
    """For the easiest classes the change, within the budget of its kind, that sends most images there, in every model.

    Args:
        models: in eval mode and frozen; with two, what is found is shared by both.
        images: (N, C, H, W) float in [0, 1], on the models' device, with (N,) labels; clean ones.
        classes: (E,) int64, all different.
        watch: told how many passes of images are done, of how many.
    """
    settings, device = (settings or SearchSettings()).fitted(change), images.device
    classes = classes.to(device)
    each, of = settings.starts(change, len(classes)), settings.passes(change, len(classes))
    watch(0, of)
    few = images[torch.randperm(len(images), generator=stream)[: settings.heats[0].images].to(device)]
    wide = change.loosened(settings.loosened)
    begun, looked = best_beginnings(
        models,
        few,
        classes,
        wide,
        each=each,
        proposals=settings.proposals,
        stream=stream,
        precision=precision,
    )
    arms = Arms(wide, classes.repeat_interleave(each), begun.flatten(0, 1), rate=settings.rate)
    arms.likelihood = looked.flatten().clone()
    racing, done = torch.arange(len(arms), device=device), 0
    taken, until = 0, settings.tightened * sum(heat.steps for heat in settings.heats)
    for heat in settings.heats:
        racing = arms.leading(racing, heat.arms, heat.classes)
        for _ in range(heat.steps):
            arms.change = change.loosened(settings.loosened ** max(0.0, 1 - taken / until))
            taken += 1
            at = torch.randint(len(images), (heat.images,), generator=stream).to(device)
            for playing in racing.split(arms_a_pass(images, heat.images)):
                seen = at.repeat(len(playing))
                arms.step(models, images[seen], labels[seen], playing, precision=precision)
            done += len(racing) * heat.images
            watch(done, of)
    last = arms.leading(racing, 1)
    judged = torch.randperm(len(images), generator=stream)[: settings.judged_on].to(device)
    return as_measured(
        models,
        images[judged],
        labels[judged],
        change=change,
        classes=arms.classes[last],
        free=arms.free[last],
        precision=precision,
    )


def as_measured(
    models: Sequence[Classifier],
    images: Tensor,
    labels: Tensor,
    *,
    change: Change,
    classes: Tensor,
    free: Tensor,
    precision: Precision = Precision.FP32,
) -> Inverted:
    """What rows (E, P) of a change do to images (N, C, H, W) in [0, 1] with (N,) labels, each with its class (E,)."""
    arms = Arms(change, classes, free, rate=0.0)
    success, likelihood = arms.measured(models, images, labels, precision=precision)
    return Inverted(change=change, classes=classes, free=arms.free, success=success, likelihood=likelihood)
