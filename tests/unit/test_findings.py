"""What a command finds, up to its report."""

from __future__ import annotations

import pytest

from sau_cli.commands.findings import Findings
from sau_cli.errors import ExitCode
from sau_cli.results import Check, CheckStatus, InputFile, Verdict


def check(name: str, status: CheckStatus = CheckStatus.MEASURED) -> Check:
    return Check(id=name, status=status, evidence=name)


def test_what_is_found_stays_in_its_order():
    findings = Findings("inspect")
    findings.add(check("a"), check("b"))
    findings.tell(size=1)
    findings.tell(size=2, kind="x")
    findings.took(InputFile(path="m", sha256="0"))
    findings.took(InputFile(path="m", sha256="0"))
    findings.ran_on(device="cpu")
    report = findings.report(machine={"cpus": 2})
    assert [found.id for found in report.checks] == ["a", "b"]
    assert report.details == {"size": 2, "kind": "x"}
    assert report.environment == {"cpus": 2, "device": "cpu"}
    assert len(report.inputs) == 1
    assert (report.verdict, report.exit_code, report.error) == (Verdict.MEASURED, ExitCode.PASSED, None)


def test_an_answer_takes_the_place_of_the_question_that_asked_for_it():
    findings, question = Findings("inspect"), check("model.behaviour", CheckStatus.SKIPPED)
    findings.add(question, check("chain"))
    findings.answer(question, check("behaviour.score"))
    assert [found.id for found in findings.checks] == ["chain", "behaviour.score"]
    with pytest.raises(ValueError, match="not in list"):
        findings.answer(question)


def test_an_error_does_not_hide_what_failed_before_it():
    findings = Findings("evaluate")
    findings.add(check("limit", CheckStatus.FAILED))
    report = findings.report(("it broke", ExitCode.NOT_EVALUATED), machine={})
    assert (report.verdict, report.exit_code, report.error) == (Verdict.FAILED, ExitCode.LIMIT_FAILED, "it broke")
    findings.judge(Verdict.UNSAFE, ExitCode.UNSAFE)
    assert findings.report(("it broke", ExitCode.INTERNAL), machine={}).exit_code == ExitCode.UNSAFE


@pytest.mark.parametrize("code", [ExitCode.USAGE, ExitCode.INCONCLUSIVE, ExitCode.UNSAFE])
def test_an_error_is_the_verdict_where_nothing_failed(code):
    assert Findings("export").report(("so it is", code), machine={}).exit_code == code
