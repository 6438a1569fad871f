"""The verdict as a statement: what it tells, and that no changed byte of it is believed."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from google.protobuf.json_format import Parse
from in_toto_attestation.v1 import statement_pb2
from in_toto_attestation.v1.statement import Statement

from sau_cli.errors import ExitCode
from sau_cli.exporting.attestation import INSPECTION_PREDICATE, attestation_checks, verdict_statement
from sau_cli.results import Check, CheckStatus, InputFile, Report, Severity, Verdict

SHA, BESIDE = "a" * 64, "b" * 64
CALIBRATION = {
    "name": "with-data",
    "sha256": "c" * 64,
    "threshold": 0.4,
    "accused_at_most": 0.1,
    "measured": {"found": 5},
}
WHEN = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
SIGNED = Check(id="attestation.signature", status=CheckStatus.PASSED, evidence="holds")
FILES = {"x.safetensors": SHA, "x.data": BESIDE}


def report(**changes: object) -> Report:
    checks = (
        Check(id="file.safe-to-open", status=CheckStatus.PASSED, evidence="safe", severity=Severity.INFO),
        Check(id="behaviour.score", status=CheckStatus.PASSED, evidence="secret/place", value=0.1, threshold=0.4),
    )
    base = Report(
        tool_version="1.0",
        command="inspect",
        inputs=(InputFile(path="secret/place/x.safetensors", sha256=SHA),),
        verdict=Verdict.PASSED,
        exit_code=ExitCode.PASSED,
        checks=checks,
        environment={},
        outputs={},
        details={
            "file": {"path": "secret/place/x.safetensors", "sha256": SHA, "beside": {"x.data": BESIDE, "gone": None}},
            "behaviour": {"calibration": CALIBRATION, "seeds": [{"seed": 0}, {"seed": 1}]},
            "data": {"name": "digits", "images": 9, "sha256": "d" * 64},
        },
    )
    return replace(base, **changes)


def written(**changes: object) -> str:
    text = verdict_statement(report(**changes), examined_on=WHEN)
    assert text is not None
    return text


def statuses(text: str, **changes: object) -> dict[str, CheckStatus]:
    return {check.id.removeprefix("attestation."): check.status for check in checks_of(text, **changes)}


def checks_of(text: str, **changes: object) -> tuple[Check, ...]:
    settings = {
        "files": FILES,
        "found": {"file.safe-to-open": CheckStatus.PASSED},
        "calibrations": {"with-data": "c" * 64},
        "version": "1.0",
        "signature": SIGNED,
    }
    return attestation_checks(text, **(settings | changes))


def forged(text: str, **changes: object) -> str:
    """A statement that says something else and is whole all the same, as whoever has no key can write it."""
    told = json.loads(text)
    told["predicate"] |= changes
    del told["predicate"]["contentSha256"]
    told["predicate"]["contentSha256"] = hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()
    return json.dumps(told, indent=2) + "\n"


def test_the_library_of_in_toto_reads_what_it_tells():
    text = written()
    told = json.loads(text)
    Statement.copy_from_pb(Parse(text, statement_pb2.Statement())).validate()
    assert told["predicateType"] == INSPECTION_PREDICATE
    assert told["subject"] == [{"name": name, "digest": {"sha256": sha256}} for name, sha256 in FILES.items()]
    predicate = told["predicate"]
    assert predicate["tool"] == {"name": "sau", "version": "1.0"}
    assert (predicate["verdict"], predicate["exitCode"], predicate["seeds"]) == ("passed", 0, [0, 1])
    assert predicate["examinedOn"] == "2026-01-02T03:04:05+00:00"
    assert predicate["checks"][1] == {"id": "behaviour.score", "status": "passed", "value": 0.1, "threshold": 0.4}
    assert predicate["calibration"] == CALIBRATION
    assert predicate["data"]["sha256"] == "d" * 64
    assert "secret" not in text


def test_what_was_not_examined_to_the_end_has_none():
    assert verdict_statement(report(details={}), examined_on=WHEN) is None
    assert verdict_statement(report(error="broken"), examined_on=WHEN) is None


def test_a_statement_on_this_model_holds():
    names = ("contents", "signature", "subject", "agreement", "calibration", "verdict")
    assert statuses(written()) == dict.fromkeys(names, CheckStatus.PASSED)


def test_no_byte_can_be_changed():
    text = written()
    for place in range(len(text)):
        changed = text[:place] + ("x" if text[place] != "x" else "y") + text[place + 1 :]
        assert statuses(changed)["contents"] is CheckStatus.FAILED, text[max(0, place - 20) : place + 20]
        shorter = text[:place] + text[place + 1 :]
        assert statuses(shorter)["contents"] is CheckStatus.FAILED
    assert statuses(text + "\n")["contents"] is CheckStatus.FAILED


@pytest.mark.parametrize("text", ["", "[]", "{}", "null", "[" * 100_000, '{"_type": "x"}', '{"predicate": NaN}'])
def test_what_is_no_statement_is_said_to_be_none(text):
    assert statuses(text) == {"contents": CheckStatus.FAILED, "signature": CheckStatus.PASSED}


@pytest.mark.parametrize(
    "changes",
    [{"checks": 5}, {"checks": [5]}, {"verdict": "fine"}, {"verdict": None}, {"tool": None}, {"calibration": 5}],
)
def test_strange_contents_are_told_and_never_a_bug(changes):
    found = statuses(forged(written(), **changes))
    assert found["contents"] is CheckStatus.FAILED or "verdict" in found


def test_another_model_another_finding_and_a_lie():
    text = written()
    assert statuses(text, files={"x.safetensors": "0" * 64})["subject"] is CheckStatus.FAILED
    assert statuses(text, files={**FILES, "more.data": "0" * 64})["subject"] is CheckStatus.FAILED
    assert statuses(text, found={"file.safe-to-open": CheckStatus.FAILED})["agreement"] is CheckStatus.FAILED
    lie = forged(text, checks=[{"id": "behaviour.score", "status": "failed"}])
    (contents, *_) = checks_of(lie)
    assert contents.status is CheckStatus.FAILED
    assert "tells of a check that failed" in contents.evidence


def test_a_calibration_that_is_no_more_is_open_and_one_that_never_was_fails():
    text = written()
    assert statuses(text, calibrations={"with-data": "0" * 64})["calibration"] is CheckStatus.FAILED
    found = {check.id: check for check in checks_of(text, calibrations={"with-data": "0" * 64}, version="2.0")}
    assert found["attestation.calibration"].status is CheckStatus.INCONCLUSIVE
    assert "sau 1.0" in found["attestation.calibration"].evidence
    assert statuses(forged(text, calibration=None), calibrations={})["calibration"] is CheckStatus.PASSED


@pytest.mark.parametrize(
    ("verdict", "status"),
    [
        (Verdict.PASSED, CheckStatus.PASSED),
        (Verdict.MEASURED, CheckStatus.MEASURED),
        (Verdict.INCONCLUSIVE, CheckStatus.INCONCLUSIVE),
        (Verdict.NOT_EVALUATED, CheckStatus.INCONCLUSIVE),
        (Verdict.FAILED, CheckStatus.FAILED),
        (Verdict.UNSAFE, CheckStatus.FAILED),
    ],
)
def test_the_verdict_is_told_as_it_stands(verdict, status):
    assert statuses(written(verdict=verdict))["verdict"] is status
