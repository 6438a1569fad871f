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
    checks.append(_architecture(facts))
    checks.append(
        Check(
            id="model.behaviour",
            status=CheckStatus.SKIPPED,
            evidence="whether the model behaves like a backdoored one was not examined",
        )
    )
    return tuple(checks)


def _architecture(facts: FileFacts) -> Check:
    """What is known of the architecture, and from where."""
    check_id, found = "model.architecture", facts.recognition
    fitting = [one.name for one in found.fitting] if found else []
    if facts.description:
        told = facts.description.architecture
        evidence = "named by the file's own metadata"
        if found and not told.startswith("user:"):
            fits = told in fitting
            evidence += ", and its tensors fit" if fits else ", which its tensors do not fit"
        return Check(id=check_id, status=CheckStatus.MEASURED, value=told, evidence=evidence)
    if len(fitting) == 1:
        evidence = "recognised by the names and shapes of its tensors"
        return Check(id=check_id, status=CheckStatus.MEASURED, value=fitting[0], evidence=evidence)
    if fitting:
        evidence = f"its tensors fit {', '.join(fitting[:5])}"
        evidence += f" and {len(fitting) - 5} more" if len(fitting) > 5 else ""
        return Check(id=check_id, status=CheckStatus.MEASURED, value=fitting[0], evidence=evidence)
    near = ", ".join(f"{one.name} ({one.share:.0%} of its tensors)" for one in found.nearest) if found else ""
    evidence = "the file does not name its architecture, and its tensors are of none that sau knows"
    return Check(
        id=check_id,
        status=CheckStatus.SKIPPED,
        evidence=f"{evidence}{f'; nearest are {near}' if near else ''}; other commands need --arch",
    )


def inspection_verdict(facts: FileFacts) -> tuple[Verdict, ExitCode]:
    """Unsafe, or measured: behaviour was not examined, so never more than that."""
    if not facts.safe:
        return Verdict.UNSAFE, ExitCode.UNSAFE
    return Verdict.MEASURED, ExitCode.PASSED
