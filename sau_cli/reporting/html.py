"""A report as one page that needs no network: verdict first, then the evidence."""

from __future__ import annotations

from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from sau_cli.reporting.history import settings_line
from sau_cli.reporting.json_document import plain, to_json
from sau_cli.reporting.markdown import sentence_of, shown_value
from sau_cli.results import CheckStatus, Report, first_finding, subject

_WORDS = {
    CheckStatus.PASSED: "passed",
    CheckStatus.FAILED: "failed",
    CheckStatus.INCONCLUSIVE: "inconclusive",
    CheckStatus.MEASURED: "measured",
    CheckStatus.SKIPPED: "not examined",
}


def to_html(report: Report) -> str:
    """The page. Whatever a stranger's file says is escaped, and no script is in it."""
    pages = Environment(
        loader=PackageLoader("sau_cli.reporting", "."), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    return pages.get_template("report.html.jinja").render(
        report=plain(report),
        sentence=sentence_of(report),
        shown=[_shown(one) for one in report.models or (report,)],
        skipped=[check for check in report.checks if check.status is CheckStatus.SKIPPED],
        document="" if report.models else to_json(report),
    )


def _shown(report: Report) -> dict[str, Any]:
    """What the page has of one model."""
    file = plain(report.details).get("file") or {}
    return {
        "path": subject(report),
        "sha256": report.inputs[0].sha256 if report.inputs else "",
        "verdict": report.verdict.value,
        "exit_code": int(report.exit_code),
        "error": report.error,
        "finding": first_finding(report),
        "checks": [
            {
                "id": one.id,
                "status": one.status.value,
                "word": _WORDS[one.status],
                "value": shown_value(one),
                "evidence": one.evidence,
            }
            for one in report.checks
        ],
        "file": file,
        "history": [
            step | {"settings": settings_line(step["settings"])}
            for step in (file.get("description") or {}).get("history") or []
        ],
    }
