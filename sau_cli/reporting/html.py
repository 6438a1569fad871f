"""A report as one page that needs no network: verdict first, then the evidence."""

from __future__ import annotations

from jinja2 import Environment, PackageLoader, StrictUndefined

from sau_cli.reporting.json_document import plain, to_json
from sau_cli.reporting.markdown import SENTENCES, shown_value
from sau_cli.results import CheckStatus, Report

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
    details = plain(report.details)
    file = details.get("file") or {}
    return pages.get_template("report.html.jinja").render(
        report=plain(report),
        sentence=SENTENCES[report.verdict],
        checks=[
            {
                "id": one.id,
                "status": one.status.value,
                "word": _WORDS[one.status],
                "value": shown_value(one),
                "evidence": one.evidence,
            }
            for one in report.checks
        ],
        file=file,
        history=(file.get("description") or {}).get("history") or [],
        document=to_json(report),
    )
