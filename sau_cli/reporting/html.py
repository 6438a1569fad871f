"""A report as one page that needs no network: the decision first, then what to do, then the evidence."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cache
from typing import Any, overload

from jinja2 import Environment, PackageLoader, StrictUndefined

from sau_cli.reporting.decision import decision_of
from sau_cli.reporting.history import settings_line
from sau_cli.reporting.json_document import plain, to_json
from sau_cli.reporting.markdown import shown_value
from sau_cli.reporting.pictures import change_pictures
from sau_cli.results import Check, CheckStatus, Report, first_finding, subject, weighed

_WORDS = {
    CheckStatus.PASSED: "passed",
    CheckStatus.FAILED: "failed",
    CheckStatus.INCONCLUSIVE: "inconclusive",
    CheckStatus.MEASURED: "measured",
    CheckStatus.SKIPPED: "not examined",
}
_CHANGE_TITLES = {
    "square": "a square",
    "spot": "a small square",
    "mask": "a few pixels",
    "smooth": "a smooth pattern",
    "warp": "a warp",
}
_MEASURES = {
    "acc": "Accuracy on clean test images",
    "held-back-accuracy": "Accuracy on clean images that were not learned from",
    "asr": "Images with the trigger that are sent to its target",
    "r-acc": "Images with the trigger that are given their true class",
    "wrong": "Images with the trigger that are given a wrong class",
}
SHOWN_CLASSES = 12
"""In each plot, those with the highest scores."""


@cache
def pages() -> Environment:
    """The templates of pages. Whatever a stranger's file says is escaped."""
    return Environment(
        loader=PackageLoader("sau_cli.reporting", "."), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )


def to_html(report: Report) -> str:
    """The page. No script is in it."""
    return "".join(html_parts(report))


def html_parts(report: Report) -> Iterator[str]:
    """The page piece by piece, each model's when it comes to that."""
    yield from (
        pages()
        .get_template("report.html.jinja")
        .generate(
            report=plain(replace(report, models=())) | {"models": len(report.models)},
            decision=decision_of(report),
            shown=_Shown(report.models or (report,)),
            skipped=[check for check in report.checks if check.status is CheckStatus.SKIPPED],
            document="" if report.models else to_json(report),
        )
    )


class _Shown(Sequence[dict[str, Any]]):
    """What the page has of each model, made when it is looked at."""

    def __init__(self, reports: Sequence[Report]) -> None:
        self._reports = reports

    def __len__(self) -> int:
        return len(self._reports)

    @overload
    def __getitem__(self, place: int) -> dict[str, Any]: ...
    @overload
    def __getitem__(self, place: slice) -> _Shown: ...
    def __getitem__(self, place: int | slice) -> dict[str, Any] | _Shown:
        return _Shown(self._reports[place]) if isinstance(place, slice) else _shown(self._reports[place])


def _shown(report: Report) -> dict[str, Any]:
    """What the page has of one model."""
    details = plain(report.details)
    file = details.get("file") or {}
    return {
        "path": subject(report),
        "sha256": report.inputs[0].sha256 if report.inputs else "",
        "verdict": report.verdict.value,
        "exit_code": int(report.exit_code),
        "error": report.error,
        "decision": decision_of(report),
        "finding": first_finding(report),
        "checks": [
            {
                "id": check.id,
                "status": check.status.value,
                "word": f"{_WORDS[check.status]}{weighed(check)}",
                "value": shown_value(check),
                "evidence": check.evidence,
            }
            for check in report.checks
        ],
        "compared": _compared(report.checks),
        "comparison": _comparison(details.get("comparison") or {}),
        "behaviour": _behaviour(details.get("behaviour") or {}, report.checks),
        "residual": _residual(details),
        "chain": details.get("chain") or [],
        "file": file,
        "history": [
            step | {"settings": settings_line(step["settings"])}
            for step in (file.get("description") or {}).get("history") or []
        ],
    }


