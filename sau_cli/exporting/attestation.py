"""The verdict on a model as a statement: an in-toto Statement v1 that binds it to the bytes that were examined.

A statement says of itself which bytes it has, so that damage shows. Who can write one can write another: only a
signature binds it to somebody.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from datetime import datetime
from pathlib import PurePath
from typing import Any

from sau_cli.exporting.provenance import STATEMENT_TYPE, sha256_in
from sau_cli.reporting.json_document import plain
from sau_cli.results import STATUS_OF_VERDICT, Check, CheckStatus, Report, Verdict, verdict_of

INSPECTION_PREDICATE = "urn:sau:inspection:v1"
FIELDS = ("tool", "examinedOn", "verdict", "exitCode", "checks", "seeds", "calibration", "data", "contentSha256")
_OPEN = {Verdict.INCONCLUSIVE, Verdict.NOT_EVALUATED, Verdict.INTERRUPTED}


def verdict_statement(report: Report, *, examined_on: datetime) -> str | None:
    """The statement on a model, as the text of its file; None where no model was read or an error ended the work.

    Args:
        report: of ``inspect``, on one model.
        examined_on: when, with its time zone.
    """
    file: Mapping[str, Any] | None = report.details.get("file")
    if file is None or report.error is not None:
        return None
    subjects = _subjects(str(file["path"]), str(file["sha256"]), file.get("beside") or {})
    behaviour: Mapping[str, Any] = report.details.get("behaviour") or {}
    predicate = {
        "tool": {"name": "sau", "version": report.tool_version},
        "examinedOn": examined_on.isoformat(timespec="seconds"),
        "verdict": report.verdict.value,
        "exitCode": int(report.exit_code),
        "checks": [_told(check) for check in report.checks],
        "seeds": [seed["seed"] for seed in behaviour.get("seeds") or []],
        "calibration": behaviour.get("calibration"),
        "data": report.details.get("data"),
    }
    told = {"_type": STATEMENT_TYPE, "subject": subjects, "predicateType": INSPECTION_PREDICATE, "predicate": predicate}
    return _written({**told, "predicate": {**predicate, "contentSha256": _content_sha256(told)}})


def attestation_checks(
    text: str,
    *,
    files: Mapping[str, str],
    found: Mapping[str, CheckStatus],
    calibrations: Mapping[str, str],
    version: str,
    signature: Check,
) -> tuple[Check, ...]:
    """Whether a statement is whole, is about this model, and still counts; and the verdict that it tells.

    Args:
        text: of the statement.
        files: the SHA-256 of each file of the model, by name.
        found: how checks of the file itself stand now, by their ids.
        calibrations: the SHA-256 of those that this version ships, by name.
        version: of this tool.
        signature: whether that of the statement holds.
    """
    told = _parsed(text)
    broken = _broken(text, told)
    if told is None or broken:
        return (_check("contents", CheckStatus.FAILED, broken), signature)
    predicate = told["predicate"]
    return (
        _check("contents", CheckStatus.PASSED, "the statement is whole"),
        signature,
        _subject(told, files),
        _agreement(predicate, found),
        _calibration(predicate, calibrations, version),
        _verdict(predicate),
    )


def _subjects(path: str, sha256: str, beside: Mapping[str, str | None]) -> list[dict[str, Any]]:
    whole = {PurePath(path).name: sha256} | {name: digest for name, digest in beside.items() if digest is not None}
    return [{"name": name, "digest": {"sha256": digest}} for name, digest in whole.items()]


def _told(check: Check) -> dict[str, Any]:
    """A check without its sentence, which may tell of places on the machine that made it."""
    told = {field: plain(getattr(check, field)) for field in ("id", "status", "value", "threshold", "ci95", "severity")}
    return {field: value for field, value in told.items() if value is not None}


def _written(told: Mapping[str, Any]) -> str:
    return json.dumps(told, indent=2, allow_nan=False) + "\n"


def _content_sha256(told: Mapping[str, Any]) -> str:
    """Of a statement without this very field."""
    predicate = {name: value for name, value in told["predicate"].items() if name != "contentSha256"}
    text = json.dumps({**told, "predicate": predicate}, sort_keys=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def _parsed(text: str) -> dict[str, Any] | None:
    try:
        told = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return told if isinstance(told, dict) else None


def _broken(text: str, told: Mapping[str, Any] | None) -> str:
    """What keeps a statement from being one that ``sau inspect --attest`` wrote, in words; nothing where it is."""
    if told is None:
        return "the statement is no JSON object; get it again"
    if told.get("_type") != STATEMENT_TYPE or told.get("predicateType") != INSPECTION_PREDICATE:
        return f"it is no in-toto statement of an inspection ({INSPECTION_PREDICATE}); give one that sau inspect wrote"
    try:
        return _changed(text, told)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return "the statement is damaged; get it again"


def _changed(text: str, told: Mapping[str, Any]) -> str:
    """The same, of a statement of the right type. Raises nearly anything where a field is not what it should be."""
    predicate = told["predicate"]
    if set(predicate) != set(FIELDS) or not [sha256_in(subject) for subject in told["subject"]]:
        return "the statement lacks what one of an inspection says, or says more; get it again"
    if predicate["contentSha256"] != _content_sha256(told) or text != _written(told):
        return "the statement was changed after it was written; get it again"
    verdict, checks = Verdict(predicate["verdict"]), tuple(_read(check) for check in predicate["checks"])
    if verdict in STATUS_OF_VERDICT and verdict_of(checks)[0] is Verdict.FAILED:
        return f"the statement says {verdict.value} and tells of a check that failed, so it cannot be trusted"
    return ""


def _read(told: Mapping[str, Any]) -> Check:
    return Check(id=str(told["id"]), status=CheckStatus(told["status"]), evidence="")


def _subject(told: Mapping[str, Any], files: Mapping[str, str]) -> Check:
    known = {sha256_in(subject) for subject in told["subject"]}
    strange = [name for name, sha256 in files.items() if sha256 not in known]
    if strange:
        sentence = f"the statement is about other files than {', '.join(strange)[:200]}, whose SHA-256 it does not name"
        return _check("subject", CheckStatus.FAILED, sentence)
    return _check("subject", CheckStatus.PASSED, "the statement is about these files, by their SHA-256")


def _agreement(predicate: Mapping[str, Any], found: Mapping[str, CheckStatus]) -> Check:
    """Whether checks of the file, which depend on its bytes alone, stand as they did."""
    said = {str(check["id"]): str(check["status"]) for check in predicate["checks"]}
    other = [name for name, status in found.items() if name in said and said[name] != status.value]
    if other:
        sentence = f"the statement tells {said[other[0]]} of {other[0]}, which is {found[other[0]].value} now"
        return _check("agreement", CheckStatus.FAILED, sentence)
    return _check("agreement", CheckStatus.PASSED, "it agrees with what the file shows now")


def _calibration(predicate: Mapping[str, Any], shipped: Mapping[str, str], version: str) -> Check:
    told, by = predicate["calibration"], str((predicate["tool"] or {}).get("version", "?"))[:50]
    if not isinstance(told, dict):
        return _check("calibration", CheckStatus.PASSED, "the behaviour was not judged, so no calibration counts")
    name = str(told.get("name", ""))
    if told.get("sha256") == shipped.get(name):
        return _check("calibration", CheckStatus.PASSED, "the calibration is that of this version")
    if by != version:
        sentence = f"the verdict is by the calibration of sau {by}, and that of sau {version} is another; inspect anew"
        return _check("calibration", CheckStatus.INCONCLUSIVE, sentence)
    return _check(
        "calibration", CheckStatus.FAILED, f"the verdict is by a calibration that sau {version} does not have"
    )


def _verdict(predicate: Mapping[str, Any]) -> Check:
    verdict = Verdict(predicate["verdict"])
    held = CheckStatus.INCONCLUSIVE if verdict in _OPEN else CheckStatus.FAILED
    when = str(predicate["examinedOn"])[:40]
    return Check(
        id="attestation.verdict",
        status=STATUS_OF_VERDICT.get(verdict, held),
        value=verdict.value,
        evidence=f"the statement of {when} says {verdict.value}",
    )


def _check(name: str, status: CheckStatus, evidence: str) -> Check:
    return Check(id=f"attestation.{name}", status=status, evidence=evidence)
