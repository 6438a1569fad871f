"""Models as rows of one table: what dashboards and notebooks load, in one schema whatever the file's form."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from enum import StrEnum
from pathlib import Path
from typing import Any

from sau_cli.errors import UsageError, argument
from sau_cli.reporting.json_document import plain
from sau_cli.results import Check, CheckStatus, Report, first_finding, subject

SKIPPED = "skipped"
"""The verdict in the row of what may hold a model and was not looked at."""


class TableFormat(StrEnum):
    """By suffix."""

    JSON_LINES = ".jsonl"
    CSV = ".csv"
    PARQUET = ".parquet"
    HTML = ".html"


def table_format_of(path: Path) -> TableFormat:
    """The form that a file's name asks for.

    Raises:
        UsageError: it asks for none.
    """
    try:
        return TableFormat(path.suffix.lower())
    except ValueError as error:
        known = ", ".join(form.value for form in TableFormat)
        raise UsageError(f"{argument('table')} {path}: the name tells no form of table; end it in {known}") from error


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelRow:
    """One model. What was not measured, or could not be read, is None.

    Attributes:
        path: as the command was given it, or under the folder that it was given.
        sha256: of all files of the weights.
        architecture: as the file tells, or else its tensors.
        verdict: of :class:`sau_cli.results.Verdict`; ``skipped`` for a file that may hold a model and was not examined.
        exit_code: that inspecting this model alone ends with; None where it was skipped.
        finding: the sentence that says most about why it did not pass.
        score, threshold: of the behaviour tests, and from which score on a model is called backdoored.
        suspected_class: the likely target.
        accuracy, accuracy_low, accuracy_high: on the clean images given, with its 95 % interval, as fractions.
        failed, inconclusive, not_examined: how many checks are so.
    """

    path: str
    sha256: str | None = None
    format: str | None = None
    architecture: str | None = None
    classes: int | None = None
    parameters: int | None = None
    size_bytes: int | None = None
    verdict: str
    exit_code: int | None = None
    finding: str = ""
    score: float | None = None
    threshold: float | None = None
    suspected_class: str | None = None
    accuracy: float | None = None
    accuracy_low: float | None = None
    accuracy_high: float | None = None
    failed: int = 0
    inconclusive: int = 0
    not_examined: int = 0
    error: str | None = None
    tool_version: str
    schema_version: str


COLUMNS = tuple(field.name for field in fields(ModelRow))


def reports_of(report: Report) -> Sequence[Report]:
    """The report on each model: those that a report holds, or else itself; none where it came to no model."""
    return report.models or ((report,) if subject(report) else ())


def rows_of(report: Report) -> Iterator[ModelRow]:
    """A row for each model, then one for each file that may hold a model and was not examined."""
    for model_report in reports_of(report):
        yield row_of(model_report)
    folder = str(report.details.get("folder") or "")
    for check in report.checks:
        name = check.id.removeprefix("skipped.")
        if name != check.id:
            yield ModelRow(
                path=f"{folder.rstrip('/')}/{name}" if folder else name,
                verdict=SKIPPED,
                finding=check.evidence,
                tool_version=report.tool_version,
                schema_version=report.schema_version,
            )


def row_of(report: Report) -> ModelRow:
    """The row of one model."""
    details = report.details
    file: dict[str, Any] = details.get("file") or {}
    description: dict[str, Any] = file.get("description") or {}
    fitting: list[dict[str, Any]] = (file.get("recognition") or {}).get("fitting") or [{}]
    behaviour: dict[str, Any] = details.get("behaviour") or {}
    checks = {check.id: check for check in report.checks}
    score, accuracy = checks.get("behaviour.score"), checks.get("acc")
    low, high = (accuracy.ci95 if accuracy else None) or (None, None)
    return ModelRow(
        path=subject(report),
        sha256=file.get("sha256") or (report.inputs[0].sha256 if report.inputs else None),
        format=file.get("format"),
        architecture=description.get("architecture") or fitting[0].get("name"),
        classes=len(description["class_names"]) if description else None,
        parameters=details.get("parameters"),
        size_bytes=file.get("size_bytes"),
        verdict=report.verdict.value,
        exit_code=int(report.exit_code),
        finding=first_finding(report),
        score=_number(score),
        threshold=None if score is None or score.threshold is None else float(score.threshold),
        suspected_class=behaviour.get("suspected_class")
        or (behaviour.get("easiest_change") or {}).get("suspected_class"),
        accuracy=_number(accuracy),
        accuracy_low=low,
        accuracy_high=high,
        failed=_count(report, CheckStatus.FAILED),
        inconclusive=_count(report, CheckStatus.INCONCLUSIVE),
        not_examined=_count(report, CheckStatus.SKIPPED),
        error=report.error,
        tool_version=report.tool_version,
        schema_version=report.schema_version,
    )


def _number(check: Check | None) -> float | None:
    value = None if check is None else plain(check.value)
    return float(value) if isinstance(value, int | float) else None


def _count(report: Report, status: CheckStatus) -> int:
    return sum(check.status is status for check in report.checks)
