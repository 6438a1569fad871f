"""A report as one page that needs no network: verdict first, then the evidence."""

from __future__ import annotations

from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from sau_cli.reporting.history import settings_line
from sau_cli.reporting.json_document import plain, to_json
from sau_cli.reporting.markdown import sentence_of, shown_value
from sau_cli.results import CheckStatus, Report, first_finding, subject, weighed

_WORDS = {
    CheckStatus.PASSED: "passed",
    CheckStatus.FAILED: "failed",
    CheckStatus.INCONCLUSIVE: "inconclusive",
    CheckStatus.MEASURED: "measured",
    CheckStatus.SKIPPED: "not examined",
}

SHOWN_CLASSES = 12
"""In each plot, those with the highest scores."""


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
                "word": f"{_WORDS[one.status]}{weighed(one)}",
                "value": shown_value(one),
                "evidence": one.evidence,
            }
            for one in report.checks
        ],
        "behaviour": _behaviour(plain(report.details).get("behaviour") or {}),
        "residual": _residual(plain(report.details)),
        "file": file,
        "history": [
            step | {"settings": settings_line(step["settings"])}
            for step in (file.get("description") or {}).get("history") or []
        ],
    }


def _residual(details: dict[str, Any]) -> dict[str, Any]:
    """The residual test, of two models or else of one: whether it clears, and the easiest change of each kind."""
    behaviour = details.get("behaviour") or {}
    found = details.get("residual") or behaviour.get("easiest_change") or {}
    return found if found.get("recovered") else {}


def _behaviour(details: dict[str, Any]) -> dict[str, Any]:
    """Plots of each test's anomaly index by class, as the mean over the seeds, and the triggers that were found."""
    if not details:
        return {}
    plots = []
    seeds = [one["anomaly_index"] for one in details["seeds"]]
    for test in seeds[0]:
        means = [sum(values) / len(seeds) for values in zip(*(one[test] for one in seeds), strict=True)]
        ordered = sorted(zip(means, details["classes_examined"], strict=True), reverse=True)
        most = max(ordered[0][0], 1e-9)
        bars = [
            {"class": name, "value": f"{mean:.1f}", "width": round(100 * max(mean, 0.0) / most, 1)}
            for mean, name in ordered[:SHOWN_CLASSES]
        ]
        plots.append({"test": test, "bars": bars, "left_out": len(ordered) - len(bars)})
    return {
        "suspect": details["most_suspicious_class"],
        "suspected": details["suspected_class"] is not None,
        "plots": plots,
        "recovered": details.get("recovered") or [],
    }
