"""The settings of the methods, as flags of ``sau purify``."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Annotated, Any

import typer

from sau_cli.commands.options import Command, with_parameters
from sau_cli.settings import Setting
from sau_cli.unlearning.methods import MethodName
from sau_cli.unlearning.recipes import DEFAULT, FITTED, PAPER


def with_method_flags(command: Command) -> Command:
    """The command with a flag for each setting of any method, in place of its parameter ``settings``."""
    own = inspect.signature(command, eval_str=True).parameters
    flags = {name: _parameter(name) for method in MethodName for name in method.flags}
    parameters: list[inspect.Parameter] = []
    for name, parameter in own.items():
        parameters += flags.values() if name == "settings" else [parameter]

    def extended(**given: Any) -> None:
        settings = {name: given.pop(name) for name in flags}
        command(**given, settings={name: value for name, value in settings.items() if value is not None})

    return with_parameters(extended, parameters, like=command)


def methods_told() -> str:
    """What each method does, as the help of ``--method``."""
    others = "; ".join(f"{method}: {method.what}" for method in MethodName if method is not MethodName.SAU)
    return f"{MethodName.SAU.what}; or, to compare with, {others}."


def _parameter(name: str) -> inspect.Parameter:
    """The flag of a setting, whose help says what it is to each method that has it, and its default there."""
    settings = {method: method.flags[name] for method in MethodName if name in method.flags}
    kind = next(iter(settings.values())).kind
    what = "; ".join(dict.fromkeys(setting.what for setting in settings.values()))
    help_ = f"{what}. [default: {'; '.join(_defaults(name, settings))}]"
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[kind | None, typer.Option(help=help_)]
    )


def _defaults(name: str, settings: Mapping[MethodName, Setting]) -> list[str]:
    """The defaults: that of ``default`` first, then others with the names that they are of."""
    values = {method.value: method.values.get(name, setting.default) for method, setting in settings.items()}
    if MethodName.SAU not in settings:
        return _by_value(values, among=len(values))
    follows = settings[MethodName.SAU].follows
    if follows is not None:
        return [follows]
    first = getattr(DEFAULT, name)
    values = {"paper": getattr(PAPER, name), **values}
    del values[MethodName.SAU]
    fitted = FITTED.get(name)
    others = {owner: value for owner, value in values.items() if fitted is not None or value != first}
    return [fitted or f"{first:g}", *_by_value(others)]


def _by_value(values: Mapping[str, Any], *, among: int = 0) -> list[str]:
    """Each value with those that have it, such as ``paper, ft: 100``; alone where it is that of the only one."""
    if among == 1:
        return [f"{value:g}" for value in values.values()]
    owners: dict[Any, list[str]] = {}
    for owner, value in values.items():
        owners.setdefault(value, []).append(owner)
    return [f"{', '.join(names)}: {value:g}" for value, names in owners.items()]
