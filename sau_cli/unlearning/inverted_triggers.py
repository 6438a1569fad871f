"""Unlearning of the easiest changes that all images may share: inverted, unlearned, and inverted again.

A backdoor is a class that a small change of any image leads to. What is found on the received model is a shared
adversarial example of every image at once; while it is unlearned, it goes on moving to what both models still share.

Source: Wei et al., "Shared Adversarial Unlearning", NeurIPS 2023; Wang et al., "Neural Cleanse", S&P 2019, which
unlearns what it inverts once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sau_cli.classifier import Classifier
from sau_cli.images import LabelledImages, as_pixels, some_of
from sau_cli.inversion.changes import SEARCHED, ChangeKind, SquarePattern, change_of, searched_for
from sau_cli.inversion.search import Arms, Heat, Inverted, SearchSettings, invert
from sau_cli.precision import Precision
from sau_cli.unlearning.recipes import Recipe
from sau_cli.unlearning.trail import Searching

QUICK = SearchSettings(
    heats=(
        Heat(arms=64, steps=4, images=8),
        Heat(arms=2, steps=10, images=16, classes=10),
        Heat(arms=1, steps=25, images=16, classes=3),
    ),
    loosened=1.0,
    judged_on=64,
)
"""A search between two epochs."""
DRAWN_FROM = 1000
"""That a search draws from."""
SURELY = 0.02
"""Cross-entropies below this are all as good as none."""
APART = 1.0
"""Deviation of the noise by which a second change for the same class differs from the first, before it moves on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Suspect:
    """A class that stands out: the kind of change that leads there, and for which share of the images."""

    kind: ChangeKind
    wanted: int
    success: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """What a search between two epochs found: the epoch that follows, and who stands out, kind by kind."""

    epoch: int
    suspects: tuple[Suspect, ...]


def rounds_at(epochs: int, rounds: int, until: float) -> tuple[int, ...]:
    """The epochs before which a search is made: the first, and others evenly over this share of the run.

    >>> rounds_at(10, 2, 0.6)
    (1, 4)
    """
    return tuple(sorted({1 + int(number * until * epochs / rounds) for number in range(rounds)}))


def standing_out(kind: ChangeKind, inverted: Inverted, *, least: float) -> list[tuple[Suspect, Tensor]]:
    """The class that a change leads to most surely, and those that come near it, with their changes (P,).

    Args:
        least: of the images that must go there.
    """
    lost = -inverted.likelihood
    near = lost <= max(SURELY, 2 * float(lost.min()))
    return [
        (Suspect(kind=kind, wanted=wanted, success=success), free)
        for wanted, success, close, free in zip(
            inverted.classes.tolist(), inverted.success.tolist(), near.tolist(), inverted.free, strict=True
        )
        if close and success >= least
    ]


