"""Turn what is known of a file into checks."""

from __future__ import annotations

from sau_cli.errors import ExitCode
from sau_cli.inspection.file_facts import FileFacts, Severity
from sau_cli.results import Check, CheckStatus, Verdict


def inspect(facts: FileFacts) -> tuple[Check, ...]:
    """The checks of a file: its format, its safety, and what was not examined.

    A file that passes is safe to open. Whether it behaves like a backdoored model is a separate
    question, which these checks answer with "skipped".
    """
    checks = [
        Check(
            id="file.format",
            status=CheckStatus.PASSED,
            value=facts.format,
            evidence=f"the content is {facts.format}, whatever the extension says",
        )
    ]
    for finding in facts.findings:
        refused = finding.severity in {Severity.HIGH, Severity.CRITICAL}
        status = CheckStatus.FAILED if refused else CheckStatus.MEASURED
        checks.append(Check(id=finding.id, status=status, value=finding.severity.value, evidence=finding.sentence))
    if facts.safe:
        checks.append(
            Check(
                id="file.safe-to-open",
                status=CheckStatus.PASSED,
                evidence="reading this file runs no code from it, and its header agrees with its content",
            )
        )
    checks.append(
        Check(
            id="model.architecture",
            status=CheckStatus.MEASURED if facts.description else CheckStatus.SKIPPED,
            value=facts.description.architecture if facts.description else None,
            evidence=(
                "named by the file's own metadata"
                if facts.description
                else "the file does not name its architecture; other commands need --arch"
            ),
        )
    )
    checks.append(
        Check(
            id="model.behaviour",
            status=CheckStatus.SKIPPED,
            evidence="whether the model behaves like a backdoored one was not examined",
        )
    )
    return tuple(checks)


def inspection_verdict(facts: FileFacts) -> tuple[Verdict, ExitCode]:
    """Unsafe, or measured: behaviour was not examined, so never more than that."""
    if not facts.safe:
        return Verdict.UNSAFE, ExitCode.UNSAFE
    return Verdict.MEASURED, ExitCode.PASSED
