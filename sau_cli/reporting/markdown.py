"""A report as Markdown, for the summary of a CI job."""

from __future__ import annotations

from collections.abc import Sequence

from sau_cli.reporting.decision import decision_of
from sau_cli.reporting.terminal import percent
from sau_cli.results import Check, CheckStatus, Report, first_finding, subject, weighed

MARKS = {
    CheckStatus.PASSED: "✅ passed",
    CheckStatus.FAILED: "❌ failed",
    CheckStatus.INCONCLUSIVE: "❔ inconclusive",
    CheckStatus.MEASURED: "measured",
    CheckStatus.SKIPPED: "⚪ not examined",
}


def to_markdown(report: Report) -> str:
    """The document, ending in a newline."""
    decision = decision_of(report)
    lines = [f"## sau {report.command}: {report.verdict.value}", "", f"**{cell(decision.sentence)}**"]
    if report.error:
        lines += ["", f"> {cell(report.error)}"]
    elif decision.reason:
        lines += ["", cell(decision.reason)]
    if decision.next_steps:
        told = [f"- {cell(step.says)}{f' {code(step.command)}' * bool(step.command)}" for step in decision.next_steps]
        lines += ["", "What to do next:", "", *told]
    if report.models:
        lines += ["", *_table(("model", "format", "verdict", "exit code", "first finding"), _models(report))]
        lines += _details(report)
        skipped = [check for check in report.checks if check.status is CheckStatus.SKIPPED]
        if skipped:
            lines += ["", *_table(("check", "status", "value", "evidence"), [_row(check) for check in skipped])]
    else:
        if report.checks:
            lines += ["", *_table(("check", "status", "value", "evidence"), [_row(check) for check in report.checks])]
        if report.inputs:
            rows = [(cell(file.path), code(file.sha256)) for file in report.inputs]
            lines += ["", *_table(("input", "SHA-256"), rows)]
    if report.outputs:
        written = [(role, cell(file.path), code(file.sha256)) for role, file in report.outputs.items()]
        lines += ["", *_table(("output", "path", "SHA-256"), written)]
    lines += ["", f"sau {report.tool_version}, exit code {int(report.exit_code)}"]
    return "\n".join(lines) + "\n"


def _models(report: Report) -> list[tuple[str, ...]]:
    return [
        (
            cell(subject(model_report)),
            cell(str((model_report.details.get("file") or {}).get("format", ""))),
            model_report.verdict.value,
            str(int(model_report.exit_code)),
            cell(first_finding(model_report)),
        )
        for model_report in report.models
    ]


def _details(report: Report) -> list[str]:
    """What was found in each model that did not come through; a summary of a job has no room for the others."""
    lines = []
    for model_report in report.models:
        told = [
            check for check in model_report.checks if check.status in {CheckStatus.FAILED, CheckStatus.INCONCLUSIVE}
        ]
        if told:
            lines += ["", f"### {cell(subject(model_report))}: {model_report.verdict.value}", ""]
            lines += _table(("check", "status", "value", "evidence"), [_row(check) for check in told])
    return lines


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
    flat = "".join(character if character.isprintable() else " " for character in text)
    escaped = flat.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return "".join(f"\\{character}" if character in "\\|`*_[]!#" else character for character in escaped)


def code(text: str) -> str:
    """Text in a code span, safe in a table: there nothing is Markdown but the end of the span and of the cell.

    >>> print(code("a_b|c`d"))
    `a_b\\|c'd`
    """
    flat = "".join(character if character.isprintable() else " " for character in text).replace("`", "'")
    return f"`{flat.replace('|', chr(92) + '|')}`"


def _row(check: Check) -> tuple[str, str, str, str]:
    return code(check.id), f"{MARKS[check.status]}{weighed(check)}", cell(shown_value(check)), cell(check.evidence)


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [
        f"| {' | '.join(heads)} |",
        f"|{'---|' * len(heads)}",
        *(f"| {' | '.join(row)} |" for row in rows),
    ]
