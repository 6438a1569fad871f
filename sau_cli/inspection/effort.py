"""How much work goes into a model's behaviour. Needs no torch."""

from __future__ import annotations

from enum import StrEnum


class Effort(StrEnum):
    """``quick``: the file alone. ``standard``: behaviour from three seeds. ``deep``: from nine."""

    QUICK = "quick"
    STANDARD = "standard"
    DEEP = "deep"

    @property
    def seeds(self) -> int:
        return {Effort.QUICK: 0, Effort.STANDARD: 3, Effort.DEEP: 9}[self]
