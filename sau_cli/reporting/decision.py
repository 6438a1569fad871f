"""What a report comes to, for people: a decision in a sentence, what to do next, and what was not examined."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from sau_cli.results import Check, CheckStatus, Report, Verdict, counted, subject

EASIEST = "behaviour.easiest-change"
"""The check of a test that judges by itself, and suspects a class of its own."""
FOLDER = "FOLDER"
"""Stands for the user's clean images in commands; what a stranger's file calls clean data is not taken for it."""
SHOWN_UNEXAMINED = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class NextStep:
    """Something to do, as a sentence, and the command that does it where there is one."""

    says: str
    command: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """For people who decide, in the order in which they read.

    Attributes:
        sentence: the decision, in plain words.
        reason: what it rests on; may be empty.
        unexamined: a sentence for each thing that was not looked at, and is not to be read as clean.
    """

    sentence: str
    reason: str
    next_steps: tuple[NextStep, ...]
    unexamined: tuple[str, ...]


def decision_of(report: Report) -> Decision:
    """The decision that a report comes to."""
    if report.models:
        sentence, reason, steps = _of_folder(report)
    elif report.error is not None and not _found(report, CheckStatus.FAILED):
        sentence, reason, steps = _of_error(report)
    else:
        sentence, reason, steps = _OF_COMMAND.get(report.command, _of_checks)(report)
    if report.error is not None and not report.models:
        steps = ()  # an error's sentence ends in what to do
    skipped = [check for check in report.checks if check.status is CheckStatus.SKIPPED]
    told = [_sentence(check.evidence if check.evidence else check.id) for check in skipped]
    return Decision(sentence=sentence, reason=reason, next_steps=steps, unexamined=_shortened(dict.fromkeys(told)))


_Told = tuple[str, str, tuple[NextStep, ...]]


def _of_folder(report: Report) -> _Told:
    what = "models were inspected" if report.command == "inspect" else f"jobs of sau {report.command} were run"
    told = f"{len(report.models)} {what}: {counted(report.models)}."
    if report.verdict in {Verdict.PASSED, Verdict.MEASURED}:
        return told, "Nothing was found in what was examined, which is no proof that there is nothing.", ()
    step = NextStep(says="Look at the models that did not pass, the worst first.")
    return told, "The verdict is that of the worst.", (step,)


_ENDED = {
    Verdict.UNSAFE: "Do not use this file: it is refused as unsafe.",
    Verdict.NOT_EVALUATED: "This could not be evaluated, and is not to be read as clean.",
    Verdict.INCONCLUSIVE: "This could not be settled, and is not to be read as passed.",
    Verdict.INTERRUPTED: "The run was interrupted.",
    Verdict.FAILED: "The run did not pass.",
}


def _of_error(report: Report) -> _Told:
    return _ENDED.get(report.verdict, "The run ended with an error."), _sentence(report.error or ""), ()


def _of_checks(report: Report) -> _Told:
    """Of a command of which nothing more is known."""
    words = {
        Verdict.PASSED: "Everything that was asked for ran, and passed.",
        Verdict.MEASURED: "It ran; nothing was asked to pass or fail.",
    }
    return words.get(report.verdict) or _ENDED.get(report.verdict, "It did not pass."), _worst(report), ()


def _of_inspection(report: Report) -> _Told:
    if report.verdict is Verdict.UNSAFE:
        step = NextStep(says="Ask whoever sent it for the weights alone, as safetensors.")
        return "Do not open this file: it is refused as unsafe.", _worst(report), (step,)
    if report.verdict is Verdict.NOT_EVALUATED:
        return "This model could not be examined, and is not to be read as clean.", _worst(report), ()
    failed, undecided = _first(report, CheckStatus.FAILED), _first(report, CheckStatus.INCONCLUSIVE)
    if failed is not None:
        return _of_failure(report, failed)
    return _without_finding(report) if undecided is None else _of_doubt(report, undecided)


def _of_failure(report: Report, check: Check) -> _Told:
    """Of an inspection with a check that failed."""
    if check.id.startswith("chain."):
        step = NextStep(says="Ask for the file again, from the place where it was made.")
        return "Do not trust where this file says that it comes from.", _sentence(check.evidence), (step,)
    if check.id == "attestation.verdict":
        return "Do not use this model: the statement on it says that it did not pass.", _sentence(check.evidence), ()
    if check.id.startswith("attestation."):
        step = NextStep(says="Ask for a statement on this very file, or inspect it anew.")
        return "Do not rely on the statement that was given with this model.", _sentence(check.evidence), (step,)
    if check.id.startswith("policy."):
        return "This model breaks your policy.", _sentence(check.evidence), _to_keep_policy(report, check)
    suspect = _suspect(report, check)
    target = f", with {suspect!r} as the likely target" if suspect else ""
    return f"Do not use this model: it behaves like one with a backdoor{target}.", "", _purify(report)


def _of_doubt(report: Report, check: Check) -> _Told:
    """Of an inspection with a check that is inconclusive."""
    reason = _sentence(check.evidence)
    if check.id.startswith("attestation."):
        step = NextStep(says="Inspect the model anew, with this version.")
        return "The statement that was given does not settle whether this model can be used.", reason, (step,)
    if check.id.startswith("policy."):
        return "Your policy could not be judged in full, so nothing is passed.", reason, ()
    if check.id == "residual.score":
        return "Do not use this model yet: a backdoor may be left in it.", reason, _purify(report)
    return "Do not use this model yet: it may have a backdoor.", reason, _purify(report)


def _without_finding(report: Report) -> _Told:
    """Of a model in which nothing was found, as far as anything was looked for."""
    found = {check.id: check for check in report.checks}
    score, residual = (found.get(name) for name in ("behaviour.score", "residual.score"))
    kept = "Your policy is kept. " if any(name.startswith("policy.") for name in found) else ""
    reason, steps = _sentence(_accuracy(report)), _look_closer(report)
    if score is not None and score.status is CheckStatus.PASSED:
        told, steps = "No sign of a backdoor was found, which is no proof that there is none.", _measure(report)
    elif residual is not None and residual.status is CheckStatus.PASSED:
        told = "No sign was found that a backdoor is left, which is no proof that there is none."
        reason, steps = _sentence(residual.evidence), _measure(report)
    elif score is not None and score.status is CheckStatus.MEASURED:
        told = "No sign of a backdoor was found, but too little was looked at to clear the model."
    elif (safe := found.get("file.safe-to-open")) is not None and safe.status is CheckStatus.PASSED:
        told = "The file is safe to open. Whether the model has a backdoor was not judged."
    else:
        told = "Nothing was found in what could be read. Whether the model has a backdoor was not judged."
    return f"{kept}{told}", reason, steps


def _of_purification(report: Report) -> _Told:
    residual = next((check for check in report.checks if check.id == "residual.score"), None)
    written = next(iter(report.outputs.values()), None)
    if written is None:
        return _of_checks(report)
    before, after = (_value(report, name) for name in ("held-back-accuracy.before", "held-back-accuracy"))
    kept = ""
    if isinstance(before, float) and isinstance(after, float):
        kept = f" Accuracy on clean images: {100 * before:.1f} % before, {100 * after:.1f} % after."
    model, out = shlex.quote(subject(report)), shlex.quote(written.path)
    measure = NextStep(
        says="Measure it on test images, with every trigger that you know (--trigger T).",
        command=f"sau evaluate {out} --reference {model}{_data(report)}",
    )
    if residual is not None and residual.status is CheckStatus.PASSED:
        told = "The model is purified, and no sign of a backdoor is left, which is no proof that there is none."
        return told, f"{_sentence(residual.evidence)}{kept}".strip(), (measure,)
    again = NextStep(says="Purify again: with more clean images, more --epochs, or another --seed.")
    reason = "" if residual is None else _sentence(residual.evidence)
    return "Do not use this model yet: it is purified, but not cleared.", f"{reason}{kept}".strip(), (again, measure)


def _of_evaluation(report: Report) -> _Told:
    rates = _rates(report)
    if report.verdict is Verdict.FAILED:
        return (
            "Do not ship this model: it is outside your limits.",
            f"{_worst(report)} {rates}".strip(),
            _purify(report),
        )
    if report.verdict is Verdict.INCONCLUSIVE:
        step = NextStep(says="Give more test images: the interval is then narrower.")
        return "The images cannot settle whether the model is within your limits.", _worst(report), (step,)
    if report.verdict is Verdict.PASSED:
        told = "The model is within your limits. That holds for what was measured, and for no other trigger."
        return told, rates, (_export(report),)
    step = NextStep(says="Give limits to judge by, such as --min-acc 90% and, with a trigger, --max-asr 5%.")
    return "The model was measured, not judged: no limit was given.", rates, (step,)


def _of_export(report: Report) -> _Told:
    written = report.outputs.get("onnx") or next(iter(report.outputs.values()), None)
    if written is None or report.verdict is Verdict.FAILED:
        return "No ONNX file was written: it did not compute what the model computes.", _worst(report), ()
    step = NextStep(says="See where the file comes from.", command=f"sau inspect {shlex.quote(written.path)}")
    agreement = next((check.evidence for check in report.checks if check.id == "export.agreement"), "")
    return "The ONNX file was verified against the model, and written.", _sentence(agreement), (step,)


def _of_attack(report: Report) -> _Told:
    written = next(iter(report.outputs.values()), None)
    if written is None:
        return _of_checks(report)
    step = NextStep(says="See whether your gate catches it.", command=f"sau inspect {shlex.quote(written.path)}")
    return "This model has a backdoor, on purpose: never ship it.", _rates(report), (step,)


_OF_COMMAND = {
    "inspect": _of_inspection,
    "purify": _of_purification,
    "evaluate": _of_evaluation,
    "export": _of_export,
    "attack": _of_attack,
}


def _purify(report: Report) -> tuple[NextStep, ...]:
    model, share = shlex.quote(subject(report)), _data(report) or " --clean-frac 0.05"
    command = f"sau purify {model}{share}{_given(report)}"
    return (
        NextStep(says="Remove the backdoor, if there is one, with clean images.", command=command),
        NextStep(says="Or ask for a model from a source that you trust."),
    )


OF_BACKDOORS = {"policy.max-score", "policy.max-asr", "policy.require-purified"}
"""Rules that a purified model may keep where the received one breaks them."""


def _to_keep_policy(report: Report, check: Check) -> tuple[NextStep, ...]:
    """What to do about a rule that is broken: no purification mends a format or a missing statement."""
    if check.id in OF_BACKDOORS:
        return _purify(report)
    return (NextStep(says="Ask for a model that keeps this rule, or change the rule if you can answer for it."),)


def _measure(report: Report) -> tuple[NextStep, ...]:
    model = shlex.quote(subject(report))
    return (
        NextStep(
            says="Measure the triggers that you know.",
            command=f"sau evaluate {model}{_data(report)}{_given(report)} --trigger T",
        ),
    )


def _look_closer(report: Report) -> tuple[NextStep, ...]:
    model = shlex.quote(subject(report))
    says = "Examine how it behaves on clean images, a folder with a sub-folder for each class."
    where = "" if "data" in _flags(report) else f" --data {FOLDER}"
    return (NextStep(says=says, command=f"sau inspect {model}{where} --effort standard{_given(report)}"),)


def _export(report: Report) -> NextStep:
    model = shlex.quote(subject(report))
    return NextStep(says="Export it as ONNX.", command=f"sau export {model} -o model.onnx")


def _data(report: Report) -> str:
    """The flag for data, unless the model's file or the command before names a well-known set.

    ``path:NAME`` in a file is somebody's folder.
    """
    if "data" in _flags(report):
        return ""
    description = (report.details.get("file") or {}).get("description") or {}
    named = report.details.get("described_data") or description.get("data")
    return "" if named and not named.startswith("path:") else f" --data {FOLDER}"


def _given(report: Report) -> str:
    """What the file does not tell and was given by flags, which the next command needs again."""
    return "".join(f" --{flag} {shlex.quote(value)}" for flag, value in _flags(report).items())


def _flags(report: Report) -> Mapping[str, str]:
    return report.details.get("given") or {}


def _suspect(report: Report, check: Check) -> str:
    """The class that a check of behaviour suspects."""
    behaviour: dict[str, Any] = report.details.get("behaviour") or {}
    found = behaviour.get("easiest_change") or {} if check.id == EASIEST else behaviour
    return str(found.get("suspected_class") or "")


def _value(report: Report, name: str) -> float | int | str | None:
    return next((check.value for check in report.checks if check.id == name), None)


def _accuracy(report: Report) -> str:
    accuracy = _value(report, "acc")
    return f"it classifies {100 * accuracy:.1f} % of the clean images correctly" if isinstance(accuracy, float) else ""


def _rates(report: Report) -> str:
    """Accuracy, and how often each trigger works, with the reference's before them where there is one."""
    told = []
    for check in report.checks:
        what = "Accuracy" if check.id == "acc" else f"ASR of {check.id[4:]}" if check.id.startswith("asr.") else ""
        if not what or not isinstance(check.value, float):
            continue
        before = _value(report, f"reference.{check.id}")
        came = f", {100 * before:.1f} % of the reference" if isinstance(before, float) else ""
        told.append(f"{what} {100 * check.value:.1f} %{came}.")
    return " ".join(told)


def _found(report: Report, status: CheckStatus) -> list[Check]:
    return [check for check in report.checks if check.status is status]


def _first(report: Report, status: CheckStatus) -> Check | None:
    """The check that decides: one of a file or a chain comes before the behaviour's, and a policy's comes last."""
    found = _found(report, status)
    return min(found, key=lambda check: check.id.startswith("policy."), default=None)


def _worst(report: Report) -> str:
    """The evidence of what failed, or else of what is open."""
    check = _first(report, CheckStatus.FAILED) or _first(report, CheckStatus.INCONCLUSIVE)
    return _sentence(check.evidence) if check else _sentence(report.error or "")


def _sentence(text: str) -> str:
    """With a capital and a full stop; nothing of nothing.

    >>> _sentence("no weight is NaN")
    'No weight is NaN.'
    """
    text = text.strip()
    return f"{text[0].upper()}{text[1:]}{'' if text[-1] in '.!?' else '.'}" if text else ""


def _shortened(sentences: Iterable[str]) -> tuple[str, ...]:
    told = tuple(sentences)
    more = len(told) - SHOWN_UNEXAMINED
    return told if more <= 0 else (*told[:SHOWN_UNEXAMINED], f"And {more} more, which the report lists.")
