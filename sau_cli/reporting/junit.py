"""A report as JUnit XML, which CI servers read: a test case for each check."""

from __future__ import annotations

from junitparser import Error, Failure, JUnitXml, Skipped, TestCase, TestSuite

from sau_cli.results import Check, CheckStatus, Report, subject


def to_junit(report: Report) -> str:
    """The document, ending in a newline. What could not be settled is an error, what was not examined is skipped.

    A folder is a suite, and so is each model in it.
    """
    document = JUnitXml("sau")
    document.add_testsuite(_suite(report, f"sau {report.command}"))
    for model_report in report.models:
        document.add_testsuite(_suite(model_report, _xml(f"sau {report.command} {subject(model_report)}")))
    return str(document.tostring().decode()) + "\n"


def _suite(report: Report, name: str) -> TestSuite:
    suite = TestSuite(name)
    for check in report.checks:
        suite.add_testcase(_case(check, report.command))
    if report.error:
        case = TestCase("the whole run", classname=f"sau.{report.command}")
        case.result = [Error(_xml(report.error), type_=report.verdict.value)]
        suite.add_testcase(case)
    return suite


def _case(check: Check, command: str) -> TestCase:
    case = TestCase(_xml(check.id), classname=f"sau.{command}")
    evidence = _xml(check.evidence)
    match check.status:
        case CheckStatus.FAILED:
            case.result = [Failure(evidence, type_="failed")]
        case CheckStatus.INCONCLUSIVE:
            case.result = [Error(evidence, type_="inconclusive")]
        case CheckStatus.SKIPPED:
            case.result = [Skipped(evidence)]
        case CheckStatus.PASSED | CheckStatus.MEASURED:
            case.system_out = evidence
    return case


def _xml(text: str) -> str:
    """Without what XML cannot hold, whoever wrote it."""
    return "".join(character if character.isprintable() or character == "\n" else "?" for character in text)
