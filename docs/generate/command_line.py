"""The reference of the command line, from the Typer app: ``docs/reference/command-line.md``.

    python docs/generate/command_line.py

A test compares the page with the app, so that neither moves alone.
"""

from __future__ import annotations

import re
from pathlib import Path
from textwrap import dedent
from typing import Any

import typer

from sau_cli.app import composed
from sau_cli.attacks.table import ATTACKS, attack_class
from sau_cli.commands.attack_flags import shown

PAGE = Path(__file__).resolve().parent.parent / "reference" / "command-line.md"
INTRODUCTION = """\
# Command line

This page is written from the command line itself, by `docs/generate/command_line.py`. `sau COMMAND --help` shows the
same. [Exit codes](exit-codes.md) and [`sau.toml`](settings.md) have pages of their own.
"""


def page() -> str:
    """The page as text."""
    commands = typer.main.get_command(composed()).commands  # type: ignore[attr-defined]
    parts = [INTRODUCTION, *(_command(name, command) for name, command in commands.items()), _attacks()]
    return "\n".join(parts)


def _command(name: str, command: Any) -> str:
    context = command.make_context(name, [], resilient_parsing=True)
    records = [(parameter, parameter.get_help_record(context)) for parameter in command.params]
    arguments = [record for parameter, record in records if parameter.param_type_name == "argument"]
    many = [
        "..." if parameter.nargs == -1 else "" for parameter, _ in records if parameter.param_type_name == "argument"
    ]
    options = [record for parameter, record in records if parameter.param_type_name == "option"]
    usage = " ".join(
        ["sau", name, "[OPTIONS]", *(_bare(syntax) + more for (syntax, _), more in zip(arguments, many, strict=True))]
    )
    prose, _, examples = command.help.partition("\b\nExamples:\n")
    lines = [f"## sau {name}", "", "```text", usage, "```", "", _escaped(prose.strip()), ""]
    lines += ["```sh", dedent(examples).rstrip(), "```", ""]
    lines += _table("argument", arguments) + _table("option", [*options, ("-h, --help", "Show the help and exit.")])
    return "\n".join(lines)


def _attacks() -> str:
    lines = ["## Settings of attacks", ""]
    lines += ["Each is a flag of `sau attack` where that attack is named. In brackets: the range.", ""]
    rows = []
    for name in ATTACKS:
        flags = attack_class(name).flags().items()
        rows += [(f"--{flag.replace('_', '-')}", name, shown(default), what) for flag, (_, default, what) in flags]
    lines += ["| attack | flag | default | what |", "|---|---|---|---|"]
    lines += [f"| `{name}` | `{flag}` | `{default}` | {_escaped(what)} |" for flag, name, default, what in rows]
    without = [name for name in ATTACKS if not attack_class(name).flags()]
    if without:
        lines += ["", f"No settings of their own: {', '.join(f'`{name}`' for name in without)}."]
    return "\n".join([*lines, ""])


def _bare(syntax: str) -> str:
    """An argument without its type."""
    return re.sub(r" <[^>]*>$", "", syntax)


def _table(kind: str, records: list[tuple[str, str]]) -> list[str]:
    head = [f"| {kind} | what it is for |", "|---|---|"]
    return [*head, *(f"| `{syntax.replace('|', chr(92) + '|')}` | {_escaped(what)} |" for syntax, what in records), ""]


def _escaped(text: str) -> str:
    """Text of the help as Markdown: what would be markup there is not."""
    text = re.sub(r"([\\*<>|\[\]_])", r"\\\1", text)
    return re.sub(r"(?<![\w`-])(--[a-z][a-z-]*)", r"`\1`", text)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