def _compared(checks: tuple[Check, ...]) -> list[dict[str, Any]]:
    """Rates before and after: those that were measured of a reference, or of the received model, as well."""
    found = {check.id: check for check in checks}
    rows = []
    for name, after in found.items():
        before = found.get(f"reference.{name}") or found.get(f"{name}.before")
        if before is None or not isinstance(before.value, float) or not isinstance(after.value, float):
            continue
        measure, _, trigger = name.partition(".")
        meaning = _MEASURES.get(measure, measure)
        rows.append(
            {
                "measure": f"{meaning}: {trigger}" if trigger else meaning,
                "before": {"text": _rate(before), "width": round(100 * before.value, 1)},
                "after": {"text": _rate(after), "width": round(100 * after.value, 1)},
            }
        )
    return rows


def _rate(check: Check) -> str:
    return shown_value(check) if check.ci95 is not None else f"{100 * float(check.value or 0):.1f} %"


def _comparison(details: dict[str, Any]) -> dict[str, Any]:
    """Which images changed their answer, and what given triggers do to one before and after."""
    if not details:
        return {}
    return details | {"triggers": [trigger | _pictures(trigger["png"]) for trigger in details["triggers"]]}


def _pictures(png: str) -> dict[str, Any]:
    return {"pictures": change_pictures(png)}


def _residual(details: dict[str, Any]) -> dict[str, Any]:
    """The residual test, of two models or else of one: whether it clears, and the easiest change of each kind."""
    behaviour = details.get("behaviour") or {}
    found = details.get("residual") or behaviour.get("easiest_change") or {}
    if not found.get("recovered"):
        return {}
    kinds = found.get("kinds") or {}
    most = max([found["limit"], *(easiest["score"] for easiest in kinds.values())])
    return found | {
        "rows": [
            {
                "kind": _CHANGE_TITLES.get(kind, kind) + _faint(easiest.get("share", 1)),
                "class": easiest["class"],
                "success": f"{100 * easiest['success']:.0f} %",
                "score": f"{easiest['score']:.2f}",
                "width": round(100 * max(easiest["score"], 0) / most, 1),
                "over": easiest["score"] >= found["limit"],
            }
            for kind, easiest in kinds.items()
        ],
        "recovered": [change | _pictures(change["png"]) for change in found["recovered"]],
    }


def _faint(share: float) -> str:
    """How faint a change is; reports of before tell of none.

    >>> _faint(0.65), _faint(1)
    (', mixed in by 65 %', '')
    """
    return f", mixed in by {100 * share:.0f} %" if share < 1 else ""


def _behaviour(details: dict[str, Any], checks: tuple[Check, ...]) -> dict[str, Any]:
    """Plots of each test's anomaly index by class, as the mean over the seeds, and the triggers that were found."""
    if not details.get("seeds"):
        return {}
    evidence = {check.id.removeprefix("behaviour."): check.evidence for check in checks}
    plots = []
    seeds = [seed["anomaly_index"] for seed in details["seeds"]]
    for test in seeds[0]:
        means = [sum(values) / len(seeds) for values in zip(*(indices[test] for indices in seeds), strict=True)]
        ordered = sorted(zip(means, details["classes_examined"], strict=True), reverse=True)
        most = max(ordered[0][0], 1e-9)
        bars = [
            {"class": name, "value": f"{round(mean, 1) + 0.0:.1f}", "width": round(100 * max(mean, 0.0) / most, 1)}
            for mean, name in ordered[:SHOWN_CLASSES]
        ]
        plots.append({"test": test, "says": evidence.get(test, ""), "bars": bars, "left_out": len(ordered) - len(bars)})
    return {
        "suspect": details["most_suspicious_class"],
        "suspected": details["suspected_class"] is not None,
        "plots": plots,
        "recovered": [change | _pictures(change["png"]) for change in details.get("recovered") or []],
    }
