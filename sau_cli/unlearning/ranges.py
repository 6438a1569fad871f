"""What the value of a setting may be, told by its type. Needs no torch.

A field of type :data:`Share`, say, is a float, and :func:`check_ranges` refuses it outside 0 to 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from numbers import Integral, Real
from typing import Annotated, Any, TypeAlias, get_args, get_type_hints

from sau_cli.errors import UsageError

LARGEST = 10_000_000
"""No count, size or rate is as large."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Range:
    """The numbers from ``low`` to ``high``.

    Attributes:
        told: what to give, for people.
        above, below: leave out ``low``, and ``high``.
        whole: whole numbers only.
    """

    low: float
    high: float
    told: str
    above: bool = False
    below: bool = False
    whole: bool = False

    def holds(self, value: object) -> bool:
        """Whether a value is one of them; NaN, text, True and False are none."""
        if isinstance(value, bool) or not isinstance(value, Integral if self.whole else Real):
            return False
        number = float(value)
        low = self.low < number if self.above else self.low <= number
        return low and (number < self.high if self.below else number <= self.high)


Count: TypeAlias = Annotated[
    int, Range(low=1, high=LARGEST, below=True, whole=True, told=f"a whole number above 0 and below {LARGEST:,}")
]
Number: TypeAlias = Annotated[
    int, Range(low=0, high=LARGEST, below=True, whole=True, told=f"a whole number from 0 to below {LARGEST:,}")
]
Positive: TypeAlias = Annotated[
    float, Range(low=0, high=LARGEST, above=True, below=True, told=f"a number above 0 and below {LARGEST:,}")
]
Weight: TypeAlias = Annotated[
    float, Range(low=0, high=LARGEST, below=True, told=f"0, or a number above it and below {LARGEST:,}")
]
Share: TypeAlias = Annotated[float, Range(low=0, high=1, told="a share from 0 to 1")]
Portion: TypeAlias = Annotated[float, Range(low=0, high=1, above=True, told="a number above 0 and at most 1")]
Decay: TypeAlias = Annotated[float, Range(low=0, high=1, below=True, told="a number from 0 to below 1")]
Momentum: TypeAlias = Annotated[
    float, Range(low=0, high=1, above=True, below=True, told="a number above 0 and below 1")
]


@cache
def kinds_of(settings: type[Any]) -> dict[str, Range | type[Any]]:
    """Of each field of a dataclass the range of its numbers, or else its type."""
    kinds: dict[str, Range | type[Any]] = {}
    for name, hint in get_type_hints(settings, include_extras=True).items():
        ranges = [part for part in get_args(hint) if isinstance(part, Range)]
        kinds[name] = ranges[0] if ranges else hint
    return kinds


def check_ranges(settings: Any) -> None:
    """Raises UsageError, by name, for the first field of a dataclass whose value is not what its type says."""
    for name, kind in kinds_of(settings.__class__).items():
        value = getattr(settings, name)
        if isinstance(kind, Range):
            fits, wanted = kind.holds(value), kind.told
        else:
            fits = isinstance(value, kind)
            wanted = ", ".join(kind) if issubclass(kind, StrEnum) else "True or False"
        if not fits:
            shown = f"{value:g}" if isinstance(value, float) else repr(value)
            raise UsageError(f"{name.replace('_', ' ')} {shown} is impossible; give {wanted}")
