"""What a terminal of 80 columns shows."""

from __future__ import annotations

from rich.console import Console

from sau_cli.reporting.terminal import line_table


def shown(what, width: int = 80) -> list[str]:
    console = Console(width=width)
    with console.capture() as captured:
        console.print(what)
    return captured.get().splitlines()


def test_each_row_is_one_line_and_what_does_not_fit_is_cut_off():
    rows = [("attack", "from scratch", "badnets"), ("purify\nx" * 9, "5a31", "z" * 200)]
    title, heads, first, second = shown(line_table("History", ("step", "input", "settings"), rows))[:4]
    assert title == "History"
    assert heads.split() == ["step", "input", "settings"]
    assert first.split("  ")[-1] == "badnets"
    assert (len(second), second[-1]) == (80, "…")
    assert second.index("5a31") == first.index("from") == heads.index("input")
