"""The methods of ``sau purify`` by name. Needs no torch.

Shared Adversarial Unlearning has its settings in :mod:`sau_cli.unlearning.recipes`, the others in
:mod:`sau_cli.unlearning.compared_methods`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from enum import StrEnum
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Self, TypeAlias

from sau_cli.errors import UsageError, argument
from sau_cli.settings import Setting, settings_of
from sau_cli.unlearning.compared_methods import (
    ComparedMethod,
    Distancing,
    FeatureShift,
    FineTuning,
    ImplicitUnlearning,
)
from sau_cli.unlearning.recipes import Recipe, RecipeName, recipe_for

if TYPE_CHECKING:
    from sau_cli.images import LabelledImages

NONE: Mapping[str, Any] = MappingProxyType({})
MethodSettings: TypeAlias = Recipe | ComparedMethod


class MethodName(StrEnum):
    """The methods, each with what it is and its settings.

    Attributes:
        what: it does, as part of a sentence.
        kind: the class of its settings.
        without: settings of that class that it does not have.
        values: settings that differ from the class's own.
    """

    what: str
    kind: type[MethodSettings]
    without: frozenset[str]
    values: Mapping[str, Any]

    def __new__(
        cls,
        name: str,
        what: str = "",
        kind: type[MethodSettings] = Recipe,
        without: tuple[str, ...] = (),
        values: Mapping[str, Any] = NONE,
    ) -> Self:
        method = str.__new__(cls, name)
        method._value_, method.what, method.kind = name, what, kind
        method.without, method.values = frozenset(without), values
        return method

    SAU = "sau", "Shared Adversarial Unlearning", Recipe
    FT = "ft", "fine-tuning", FineTuning, ("rho",)
    FT_SAM = (
        "ft-sam",
        "fine-tuning by sharpness-aware minimisation",
        FineTuning,
        (),
        {"rho": 2.0, "label_smoothing": 0.1},
    )
    I_BAU = "i-bau", "unlearning of a universal perturbation by an implicit hypergradient", ImplicitUnlearning
    D3 = "d3", "a new head, far from the received one", Distancing
    FST = "fst", "a new head, turned away from the received one", FeatureShift

    @property
    def flags(self) -> dict[str, Setting]:
        """What can be set of it."""
        return {name: known for name, known in settings_of(self.kind).items() if name not in self.without}


def method_of(settings: MethodSettings) -> MethodName:
    """Which method settings are of."""
    return MethodName.SAU if isinstance(settings, Recipe) else MethodName(settings.name)


def settings_for(
    method: MethodName, recipe: RecipeName | None = None, *, learning: LabelledImages | None = None, **overrides: Any
) -> MethodSettings:
    """The settings of a method; overrides that are None keep the method's own value.

    Args:
        recipe: of Shared Adversarial Unlearning alone; None for its default.
        learning: what there is to learn from.

    Raises:
        UsageError: a setting, or a recipe, that the method does not have.
    """
    given = {name: value for name, value in overrides.items() if value is not None}
    if recipe is not None and method is not MethodName.SAU:
        raise UsageError(
            f"{argument('recipe')} is of {argument('method')} sau, and this is {method}; leave one of them out"
        )
    known = method.flags
    for name in given:
        if name not in known:
            raise _not_of(method, name)
    for name, setting in known.items():
        if setting.follows in given:
            given.setdefault(name, given[setting.follows])
    if method is MethodName.SAU:
        return recipe_for(recipe or RecipeName.DEFAULT, learning=learning, **given)
    return method.kind(**{**method.values, **given})


def _not_of(method: MethodName, name: str) -> UsageError:
    """That a method has no such setting, and which has, if one does."""
    owner = next((other for other in MethodName if name in other.flags), None)
    if owner is None:
        return UsageError(f"there is no setting {name!r}; {method} has {', '.join(method.flags)}")
    whose = f"{argument(name)} is a setting of {argument('method')} {owner}"
    return UsageError(f"{whose}, and {method} has none such; leave it out")


def settings_told(told: Mapping[str, Any]) -> MethodSettings | None:
    """The settings that a model's history tells of its purification; None where they are none of this version's."""
    try:
        kind = MethodName(told.get("method", "sau")).kind
        known = {field.name: field for field in fields(kind)}
        values = {name: _like(known[name].default, value) for name, value in told.items() if name in known}
        return kind(**values)
    except (TypeError, ValueError, OverflowError, UsageError):
        return None


def _like(default: Any, value: Any) -> Any:
    """A value as JSON tells it, of the type that the default has."""
    if isinstance(default, bool) is not isinstance(value, bool):
        raise TypeError(type(value))
    return type(default)(value)
