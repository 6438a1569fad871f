"""A report as Markdown, for the summary of a CI job."""

from __future__ import annotations

from collections.abc import Sequence

from sau_cli.reporting.terminal import percent
from sau_cli.results import Check, CheckStatus, Report, Verdict

MARKS = {
    CheckStatus.PASSED: "✅ passed",
    CheckStatus.FAILED: "❌ failed",
    CheckStatus.INCONCLUSIVE: "❔ inconclusive",
    CheckStatus.MEASURED: "measured",
    CheckStatus.SKIPPED: "⚪ not examined",
}
SENTENCES = {
    Verdict.PASSED: "Everything that was asked for ran, and passed.",
    Verdict.FAILED: "A limit or a policy failed.",
    Verdict.MEASURED: "It ran; nothing was asked to pass or fail.",
    Verdict.INCONCLUSIVE: "It could not be settled, and is not to be read as passed.",
    Verdict.UNSAFE: "The file is refused as unsafe.",
    Verdict.NOT_EVALUATED: "It could not be evaluated, and is not to be read as clean.",
    Verdict.INTERRUPTED: "It was interrupted.",
    Verdict.ERROR: "It ended with an error.",
}


def to_markdown(report: Report) -> str:
    """The document, ending in a newline."""
    lines = [f"## sau {report.command}: {report.verdict.value}", "", SENTENCES[report.verdict]]
    if report.error:
        lines += ["", f"> {cell(report.error)}"]
    if report.checks:
        lines += ["", *_table(("check", "status", "value", "evidence"), [_row(check) for check in report.checks])]
    if report.inputs:
        lines += ["", *_table(("input", "SHA-256"), [(cell(one.path), f"`{one.sha256}`") for one in report.inputs])]
    if report.outputs:
        written = [(role, cell(one.path), f"`{one.sha256}`") for role, one in report.outputs.items()]
        lines += ["", *_table(("output", "path", "SHA-256"), written)]
    lines += ["", f"sau {report.tool_version}, exit code {int(report.exit_code)}"]
    return "\n".join(lines) + "\n"


def shown_value(check: Check) -> str:
    """A check's value with its interval; rates in percent."""
    value = check.value
    if value is None:
        return ""
    if check.ci95 is None or not isinstance(value, float):
        return f"{value:.4g}" if isinstance(value, float) else str(value)
    return f"{percent(value)} ({100 * check.ci95[0]:.1f} to {100 * check.ci95[1]:.1f})"


def cell(text: str) -> str:
    """Text from a stranger's file, safe in a table: on one line, nothing of it Markdown or HTML.

    >>> cell("a|b <i>")
    'a\\\\|b &lt;i&gt;'
    """
    flat = "".join(one if one.isprintable() else " " for one in text)
    escaped = flat.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return "".join(f"\\{one}" if one in "\\|`*_[]!#" else one for one in escaped)


def _row(check: Check) -> tuple[str, str, str, str]:
    return f"`{cell(check.id)}`", MARKS[check.status], cell(shown_value(check)), cell(check.evidence)


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [
        f"| {' | '.join(heads)} |",
        f"|{'---|' * len(heads)}",
        *(f"| {' | '.join(row)} |" for row in rows),
    ]
