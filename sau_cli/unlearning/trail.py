"""What a purification tells of itself, step by step and epoch by epoch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sau_cli.unlearning.inverted_triggers import Round


@dataclass(slots=True)
class Tally:
    """Sums over images: losses, and adversarial examples by kind.

    Attributes:
        clean_loss, unlearning_loss: L_cl and L_sar, summed.
        shared: type I, both models fooled to the same label (SAEs).
        purified_only: type II, the purified model fooled and the received one not.
        different: type III, both fooled, to different labels.

    Source: Wei et al., the three kinds of adversarial examples.
    """

    images: int = 0
    clean_loss: float = 0.0
    unlearning_loss: float = 0.0
    shared: int = 0
    purified_only: int = 0
    different: int = 0

    def add(self, other: Tally) -> None:
        self.images += other.images
        self.clean_loss += other.clean_loss
        self.unlearning_loss += other.unlearning_loss
        self.shared += other.shared
        self.purified_only += other.purified_only
        self.different += other.different


@dataclass(frozen=True, slots=True, kw_only=True)
class Epoch:
    """What one epoch did.

    Attributes:
        clean_loss, unlearning_loss: L_cl and L_sar, means over the images.
        shared, purified_only, different: adversarial examples found before each step, by kind; see :class:`Tally`.
        images: images seen.
        held_back_accuracy: on clean images that are never learned from, after the epoch.
        seconds: wall time.
    """

    number: int
    clean_loss: float
    unlearning_loss: float
    shared: int
    purified_only: int
    different: int
    images: int
    held_back_accuracy: float
    seconds: float

    @property
    def shared_share(self) -> float:
        return self.shared / self.images


@dataclass(frozen=True, slots=True, kw_only=True)
class Searching:
    """How far a search between two epochs is.

    Attributes:
        kind: of change that is searched.
        done, of: passes of images, of all kinds.
    """

    kind: str
    done: int
    of: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PurifyProgress:
    """Where purification stands after a batch: the epoch so far, the last accuracy measured, and rounds of search.

    Attributes:
        searching: the search that is made before the epoch; None when it is over.
    """

    epoch: int
    epochs: int
    batch: int
    batches: int
    clean_loss: float
    unlearning_loss: float
    shared_share: float
    held_back_accuracy: float
    rounds: tuple[Round, ...] = ()
    searching: Searching | None = None
