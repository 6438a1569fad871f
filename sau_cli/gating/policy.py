"""A policy: what a gate demands of a model. Needs no torch.

A rule about the file is judged by the file, one about a measurement by the measures of the report. A measurement that
was not made never counts as passed.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, fields
from math import isfinite
from typing import Any

from sau_cli.description import Description, HistoryStep
from sau_cli.errors import UsageError
from sau_cli.gating.limits import at_least, at_most
from sau_cli.results import Check, CheckStatus, Measure, Severity

VERIFICATION = "sau.verification"
"""The entry of an ONNX file's metadata with the figures of its verification."""
LEAST_AGREEMENT = 0.95
"""Of real images, the share that gets the same class; no form that ``sau export`` writes owes less."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """The rules of a ``[policy]`` table; a rule that is not there demands nothing.

    Attributes:
        allowed_formats: formats by content, such as ``safetensors``.
        allowed_sha256: the files that are known, by SHA-256 in small letters.
        max_severity: of the findings in the file, the worst that is allowed.
        max_score: the highest score of the behaviour tests, a fraction.
        min_acc, max_asr: least accuracy, and most success of any trigger, on the data given, as fractions.
        max_drop: most loss of accuracy against the reference, as a fraction.
        require_purified: the file's history has a step of ``sau purify`` that its residual test cleared.
        require_onnx_verified: the file is ONNX with the figures of its verification.
        require_attestation: a signed statement says that this very file was inspected and passed.
    """

    allowed_formats: tuple[str, ...] | None = None
    allowed_sha256: tuple[str, ...] | None = None
    max_severity: Severity | None = None
    max_score: float | None = None
    min_acc: float | None = None
    max_asr: float | None = None
    max_drop: float | None = None
    require_purified: bool = False
    require_onnx_verified: bool = False
    require_attestation: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgedFile:
    """What the rules about a file are judged by.

    Attributes:
        metadata: as written in the file by whoever made it.
        worst: of the findings; None where nobody looked for them.
        beside: the SHA-256 of files that it keeps a part of itself in, by their place in its folder; None for a
            missing one.
        attestation: the checks of a statement on it; none where there is no statement, None where nobody looked.
    """

    format: str
    sha256: str
    metadata: Mapping[str, str]
    description: Description | None
    worst: Severity | None
    beside: Mapping[str, str | None] = field(default_factory=dict)
    attestation: tuple[Check, ...] | None = None


def parse_policy(table: Mapping[str, Any], source: str, *, formats: Collection[str] = ()) -> Policy:
    """A policy from a TOML table.

    Args:
        source: where the table is from, for the sentence of an error.
        formats: those that there are; none given, any name is believed.

    Raises:
        UsageError: a rule that does not exist, a value of the wrong kind or out of range, or rules that nothing can
            keep together.
    """
    known = {field.name.replace("_", "-"): field.name for field in fields(Policy)}
    for key in table:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"known rules are {', '.join(sorted(known))}"
            raise UsageError(f"the policy in {source} has a rule {key!r} that sau does not know; {hint}")
    allowed = _texts(table, "allowed-formats", source)
    for name in allowed or ():
        if formats and name not in formats:
            raise UsageError(
                f"the policy in {source} allows a format {name[:100]!r} that there is not; formats are "
                f"{', '.join(formats)}"
            )
    policy = Policy(
        allowed_formats=allowed,
        allowed_sha256=_digests(table, source),
        max_severity=_severity(table, source),
        max_score=_fraction(table, "max-score", source),
        min_acc=_fraction(table, "min-acc", source),
        max_asr=_fraction(table, "max-asr", source),
        max_drop=_fraction(table, "max-drop", source),
        require_purified=_yes(table, "require-purified", source),
        require_onnx_verified=_yes(table, "require-onnx-verified", source),
        require_attestation=_yes(table, "require-attestation", source),
    )
    if policy.require_onnx_verified and allowed is not None and "onnx" not in allowed:
        raise UsageError(
            f"the policy in {source} demands verified ONNX and does not allow the format onnx, so that nothing can "
            "pass; change allowed-formats or require-onnx-verified"
        )
    return policy


def judge_file(file: JudgedFile, policy: Policy) -> tuple[Check, ...]:
    """One check for each rule about the file itself. What a file tells of itself is only as true as its maker."""
    checks = []
    if policy.allowed_formats is not None:
        allowed = ", ".join(policy.allowed_formats)
        sentence = f"the format is {file.format}; allowed are {allowed}"
        kept = file.format in policy.allowed_formats
        checks.append(_rule("allowed-formats", kept, value=file.format, threshold=allowed, evidence=sentence))
    if policy.allowed_sha256 is not None:
        whole = {"": file.sha256} | {f" of {name[:100]}": sha256 for name, sha256 in file.beside.items()}
        strange = [name for name, sha256 in whole.items() if sha256 not in policy.allowed_sha256]
        known = not strange
        sentence = f"the SHA-256{' and'.join(strange)} is {'' if known else 'not '}on the list of known files"
        checks.append(_rule("allowed-sha256", known, value=file.sha256, evidence=sentence))
    if policy.max_severity is not None:
        checks.append(_judge_severity(file.worst, policy.max_severity))
    if policy.require_purified:
        history = file.description.history if file.description else ()
        last = next((step for step in reversed(history) if step.step == "purify"), None)
        cleared = last is not None and _cleared(last)
        told = ", ".join(step.step for step in history)[:200]
        sentence = "the history that the file tells is to have a purify step that its residual test cleared; "
        sentence += f"its steps are {told}" if told else "it tells no step"
        if last is not None and not cleared:
            sentence += ", and the last purify step is not cleared: purify again with this version or more images"
        checks.append(_rule("require-purified", cleared, value=told or None, evidence=sentence))
    if policy.require_onnx_verified:
        checks.append(_judge_verification(file))
    if policy.require_attestation:
        checks.append(_judge_attestation(file.attestation))
    return tuple(checks)


def judge_measures(
    checks: Sequence[Check], policy: Policy, *, unmeasured: CheckStatus, confident: bool = False
) -> tuple[Check, ...]:
    """One check for each rule about a measurement, by the measures that a report has.

    Args:
        checks: of the report: ``behaviour.score``, ``acc``, ``asr.NAME`` and ``acc-drop``.
        unmeasured: how a rule stands whose measurement was not made: inconclusive, or skipped.
        confident: judge rates by their intervals, as :func:`sau_cli.gating.limits.at_most` does.
    """
    return (
        *_judge_score(checks, policy.max_score, unmeasured),
        *_judge_rates(checks, policy, unmeasured, confident=confident),
    )


def _judge_score(checks: Sequence[Check], limit: float | None, unmeasured: CheckStatus) -> tuple[Check, ...]:
    if limit is None:
        return ()
    name, found = "policy.max-score", next((check for check in checks if check.id == "behaviour.score"), None)
    known = found is not None and isinstance(found.value, int | float) and isfinite(found.value)
    if found is None or not known or found.status is CheckStatus.SKIPPED:
        return (_unmeasured(name, limit, unmeasured, "the score of the behaviour tests", "they were not run"),)
    value = float(found.value or 0)
    sentence = f"the score is to be at most {limit:g} and is {value:.3g}"
    if value > limit:
        status = CheckStatus.FAILED
    elif found.status is CheckStatus.INCONCLUSIVE:
        status = CheckStatus.INCONCLUSIVE
        sentence += f", but it is inconclusive: {found.evidence}"
    elif found.status is CheckStatus.MEASURED:
        status = CheckStatus.INCONCLUSIVE
        sentence += f", but that clears no model: {found.evidence}"
    else:
        status = CheckStatus.PASSED
    return (Check(id=name, status=status, value=value, threshold=limit, ci95=found.ci95, evidence=sentence),)


def _judge_rates(
    checks: Sequence[Check], policy: Policy, unmeasured: CheckStatus, *, confident: bool
) -> tuple[Check, ...]:
    judged: list[Check] = []
    measures = {check.id: _measure(check) for check in checks}
    if (limit := policy.min_acc) is not None:
        measure = measures.get("acc")
        judged.append(
            at_least("policy.min-acc", measure, limit, confident=confident, what="ACC")
            if measure
            else _unmeasured("policy.min-acc", limit, unmeasured, "ACC", "there is no data")
        )
    if (limit := policy.max_asr) is not None:
        named = [(check.id.removeprefix("asr."), _measure(check)) for check in checks if check.id.startswith("asr.")]
        rates = [(trigger, measure) for trigger, measure in named if measure]
        if not rates:
            why = "no trigger was measured; sau evaluate measures one"
            judged.append(_unmeasured("policy.max-asr", limit, unmeasured, "ASR", why))
        for trigger, measure in rates:
            name = "policy.max-asr" if len(rates) == 1 else f"policy.max-asr.{trigger}"
            judged.append(at_most(name, measure, limit, confident=confident, what=f"ASR of {trigger}"))
    if (limit := policy.max_drop) is not None:
        measure = measures.get("acc-drop")
        why = "there is no reference; sau evaluate measures beside one"
        judged.append(
            at_most("policy.max-drop", measure, limit, confident=confident, what="the drop of ACC")
            if measure
            else _unmeasured("policy.max-drop", limit, unmeasured, "the drop of ACC", why)
        )
    return tuple(judged)


def _measure(check: Check) -> Measure | None:
    if not isinstance(check.value, int | float) or not isfinite(check.value) or check.ci95 is None:
        return None
    return Measure(value=float(check.value), ci95=check.ci95)


def _judge_severity(worst: Severity | None, limit: Severity) -> Check:
    if worst is None:
        sentence = "findings were not looked for; sau inspect looks for them"
        return Check(id="policy.max-severity", status=CheckStatus.SKIPPED, threshold=limit.value, evidence=sentence)
    sentence = f"the worst finding in the file is to be at most {limit.value} and is {worst.value}"
    kept = worst.rank <= limit.rank
    return _rule("max-severity", kept, value=worst.value, threshold=limit.value, evidence=sentence)


def _judge_verification(file: JudgedFile) -> Check:
    """A verified file has the figures that ``sau export`` and ``sau purify`` write once they are proven."""
    if file.format != "onnx":
        sentence = f"the file is to be ONNX that was verified, and is {file.format}"
        return _rule("require-onnx-verified", False, value=file.format, evidence=sentence)
    try:
        figures = json.loads(file.metadata.get(VERIFICATION, "null"))
    except (ValueError, RecursionError):
        figures = None
    agreement = figures.get("top1_agreement") if isinstance(figures, dict) else None
    if not isinstance(agreement, int | float) or isinstance(agreement, bool) or not isfinite(agreement):
        sentence = "the file tells no figures of a verification, as sau export writes them"
        return _rule("require-onnx-verified", False, value=None, evidence=sentence)
    real = isinstance(figures, dict) and figures.get("real_images") is True
    sentence = f"the file tells that it was verified, and that it agreed on {100 * agreement:.2f} % of "
    sentence += f"{'the' if real else 'random'} images"
    sentence += (
        "" if real and agreement >= LEAST_AGREEMENT else f"; {100 * LEAST_AGREEMENT:g} % of real ones is the least"
    )
    return _rule(
        "require-onnx-verified", real and agreement >= LEAST_AGREEMENT, value=float(agreement), evidence=sentence
    )


def _judge_attestation(found: tuple[Check, ...] | None) -> Check:
    """Every check of the statement has to pass, that of its signature too: anybody can write one without."""
    name, wanted = "policy.require-attestation", "a signed statement is to say that this file was inspected and passed"
    if found is None:
        sentence = f"{wanted}; sau inspect looks for one where it is given one"
        return Check(id=name, status=CheckStatus.SKIPPED, evidence=sentence)
    if not found:
        sentence = f"{wanted}, and none is given"
        return Check(id=name, status=CheckStatus.FAILED, evidence=sentence)
    failed = next((check for check in found if check.status is CheckStatus.FAILED), None)
    held = failed or next((check for check in found if check.status is not CheckStatus.PASSED), None)
    if held is None:
        return Check(id=name, status=CheckStatus.PASSED, evidence=f"{wanted}, and one does")
    status = CheckStatus.FAILED if failed else CheckStatus.INCONCLUSIVE
    return Check(id=name, status=status, evidence=f"{wanted}, but {held.evidence}")


def _cleared(step: HistoryStep) -> bool:
    """Whether a purify step tells that its residual test cleared what came of it; one without a test does not."""
    residual = step.settings.get("residual")
    return isinstance(residual, Mapping) and residual.get("cleared") is True


def _rule(name: str, kept: bool, *, value: str | float | None, evidence: str, threshold: str | None = None) -> Check:
    status = CheckStatus.PASSED if kept else CheckStatus.FAILED
    return Check(id=f"policy.{name}", status=status, value=value, threshold=threshold, evidence=evidence)


def _unmeasured(name: str, limit: float, status: CheckStatus, what: str, why: str) -> Check:
    return Check(id=name, status=status, threshold=limit, evidence=f"{what} was not measured: {why}")


def _fraction(table: Mapping[str, Any], key: str, source: str) -> float | None:
    value = table.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise UsageError(f"the policy in {source} sets {key} to {value!r}; give a fraction from 0 to 1, such as 0.9")
    return float(value)


def _yes(table: Mapping[str, Any], key: str, source: str) -> bool:
    value = table.get(key, False)
    if not isinstance(value, bool):
        raise UsageError(f"the policy in {source} sets {key} to {value!r}; give true or false")
    return value


def _severity(table: Mapping[str, Any], source: str) -> Severity | None:
    value = table.get("max-severity")
    if value is None:
        return None
    if not isinstance(value, str) or value not in set(Severity):
        raise UsageError(f"the policy in {source} sets max-severity to {value!r}; give one of {', '.join(Severity)}")
    return Severity(value)


def _digests(table: Mapping[str, Any], source: str) -> tuple[str, ...] | None:
    given = _texts(table, "allowed-sha256", source)
    if given is None:
        return None
    digests = tuple(digest.lower() for digest in given)
    wrong = next((digest for digest in digests if not re.fullmatch("[0-9a-f]{64}", digest)), None)
    if wrong is not None:
        raise UsageError(
            f"the policy in {source} has {wrong[:100]!r} in allowed-sha256, which is no SHA-256; give 64 hexadecimal "
            "digits, as sau inspect shows them"
        )
    return digests


def _texts(table: Mapping[str, Any], key: str, source: str) -> tuple[str, ...] | None:
    value = table.get(key)
    if value is None:
        return None
    if not isinstance(value, list) or not value or not all(isinstance(text, str) for text in value):
        raise UsageError(f"the policy in {source} sets {key} to {value!r}; give a list of texts")
    return tuple(value)
