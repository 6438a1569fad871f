"""A report as SARIF 2.1.0, which code scanners' dashboards read.

Every check is a result. Only one that failed has a level; what was not examined is ``notApplicable``, never ``pass``.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from urllib.parse import quote

from sau_cli.errors import ExitCode
from sau_cli.reporting.json_document import plain
from sau_cli.results import Check, CheckStatus, Report

SCHEMA = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
_KINDS = {
    CheckStatus.PASSED: "pass",
    CheckStatus.FAILED: "fail",
    CheckStatus.INCONCLUSIVE: "open",
    CheckStatus.MEASURED: "informational",
    CheckStatus.SKIPPED: "notApplicable",
}


def to_sarif(report: Report) -> str:
    """The document, ending in a newline."""
    places = [{"uri": uri_of(one.path)} for one in report.inputs]
    errors = [{"level": "error", "message": {"text": report.error}}] if report.error else []
    run = {
        "tool": {
            "driver": {
                "name": "sau",
                "version": report.tool_version,
                "rules": [
                    {"id": name, "shortDescription": {"text": name}}
                    for name in dict.fromkeys(check.id for check in report.checks)
                ],
            }
        },
        "invocations": [
            {
                "executionSuccessful": report.exit_code in {ExitCode.PASSED, ExitCode.LIMIT_FAILED} and not errors,
                "exitCode": int(report.exit_code),
                "toolExecutionNotifications": errors,
            }
        ],
        "artifacts": [
            {"location": place, "hashes": {"sha-256": one.sha256}}
            for place, one in zip(places, report.inputs, strict=True)
        ],
        "results": [_result(check, places) for check in report.checks],
        "properties": {"command": report.command, "verdict": report.verdict.value},
    }
    return json.dumps({"$schema": SCHEMA, "version": "2.1.0", "runs": [run]}, indent=2, allow_nan=False) + "\n"


def uri_of(path: str) -> str:
    """A path as a URI reference.

    >>> uri_of("a model.safetensors")
    'a%20model.safetensors'
    """
    where = Path(path)
    return where.as_uri() if where.is_absolute() else quote(where.as_posix())


def _result(check: Check, places: list[dict[str, str]]) -> dict[str, Any]:
    failed = check.status is CheckStatus.FAILED
    told = {"status": check.status, "value": check.value, "threshold": check.threshold, "ci95": check.ci95}
    return {
        "ruleId": check.id,
        "kind": _KINDS[check.status],
        "level": "error" if failed else "none",
        "message": {"text": check.evidence},
        "locations": [{"physicalLocation": {"artifactLocation": place}} for place in places[:1]],
        "properties": {key: value for key, value in plain(told).items() if value is not None},
    }
