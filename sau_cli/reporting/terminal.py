"""Results as tables for a terminal of 80 columns."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group
from rich.table import Table
from rich.text import Text

from sau_cli.results import Check, CheckStatus, Measure, Verdict, weighed

_MARKS = {
    CheckStatus.PASSED: Text("passed", style="green"),
    CheckStatus.FAILED: Text("FAILED", style="bold red"),
    CheckStatus.INCONCLUSIVE: Text("inconclusive", style="yellow"),
    CheckStatus.MEASURED: Text("measured"),
    CheckStatus.SKIPPED: Text("not examined", style="yellow"),
}


VERDICT_STYLES = {
    Verdict.PASSED: "green",
    Verdict.FAILED: "bold red",
    Verdict.UNSAFE: "bold red",
    Verdict.ERROR: "bold red",
    Verdict.INCONCLUSIVE: "yellow",
    Verdict.NOT_EVALUATED: "yellow",
}

LONGEST_CELL = 16
"""Characters of a cell that is not its row's last, where rows are cut off."""


def printable(text: str) -> str:
    """Text from a stranger's file, safe for a terminal: control characters become question marks.

    >>> printable("a\\x1b[2J")
    'a?[2J'
    """
    return "".join(character if character.isprintable() or character == "\n" else "?" for character in text)


def percent(value: float) -> str:
    """A fraction for people.

    >>> percent(0.98611)
    '98.6 %'
    """
    return f"{100 * value:.1f} %"


def with_interval(measure: Measure | None) -> str:
    """A rate and its 95 % interval, ``98.6 % (96.8 to 99.4)``; a dash where nothing was measured."""
    if measure is None:
        return "-"
    low, high = (f"{100 * end:.1f}" for end in measure.ci95)
    return f"{percent(measure.value)} ({low} to {high})"


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str | Text]], *, legend: str = "") -> Group:
    """A plain table under its title. Cells are shown as they are, safe for a terminal, whoever wrote them."""
    drawn = Table(show_edge=False, pad_edge=False, box=None, show_header=any(columns))
    for column in columns:
        drawn.add_column(column, overflow="fold")
    for row in rows:
        drawn.add_row(*(cell if isinstance(cell, Text) else Text(printable(cell)) for cell in row))
    below = [Text(printable(legend), style="dim")] if legend else []
    return Group(Text(printable(title), style="bold"), drawn, *below, Text())


def line_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Group:
    """As :func:`table`, with each row on one line: what does not fit is cut off."""
    cells = [[printable(cell).replace("\n", "?") for cell in row] for row in (columns, *rows)]
    widths = [min(max(map(len, column)), LONGEST_CELL) for column in zip(*cells, strict=True)]
    lines = [
        "  ".join([*(cell[:width].ljust(width) for cell, width in zip(row[:-1], widths, strict=False)), row[-1]])
        for row in cells
    ]
    styles = ["bold", *[""] * len(rows)]
    drawn = [Text(line, style, no_wrap=True, overflow="ellipsis") for line, style in zip(lines, styles, strict=True)]
    return Group(Text(printable(title), style="bold"), *drawn, Text())


def checks_table(checks: Sequence[Check]) -> Group:
    """One row a check: what, how it stands, and the sentence."""
    return table(
        "Checks",
        ("check", "status", "evidence"),
        [(check.id, _MARKS[check.status] + weighed(check), check.evidence) for check in checks],
    )
