"""A report as SARIF 2.1.0, which code scanners' dashboards read.

Every check is a result. Only one that failed has a level; what was not examined is ``notApplicable``, never ``pass``.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any
from urllib.parse import quote

from sau_cli.errors import ExitCode
from sau_cli.reporting.json_document import plain
from sau_cli.results import Check, CheckStatus, Report, subject

SARIF_SCHEMA = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
_KINDS = {
    CheckStatus.PASSED: "pass",
    CheckStatus.FAILED: "fail",
    CheckStatus.INCONCLUSIVE: "open",
    CheckStatus.MEASURED: "informational",
    CheckStatus.SKIPPED: "notApplicable",
}


def to_sarif(report: Report) -> str:
    """The document, ending in a newline."""
    reports = (report, *report.models)
    artifacts = {file.path: file.sha256 for file in report.inputs}
    run = {
        "tool": {
            "driver": {
                "name": "sau",
                "version": report.tool_version,
                "rules": [
                    {"id": name, "shortDescription": {"text": name}}
                    for name in dict.fromkeys(result["ruleId"] for each in reports for result in _results(each))
                ],
            }
        },
        "invocations": [
            {
                "executionSuccessful": report.exit_code in {ExitCode.PASSED, ExitCode.LIMIT_FAILED}
                and not any(each.error for each in reports),
                "exitCode": int(report.exit_code),
                "toolExecutionNotifications": [
                    {"level": "error", "message": {"text": each.error}} | _located(each)
                    for each in reports
                    if each.error
                ],
            }
        ],
        "artifacts": [
            {"location": {"uri": uri_of(path)}, "hashes": {"sha-256": sha256}} for path, sha256 in artifacts.items()
        ],
        "results": [result for each in reports for result in _results(each)],
        "properties": {"command": report.command, "verdict": report.verdict.value},
    }
    return json.dumps({"$schema": SARIF_SCHEMA, "version": "2.1.0", "runs": [run]}, indent=2, allow_nan=False) + "\n"


def uri_of(path: str) -> str:
    """A path as a URI reference.

    >>> uri_of("a model.safetensors")
    'a%20model.safetensors'
    >>> uri_of("s3://bucket/a model.safetensors")
    's3://bucket/a%20model.safetensors'
    """
    if "://" in path:
        return quote(path, safe="/:@")
    where = Path(path)
    return where.as_uri() if where.is_absolute() else quote(os.fsencode(where.as_posix()))


def _results(report: Report) -> list[dict[str, Any]]:
    """A result for each check; of a folder only for what was skipped in it, as its models have their own.

    What ended a run is a result too: a dashboard shows results alone, and must not look clean.
    """
    if report.models:
        folder, skipped = report.details.get("folder"), "skipped."
        return [
            _result(check)
            | {"ruleId": "file.skipped"}
            | _place(str(folder or "").rstrip("/") + "/" * bool(folder) + check.id.removeprefix(skipped))
            for check in report.checks
            if check.id.startswith(skipped)
        ]
    place = _located(report)
    results = [_result(check) | place for check in report.checks]
    if report.error and place:
        told = {"ruleId": f"run.{report.verdict.value}", "kind": "fail", "level": "warning"}
        results.append(told | {"message": {"text": report.error}} | place)
    return results


def _located(report: Report) -> dict[str, Any]:
    """Where a report's results are: the model; nowhere for a folder, whose models have places."""
    return {} if report.models or not subject(report) else _place(subject(report))


def _place(path: str) -> dict[str, Any]:
    return {"locations": [{"physicalLocation": {"artifactLocation": {"uri": uri_of(path)}}}]}


def _result(check: Check) -> dict[str, Any]:
    told = {"status": check.status, "value": check.value, "threshold": check.threshold, "ci95": check.ci95}
    return {
        "ruleId": check.id,
        "kind": _KINDS[check.status],
        "level": "error" if check.status is CheckStatus.FAILED else "none",
        "message": {"text": check.evidence},
        "properties": {
            key: value for key, value in plain(told | {"severity": check.severity}).items() if value is not None
        },
    }
