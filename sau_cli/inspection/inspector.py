"""Turn what is known of a file into checks."""

from __future__ import annotations

from sau_cli.errors import ExitCode
from sau_cli.inspection.file_facts import FileFacts
from sau_cli.results import Check, CheckStatus, Severity, Verdict


def inspect(facts: FileFacts, *, architecture: str | None = None) -> tuple[Check, ...]:
    """The checks of a file: its format, its safety, and what was not examined.

    A file that passes is safe to open. Whether it behaves like a backdoored model is a separate
    question, which these checks answer with "skipped".

    Args:
        architecture: what somebody says it is, which counts where the file does not tell.
    """
    checks = [
        Check(
            id="file.format",
            status=CheckStatus.PASSED,
            value=facts.format,
            evidence=f"the content is {facts.format}, whatever the extension says",
            severity=Severity.INFO,
        )
    ]
    for finding in facts.findings:
        refused = finding.severity.rank >= Severity.HIGH.rank
        status = CheckStatus.FAILED if refused else CheckStatus.MEASURED
        checks.append(Check(id=finding.id, status=status, evidence=finding.sentence, severity=finding.severity))
    if facts.safe and facts.tensors is None:
        evidence = "not all of this file could be listed, so whether it is safe to open is not known"
        checks.append(Check(id="file.safe-to-open", status=CheckStatus.SKIPPED, evidence=evidence))
    elif facts.safe:
        checks.append(
            Check(
                id="file.safe-to-open",
                status=CheckStatus.PASSED,
                evidence="reading this file runs no code from it, and its header agrees with its content",
                severity=Severity.INFO,
            )
        )
    named = _architecture(facts)
    if architecture is not None and named.status is CheckStatus.SKIPPED:
        told = "as it was told; the file does not tell"
        named = Check(id=named.id, status=CheckStatus.MEASURED, value=architecture, evidence=told)
    checks += [_finite_weights(facts), named]
    checks.append(
        Check(
            id="model.behaviour",
            status=CheckStatus.SKIPPED,
            evidence="whether the model behaves like a backdoored one was not examined",
        )
    )
    return tuple(checks)


def _finite_weights(facts: FileFacts) -> Check:
    """Whether every weight is an ordinary number; a model with others answers NaN, or the same class to all."""
    check_id, found = "file.non-finite-weights", facts.non_finite
    if found is None:
        why = facts.unread or "the file is not safe to open, so the values of its weights were not looked at"
        return Check(id=check_id, status=CheckStatus.SKIPPED, evidence=why, severity=Severity.INFO)
    if not found:
        told = "no weight is NaN or infinite"
        return Check(id=check_id, status=CheckStatus.PASSED, value=0, evidence=told, severity=Severity.INFO)
    first, *others = found
    nan, infinite = sum(tensor.nan for tensor in found), sum(tensor.infinite for tensor in found)
    more = f" and {len(others)} more tensors" if others else ""
    return Check(
        id=check_id,
        status=CheckStatus.FAILED,
        value=nan + infinite,
        evidence=f"{nan:,} NaN and {infinite:,} infinite values are among the weights, in {first.tensor[:100]!r}"
        f"{more}, so what the model answers means nothing; ask for an intact file",
        severity=Severity.HIGH,
    )


def _architecture(facts: FileFacts) -> Check:
    """What is known of the architecture, and from where."""
    check_id, found = "model.architecture", facts.recognition
    fitting = [architecture.name for architecture in found.fitting] if found else []
    if facts.description:
        told = facts.description.architecture
        own = "sau.schema" in facts.metadata
        evidence = "named by the file's own metadata" if own else "named by the configuration that came with it"
        if found and not told.startswith(("user:", "transformers:")):
            fits = told.partition("?")[0] in fitting
            evidence += ", and its tensors fit" if fits else ", which its tensors do not fit"
        return Check(id=check_id, status=CheckStatus.MEASURED, value=told, evidence=evidence)
    if len(fitting) == 1:
        evidence = "recognised by the names and shapes of its tensors"
        return Check(id=check_id, status=CheckStatus.MEASURED, value=fitting[0], evidence=evidence)
    if fitting:
        evidence = f"its tensors fit {', '.join(fitting[:5])}"
        evidence += f" and {len(fitting) - 5} more" if len(fitting) > 5 else ""
        return Check(id=check_id, status=CheckStatus.MEASURED, value=fitting[0], evidence=evidence)
    if facts.tensors is None:
        evidence = "its tensors were not read, so they do not tell"
        return Check(id=check_id, status=CheckStatus.SKIPPED, evidence=evidence)
    if found is None:
        evidence = "its tensors do not tell, as those of such files have no names of their own"
        return Check(id=check_id, status=CheckStatus.SKIPPED, evidence=evidence)
    near = (
        ", ".join(f"{architecture.name} ({architecture.share:.0%} of its tensors)" for architecture in found.nearest)
        if found
        else ""
    )
    evidence = "the file does not name its architecture, and its tensors are of none that sau knows"
    return Check(
        id=check_id,
        status=CheckStatus.SKIPPED,
        evidence=f"{evidence}{f'; nearest are {near}' if near else ''}; other commands have to be told it",
    )


def inspection_verdict(facts: FileFacts) -> tuple[Verdict, ExitCode]:
    """Unsafe; not to be evaluated, with weights that are missing or no numbers; or measured, never more than that."""
    if not facts.safe:
        return Verdict.UNSAFE, ExitCode.UNSAFE
    if facts.non_finite or facts.unread:
        return Verdict.NOT_EVALUATED, ExitCode.NOT_EVALUATED
    return Verdict.MEASURED, ExitCode.PASSED
