"""Frozen values that reports render: rates with intervals, checks, and the report itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from sau_cli.errors import ExitCode

SCHEMA_VERSION = "1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Measure:
    """A measured number with its 95 % interval, as fractions in [0, 1].

    Attributes:
        value: the point estimate.
        ci95: lower and upper end.
        hits, total: the counts behind a rate; None where the number is no simple rate (DER).
    """

    value: float
    ci95: tuple[float, float]
    hits: int | None = None
    total: int | None = None


class CheckStatus(StrEnum):
    """``skipped``: not examined, for the reason in the evidence; never to be read as passed."""

    PASSED = "passed"
    FAILED = "failed"
    INCONCLUSIVE = "inconclusive"
    MEASURED = "measured"
    SKIPPED = "skipped"


class Severity(StrEnum):
    """How bad a finding is, in order; ``high`` and above refuses a file."""

    INFO = "info"
    LOW = "low"
    HIGH = "high"
    CRITICAL = "critical"

    @property
    def rank(self) -> int:
        """The higher, the worse."""
        return tuple(Severity).index(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One thing that was looked at.

    Attributes:
        id: stable and unique in the report, such as ``asr.badnets`` or ``limit.max-asr.badnets``.
        value, threshold: what was found and what was allowed, where there are such.
        evidence: a sentence.
        severity: of what was found, in checks of a file; ``info`` where nothing is wrong.
    """

    id: str
    status: CheckStatus
    evidence: str
    value: float | int | str | None = None
    threshold: float | int | str | None = None
    ci95: tuple[float, float] | None = None
    severity: Severity | None = None


def weighed(check: Check) -> str:
    """How bad it is, for people, such as ``, high``; nothing where nothing is wrong."""
    return f", {check.severity.value}" if check.severity and check.severity.rank else ""


class Verdict(StrEnum):
    """What a gate may conclude. ``measured``: it ran, and nothing was asked to pass or fail."""

    PASSED = "passed"
    FAILED = "failed"
    MEASURED = "measured"
    INCONCLUSIVE = "inconclusive"
    UNSAFE = "unsafe"
    NOT_EVALUATED = "not-evaluated"
    INTERRUPTED = "interrupted"
    ERROR = "error"


STATUS_OF_VERDICT = {Verdict.PASSED: CheckStatus.PASSED, Verdict.MEASURED: CheckStatus.MEASURED}
"""How a check stands that tells such a verdict; others depend on what asks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InputFile:
    """A file that went in, by path and SHA-256."""

    path: str
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What a command found: one document, of which every format is a rendering.

    Attributes:
        outputs: files that were written, by role.
        details: what belongs to this command alone.
        models: of several models, a whole report on each; perhaps read from a file when it is looked at.
        error: the sentence that ended the command, if one did; the checks made before it are kept.
    """

    tool_version: str
    command: str
    inputs: tuple[InputFile, ...]
    verdict: Verdict
    exit_code: ExitCode
    checks: tuple[Check, ...]
    environment: Mapping[str, Any]
    outputs: Mapping[str, InputFile]
    details: Mapping[str, Any]
    models: Sequence[Report] = ()
    error: str | None = None
    schema_version: str = SCHEMA_VERSION


def verdict_of(checks: tuple[Check, ...]) -> tuple[Verdict, ExitCode]:
    """The worst of the checks: failed, then inconclusive, then passed; measured when none was a limit."""
    statuses = {check.status for check in checks}
    if CheckStatus.FAILED in statuses:
        return Verdict.FAILED, ExitCode.LIMIT_FAILED
    if CheckStatus.INCONCLUSIVE in statuses:
        return Verdict.INCONCLUSIVE, ExitCode.INCONCLUSIVE
    if CheckStatus.PASSED in statuses:
        return Verdict.PASSED, ExitCode.PASSED
    return Verdict.MEASURED, ExitCode.PASSED


def first_finding(report: Report) -> str:
    """The sentence that says most about why a model did not pass; nothing for one of which nothing is to be said."""
    for status in (CheckStatus.FAILED, CheckStatus.INCONCLUSIVE):
        found = next((check for check in report.checks if check.status is status), None)
        if found is not None and not (report.error and status is CheckStatus.INCONCLUSIVE):
            return f"{found.id}: {found.evidence}"
    if report.error:
        return report.error
    noted = next((check for check in report.checks if check.severity and check.severity.rank), None)
    return f"{noted.id}: {noted.evidence}" if noted else ""


def subject(report: Report) -> str:
    """The path of the model that a report is on; nothing where it is on none."""
    return report.inputs[0].path if report.inputs else str(report.details.get("path", ""))


def counted(reports: Sequence[Report]) -> str:
    """How many of several models have which verdict, such as ``3 passed, 1 unsafe``."""
    counts = dict.fromkeys(Verdict, 0)
    for report in reports:
        counts[report.verdict] += 1
    return ", ".join(f"{number} {verdict.value}" for verdict, number in counts.items() if number)
