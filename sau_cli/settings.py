"""Settings, declared once: a field of a dataclass that is also a flag, with its help, its limits and its history.

Needs no torch. What a value may be is told by the field's type, such as :data:`Share`, a float that
:func:`check_settings` refuses outside 0 to 1, or by :func:`setting`::

    @dataclass(frozen=True, kw_only=True)
    class Fog:
        share: Share = setting(0.5, "how many images are foggy")
        depth: int = setting(3, "layers", at_least=1, at_most=9)

A field without :func:`setting` is no flag.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """A setting as a flag shows it.

    Attributes:
        kind: the type of its value.
        what: what it is, as a part of a sentence.
        limits: what its value may be, for people, such as ``from 1 to 9``; nothing where its type says it.
        follows: the setting whose value it takes where only that one is given; None for none.
    """

    kind: type[Any]
    default: Any
    what: str
    limits: str = ""
    follows: str | None = None


def setting(
    default: Any,
    what: str,
    *,
    above: float | None = None,
    at_least: float | None = None,
    at_most: float | None = None,
    choices: tuple[str, ...] = (),
    follows: str | None = None,
) -> Any:
    """A field that is a flag: ``what`` is its help; ``follows`` names a setting whose value it takes by default."""
    limits: dict[str, Any] = {"choices": choices} if choices else {}
    if not choices and not isinstance(default, bool | str) and (above, at_least, at_most) != (None, None, None):
        limits["range"] = _range(above, at_least, at_most)
    return field(default=default, metadata={"what": what, "follows": follows, **limits})


def _range(above: float | None, at_least: float | None, at_most: float | None) -> Range:
    low = above if above is not None else at_least
    parts = [
        f"above {above:g}" if above is not None else "",
        f"from {at_least:g}" if at_least is not None else "",
        f"{'to' if at_least is not None else 'at most'} {at_most:g}" if at_most is not None else "",
    ]
    return Range(
        low=-LARGEST if low is None else low,
        high=LARGEST if at_most is None else at_most,
        above=above is not None,
        told=" ".join(part for part in parts if part),
    )


def settings_of(declared: type[Any], *, every: bool = False) -> dict[str, Setting]:
    """The settings of a dataclass that are flags, by name.

    Args:
        every: also fields that are declared without :func:`setting`.
    """
    hints = get_type_hints(declared)
    return {
        known.name: Setting(
            kind=hints[known.name],
            default=known.default,
            what=known.metadata.get("what", ""),
            limits=" or ".join(known.metadata.get("choices", ())) or getattr(known.metadata.get("range"), "told", ""),
            follows=known.metadata.get("follows"),
        )
        for known in fields(declared)
        if every or "what" in known.metadata
    }


def values_of(settings: Any) -> dict[str, Any]:
    """Every field of a dataclass by name, for history and reports."""
    return {known.name: getattr(settings, known.name) for known in fields(settings)}


@cache
def kinds_of(declared: type[Any]) -> Mapping[str, Range | tuple[str, ...] | type[Any]]:
    """Of each field of a dataclass the range of its numbers, or the texts that it may be, or else its type."""
    hints = get_type_hints(declared, include_extras=True)
    return {known.name: _kind(hints[known.name], known.metadata) for known in fields(declared)}


def _kind(hint: Any, limits: Mapping[str, Any]) -> Range | tuple[str, ...] | type[Any]:
    choices: tuple[str, ...] = limits.get("choices", ())
    if choices:
        return choices
    if hint is int or hint is float:
        known: Range = limits.get("range", Range(low=-LARGEST, high=LARGEST, told=f"at most {LARGEST:,}"))
        return replace(known, whole=hint is int)
    ranges = [part for part in get_args(hint) if isinstance(part, Range)]
    kind: Range | type[Any] = ranges[0] if ranges else hint
    return kind


def check_settings(settings: Any) -> None:
    """Raises UsageError, by name, for the first field of a dataclass whose value is not what it may be.

    Numbers, texts to choose from, and yes or no are looked at.
    """
    for name, kind in kinds_of(settings.__class__).items():
        value = getattr(settings, name)
        shown = f"{value:g}" if isinstance(value, float) else repr(value)
        if isinstance(kind, Range):
            fits, wanted = kind.holds(value), kind.told
        elif isinstance(kind, tuple):
            fits, wanted, shown = value in kind, " or ".join(kind), str(value)
        elif kind is bool:
            fits, wanted = isinstance(value, bool), "True or False"
        elif isinstance(kind, type) and issubclass(kind, StrEnum):
            fits, wanted = isinstance(value, kind), ", ".join(kind)
        else:
            continue
        if not fits:
            given = _given_as(settings, name).replace("_", " ")
            raise UsageError(f"{given} {shown} is impossible; give {wanted}")


def _given_as(settings: Any, name: str) -> str:
    """The setting that a value was given as: that which it follows, where both are the same."""
    followed = next((known.metadata.get("follows") for known in fields(settings) if known.name == name), None)
    return followed if followed and getattr(settings, followed) == getattr(settings, name) else name
