"""Where a backdoor sends an image: the target rule."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import torch
from torch import Tensor

from sau_cli.errors import UsageError


class TargetKind(StrEnum):
    ALL_TO_ONE = "all-to-one"
    ALL_TO_ALL = "all-to-all"


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetRule:
    """All-to-one sends every image to one class; all-to-all sends class y to y + 1 mod K.

    Attributes:
        target: the class of all-to-one; None for all-to-all.
    """

    kind: TargetKind
    target: int | None = None

    def __post_init__(self) -> None:
        if (self.kind is TargetKind.ALL_TO_ONE) != (self.target is not None):
            raise UsageError("an all-to-one trigger needs one target class, and an all-to-all trigger takes none")

    def check(self, classes: int) -> None:
        """Raises UsageError when the target is not one of the classes."""
        if self.target is not None and not 0 <= self.target < classes:
            raise UsageError(f"target {self.target} is not one of the {classes} classes; give 0 to {classes - 1}")

    def targets(self, labels: Tensor, classes: int) -> Tensor:
        """The class each image is sent to. Shape and dtype of ``labels``.

        >>> import torch
        >>> TargetRule(kind=TargetKind.ALL_TO_ALL).targets(torch.tensor([0, 1, 2]), 3).tolist()
        [1, 2, 0]
        """
        if self.target is None:
            return (labels + 1) % classes
        return labels.new_full(labels.shape, self.target)

    def counted(self, labels: Tensor) -> Tensor:
        """Which images count for the ASR: those whose true label is not the target. (N,) bool."""
        if self.target is None:
            return torch.ones_like(labels, dtype=torch.bool)
        return labels != self.target

    def __str__(self) -> str:
        return "all-to-all" if self.target is None else f"all-to-one, class {self.target}"


def parse_target(text: str) -> TargetRule:
    """``"all-to-all"`` or a class number.

    Raises:
        UsageError: anything else.
    """
    if text == TargetKind.ALL_TO_ALL.value:
        return TargetRule(kind=TargetKind.ALL_TO_ALL)
    if not text.isascii() or not text.isdigit() or len(text) > 9:
        raise UsageError(f"target {text[:50]!r} is neither a class number nor all-to-all; give one of these, such as 0")
    return TargetRule(kind=TargetKind.ALL_TO_ONE, target=int(text))
