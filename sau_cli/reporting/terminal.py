"""Results as tables for a terminal of 80 columns."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group
from rich.table import Table
from rich.text import Text

from sau_cli.results import Check, CheckStatus, Measure

_MARKS = {
    CheckStatus.PASSED: "[green]passed[/]",
    CheckStatus.FAILED: "[bold red]FAILED[/]",
    CheckStatus.INCONCLUSIVE: "[yellow]inconclusive[/]",
    CheckStatus.MEASURED: "measured",
    CheckStatus.SKIPPED: "[yellow]not examined[/]",
}


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


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], *, legend: str = "") -> Group:
    """A plain table under its title. Cells are markup: escape what a file says."""
    drawn = Table(show_edge=False, pad_edge=False, box=None, show_header=any(columns))
    for column in columns:
        drawn.add_column(column, overflow="fold")
    for row in rows:
        drawn.add_row(*row)
    below = [Text(legend, style="dim")] if legend else []
    return Group(Text(title, style="bold"), drawn, *below, Text())


def checks_table(checks: Sequence[Check]) -> Group:
    """One row a check: what, how it stands, and the sentence."""
    return table(
        "Checks", ("check", "status", "evidence"), [(one.id, _MARKS[one.status], one.evidence) for one in checks]
    )