class InvertedTriggers:
    """The changes at work, by kind, and what led to them.

    Attributes:
        arms: by kind.
        rounds: made so far.
    """

    def __init__(self, received: Classifier, purified: Classifier, learning: LabelledImages, recipe: Recipe) -> None:
        self.received, self.purified, self.recipe = received, purified, recipe
        self.learning = learning
        self.at: tuple[int, ...] = ()
        self.last = max(1, round(recipe.trigger_until * recipe.epochs))
        if recipe.trigger_rounds:
            due = rounds_at(recipe.epochs, recipe.trigger_rounds, recipe.trigger_until)
            self.at = tuple(epoch for epoch in due if epoch <= self.last)
        self.arms: dict[ChangeKind, Arms] = {}
        self.rounds: list[Round] = []

    def search(
        self, epoch: int, stream: torch.Generator, precision: Precision, tell: Callable[[Searching], None]
    ) -> None:
        """Before an epoch: who stands out now, where a search is due. Those that stood out before stay until the last.

        On the received model before the first epoch, on both before others. Both must be frozen.

        Args:
            tell: called after every step of the search. It may raise, which leaves all as it was.
        """
        if epoch > self.last:
            self.arms = {}
        if epoch not in self.at:
            return
        models = [self.received] if epoch == self.at[0] else [self.received, self.purified]
        some = some_of(self.learning, DRAWN_FROM)
        pixels, labels = as_pixels(some.images), some.labels
        shape, shown = (pixels.shape[1], pixels.shape[2], pixels.shape[3]), labels.unique()
        found: list[tuple[Suspect, Tensor]] = []
        changes = searched_for(shape)
        ahead = {kind: QUICK.passes(change, len(shown)) for kind, change in changes.items()}
        of, before = sum(ahead.values()), 0
        for kind, change in changes.items():

            def watch(done: int, _of: int, kind: ChangeKind = kind, before: int = before) -> None:
                tell(Searching(kind=kind.value, done=before + done, of=of))

            inverted = invert(
                models, pixels, labels, shown, change, stream=stream, settings=QUICK, precision=precision, watch=watch
            )
            before += ahead[kind]
            found += standing_out(kind, inverted, least=self.recipe.trigger_found)
        made = Round(epoch=epoch, suspects=tuple(suspect for suspect, _ in found))
        self.rounds = [*(earlier for earlier in self.rounds if earlier.epoch < epoch), made]
        for kind in SEARCHED:
            at_work = self.arms.get(kind)
            rows = [(suspect.wanted, free) for suspect, free in found if suspect.kind is kind]
            again = {wanted for wanted, _ in rows}
            kept = [] if at_work is None else zip(at_work.classes.tolist(), at_work.free, strict=True)
            rows += [(wanted, free) for wanted, free in kept if wanted not in again]
            if rows:
                self.arms[kind] = self.begun(kind, shape, rows, stream)
        # In one order whenever a kind was found first: what a resumed run restores is in it too.
        self.arms = {kind: self.arms[kind] for kind in SEARCHED if kind in self.arms}

    def begun(
        self,
        kind: ChangeKind,
        shape: tuple[int, int, int],
        rows: Sequence[tuple[int, Tensor]],
        stream: torch.Generator,
    ) -> Arms:
        """Arms that go on from what was found: of each two, a little apart, while there is room."""
        rows = rows[: self.recipe.triggers_at_once]
        variants = 2 if 2 * len(rows) <= self.recipe.triggers_at_once else 1
        change, device = change_of(kind, shape), self.learning.images.device
        classes = torch.tensor([wanted for wanted, _ in rows for _ in range(variants)], device=device)
        free = torch.stack([row for _, row in rows for _ in range(variants)])
        noise = APART * torch.randn(free.shape, generator=stream).to(free)
        noise[::variants] = 0
        if isinstance(change, SquarePattern):
            noise[:, :2] = 0  # the place stays
        return Arms(change, classes, free + noise, rate=self.recipe.trigger_rate)

    def changed(self, images: Tensor, labels: Tensor, *, precision: Precision) -> Tensor:
        """The first of the images (n, C, H, W) in [0, 1], with a change each: as many to one change as to another.

        Before, the changes go some steps further on these images. The models must be frozen.
        """
        parts: list[Tensor] = []
        each = max(1, len(images) // sum(len(arms) for arms in self.arms.values()))
        first = 0
        for arms in self.arms.values():
            playing = torch.arange(len(arms), device=images.device)
            mine = torch.arange(first, first + each * len(arms), device=images.device) % len(images)
            first += each * len(arms)
            for _ in range(self.recipe.trigger_steps):
                arms.step([self.received, self.purified], images[mine], labels[mine], playing, precision=precision)
            with torch.no_grad():
                parts.append(arms.on(images[mine], playing.repeat_interleave(each)))
        changed = torch.cat(parts)
        return changed[: len(images)]

    @property
    def place(self) -> Tensor | None:
        """Where changes that are at work in few places lie: (H, W) summing to 1; None where there are none such."""
        masks = [arms.change.mask(arms.free) for kind, arms in self.arms.items() if kind is not ChangeKind.SMOOTH]
        if not masks:
            return None
        mask = torch.cat(masks)
        return (mask / mask.flatten(1).sum(dim=1)[:, None, None].clamp_min(1e-12)).mean(dim=0)

    def tensors(self) -> dict[str, Tensor]:
        """What changes, by name."""
        names = ("classes", "free", "first", "second", "taken", "likelihood", "success")
        moving = {
            f"{kind.value}.{name}": getattr(arms, name).clone() for kind, arms in self.arms.items() for name in names
        }
        made = [
            (
                past.epoch,
                *((SEARCHED.index(suspect.kind), suspect.wanted, suspect.success) if suspect else (-1, -1, 0.0)),
            )
            for past in self.rounds
            for suspect in past.suspects or (None,)
        ]
        return moving | {"rounds": torch.tensor(made, dtype=torch.float64).reshape(-1, 4)}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Go on from :meth:`tensors`."""
        shape = self.learning.images.shape
        told: dict[int, list[Suspect]] = {}
        for epoch, kind, wanted, success in tensors["rounds"].tolist() if "rounds" in tensors else ():
            suspects = told.setdefault(int(epoch), [])
            if kind >= 0:
                suspects.append(Suspect(kind=SEARCHED[int(kind)], wanted=int(wanted), success=success))
        self.rounds = [Round(epoch=epoch, suspects=tuple(suspects)) for epoch, suspects in told.items()]
        self.arms = {}
        for change_kind in SEARCHED:
            mine = {
                name.partition(".")[2]: tensor
                for name, tensor in tensors.items()
                if name.startswith(f"{change_kind.value}.")
            }
            if mine:
                device = self.learning.images.device
                moved = {name: tensor.to(device, copy=True) for name, tensor in mine.items()}
                change = change_of(change_kind, (shape[1], shape[2], shape[3]))
                arms = Arms(change, moved["classes"], moved["free"], rate=self.recipe.trigger_rate)
                for name, tensor in moved.items():
                    setattr(arms, name, tensor)
                self.arms[change_kind] = arms
