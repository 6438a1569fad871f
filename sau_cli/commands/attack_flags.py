"""The settings of the attacks that a command line names, as flags of ``sau attack``."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from sau_adapters.attack_choices import chosen_class, name_of_attack
from sau_cli.commands.options import Command, with_parameters
from sau_cli.errors import UsageError


def named_attacks(words: Sequence[str]) -> tuple[str, ...]:
    """What follows ``--attack`` or ``-a`` in words that are not parsed yet.

    >>> named_attacks(["attack", "--attack", "sig", "-a", "bpp"])
    ('sig', 'bpp')
    """
    found = [after for word, after in itertools.pairwise(words) if word in {"--attack", "-a"}]
    return (*found, *(word.partition("=")[2] for word in words if word.startswith("--attack=")))


def shown(value: Any) -> str:
    """A setting for people.

    >>> shown(40 / 255), shown(True)
    ('0.1569', 'true')
    """
    return f"{value:.4g}" if isinstance(value, float) else str(value).lower()


def with_flags(command: Command, choices: Sequence[str]) -> Command:
    """The command with a flag for each setting of these attacks, given to it as ``settings``.

    Raises:
        UsageError: an unknown attack, or a setting with the name of an option.
    """
    own = inspect.signature(command, eval_str=True)
    parameters = {name: parameter for name, parameter in own.parameters.items() if name != "settings"}
    added: dict[str, inspect.Parameter] = {}
    for choice in choices:
        for name, (kind, default, what) in chosen_class(choice).flags().items():
            if name in parameters:
                raise UsageError(
                    f"--attack {choice!r} has a setting {name!r}, which is an option of every attack; rename it"
                )
            help_ = f"{name_of_attack(choice)}: {what}. [default: {shown(default)}]"
            if name in added:
                help_ = f"{added[name].annotation.__metadata__[0].help} {help_}"
            added[name] = inspect.Parameter(
                name,
                inspect.Parameter.KEYWORD_ONLY,
                default=None,
                annotation=Annotated[kind | None, typer.Option(help=help_)],
            )

    def extended(**given: Any) -> None:
        settings = {name: given.pop(name) for name in added}
        command(**given, settings={name: value for name, value in settings.items() if value is not None})

    return with_parameters(extended, [*parameters.values(), *added.values()], like=command)
