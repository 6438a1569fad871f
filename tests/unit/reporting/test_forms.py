"""Each form of a report says what the document says, is valid by others' measure, and is safe whatever a file says."""

from __future__ import annotations

import gzip
import json
from dataclasses import replace
from pathlib import Path

import jsonschema
import pytest
from junitparser import JUnitXml

from sau_cli.errors import ExitCode, UsageError
from sau_cli.reporting.formats import ReportFormat, format_of, rendered
from sau_cli.results import Check, CheckStatus, InputFile, Report, Severity, Verdict
from tests.conftest import ROOT

HOSTILE = "<script>alert(1)</script> | `x` [a](b)\x1b[2J\x00\n# title"
SCHEMAS = ROOT / "tests" / "support" / "schemas"


def report(*, error: str | None = None, text: str = "fine") -> Report:
    checks = [
        Check(
            id=f"check.{status.value}", status=status, evidence=f"{text} {status.value}", value=0.5, ci95=(0.25, 0.75)
        )
        for status in CheckStatus
    ]
    checks.append(Check(id="odd", status=CheckStatus.MEASURED, evidence=text, value=float("nan"), threshold=text))
    return Report(
        tool_version="0.1.0",
        command="inspect",
        inputs=(InputFile(path=f"a {text}.safetensors", sha256="0" * 64), InputFile(path="/abs/b", sha256="1" * 64)),
        verdict=Verdict.FAILED,
        exit_code=ExitCode.LIMIT_FAILED,
        checks=tuple(checks),
        environment={"python": "3"},
        outputs={"weights": InputFile(path=text, sha256="2" * 64)},
        details={"file": {"format": text, "size_bytes": 1234, "tensors": None, "description": None}},
        error=error,
    )


def schema(name: str) -> dict:
    with gzip.open(SCHEMAS / name, "rt", encoding="utf-8") as file:
        return json.load(file)


@pytest.mark.parametrize("text", ["fine", HOSTILE])
@pytest.mark.parametrize("error", [None, f"broken {HOSTILE}"])
def test_sarif_is_valid_by_the_standards_own_schema(text, error):
    document = json.loads(rendered(report(text=text, error=error), ReportFormat.SARIF))
    jsonschema.validate(document, schema("sarif-2.1.0.json.gz"))
    (run,) = document["runs"]
    kinds = {result["ruleId"]: (result["kind"], result["level"]) for result in run["results"]}
    assert kinds["check.failed"] == ("fail", "error")
    assert kinds["check.skipped"] == ("notApplicable", "none")
    assert kinds["check.inconclusive"] == ("open", "none")
    assert run["invocations"][0]["exitCode"] == 1
    assert run["invocations"][0]["executionSuccessful"] is (error is None)


def test_the_document_is_valid_by_its_published_schema():
    published = json.loads((ROOT / "sau_cli" / "reporting" / "report.schema.json").read_text())
    jsonschema.Draft202012Validator.check_schema(published)
    for error in (None, "broken"):
        jsonschema.validate(json.loads(rendered(report(error=error), ReportFormat.JSON)), published)


@pytest.mark.parametrize("text", ["fine", HOSTILE])
def test_junit_can_be_read_again_and_counts_right(text):
    document = JUnitXml.fromstring(rendered(report(text=text, error=f"broken {text}"), ReportFormat.JUNIT).encode())
    (suite,) = list(document)
    assert (suite.tests, suite.failures, suite.errors, suite.skipped) == (7, 1, 2, 1)


def test_markdown_keeps_a_table_a_table():
    text = rendered(report(text=HOSTILE, error=HOSTILE), ReportFormat.MARKDOWN)
    assert "<script>" not in text
    assert "\x1b" not in text
    lines = text.splitlines()
    rows = [line for line in lines if line.startswith("| `check.")]
    assert len(rows) == 5
    assert all(line.replace("\\|", "").count("|") == 5 for line in rows)
    assert lines[0] == "## sau inspect: failed"
    assert sum(line.startswith("#") for line in lines) == 1


def test_the_page_escapes_what_a_stranger_says_and_needs_no_network():
    page = rendered(report(text=HOSTILE, error=HOSTILE), ReportFormat.HTML)
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert "http://" not in page.split("<details>")[0]
    assert "https://" not in page.split("<details>")[0]
    assert page.index("failed") < page.index("Checks")
    assert "not examined" in page


def test_forms_are_told_by_suffix():
    assert format_of(Path("a.SARIF")) is ReportFormat.SARIF
    with pytest.raises(UsageError, match=r"\.html"):
        format_of(Path("report.pdf"))


def test_names_in_markdown_are_as_they_are():
    check = Check(id="asr.my_attack|x", status=CheckStatus.FAILED, evidence="so", severity=Severity.CRITICAL)
    text = rendered(replace(report(), checks=(check,)), ReportFormat.MARKDOWN)
    assert "| `asr.my_attack\\|x` | ❌ failed, critical |" in text


def test_a_model_that_was_never_read_is_in_every_form():
    lost = replace(
        report(error="gone"), inputs=(), checks=(), details={"path": "a b.pt"}, verdict=Verdict.NOT_EVALUATED
    )
    folder = replace(report(), checks=(), inputs=(), models=(lost, report()), details={"folder": "m"})
    for form in ReportFormat:
        text = rendered(folder, form)
        assert "gone" in text, form
        assert ("a%20b.pt" if form is ReportFormat.SARIF else "a b.pt") in text, form
    sarif = json.loads(rendered(folder, ReportFormat.SARIF))
    jsonschema.validate(sarif, schema("sarif-2.1.0.json.gz"))
    published = json.loads((ROOT / "sau_cli" / "reporting" / "report.schema.json").read_text())
    jsonschema.validate(json.loads(rendered(folder, ReportFormat.JSON)), published)
