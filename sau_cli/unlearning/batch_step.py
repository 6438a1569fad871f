"""What a method of removal is to the purifier: something that learns from one batch after another."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from sau_cli.classifier import Classifier
from sau_cli.images import LabelledImages
from sau_cli.precision import Precision
from sau_cli.seeding import random_stream
from sau_cli.team import Team
from sau_cli.unlearning.cuda_graphs import Graphs
from sau_cli.unlearning.inverted_triggers import Round
from sau_cli.unlearning.trail import Searching, Tally


class NotFiniteError(Exception):
    """The loss or the weights hold a NaN or an infinity."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Batch:
    """Clean images to learn from, on the device.

    Attributes:
        at: (n,) int64, their places among all clean images.
        images: (n, C, H, W) uint8, varied if the settings say so, with (n,) labels.
        stream: where a method takes its random numbers from.
    """

    at: Tensor
    images: Tensor
    labels: Tensor
    stream: torch.Generator


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Work:
    """What a method works on.

    Attributes:
        purified: the classifier that learns, which starts as ``received``.
        received: as it came; not to be changed.
        learning: clean images, on the device.
        max_batch: most images that are on the device at a time; None for a batch.
    """

    purified: Classifier
    received: Classifier
    learning: LabelledImages
    seed: int
    precision: Precision
    max_batch: int | None
    team: Team

    def stream(self, purpose: str) -> torch.Generator:
        """Random numbers for one purpose."""
        return random_stream(self.seed, purpose)


class BatchStep(Protocol):
    """A method. The purifier keeps the order of the images, epochs, rates and state.

    Attributes:
        graphs: what is replayed on a GPU; None where a method or a device has nothing of the kind.
        group: images at most whose outcome depends on each other.
        rounds: searches for triggers that were made so far; none of a method that makes none.
    """

    optimiser: torch.optim.Optimizer
    group: int

    @property
    def rounds(self) -> Sequence[Round]: ...

    @property
    def graphs(self) -> Graphs | None: ...

    def begin_epoch(self, order: Tensor, number: int, tell: Callable[[Searching], None]) -> None:
        """Before the first batch of the epoch of this number, which goes through the images in this order (N,).

        Args:
            tell: called as work goes on that takes long. It may raise, which leaves the method as it was.
        """

    def take(self, batch: Batch) -> Tally:
        """Learn from a batch: one step of the optimiser, whose learning rate is set.

        Raises:
            NotFiniteError: the loss is not finite; the weights are as they were.
        """
        ...

    def learned(self) -> Classifier:
        """What the run would end with here."""
        ...

    def tensors(self) -> Mapping[str, Tensor]:
        """What a method remembers from one batch to the next, beside weights and optimiser."""
        ...

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Go on from :meth:`tensors`."""
