"""How much work goes into a model's behaviour. Needs no torch."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

EASIEST_CHANGE = "easiest-change"
"""The residual test of one model alone, which is judged by a limit of its own."""


class Effort(StrEnum):
    """``quick``: the file alone. ``standard``: behaviour from three seeds. ``deep``: from nine."""

    QUICK = "quick"
    STANDARD = "standard"
    DEEP = "deep"

    @property
    def seeds(self) -> int:
        return {Effort.QUICK: 0, Effort.STANDARD: 3, Effort.DEEP: 9}[self]


@dataclass(frozen=True, slots=True, kw_only=True)
class AskedTests:
    """Names of tests.

    Attributes:
        only: these; all where none is given.
        without: but for these.
    """

    only: tuple[str, ...] = ()
    without: tuple[str, ...] = ()

    def wants(self, name: str) -> bool:
        """Whether a test of this name is to be run."""
        return (not self.only or name in self.only) and name not in self.without


ALL_TESTS = AskedTests()
