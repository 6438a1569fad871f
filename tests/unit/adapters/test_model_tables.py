"""Tables of models as files: one schema in every form, a value where there is one, and nothing left half-written."""

from __future__ import annotations

import csv
import json
from dataclasses import replace

import pytest

from sau_adapters.model_tables import check_table, write_table
from sau_cli.errors import ExitCode, UsageError
from sau_cli.reporting.model_table import COLUMNS, rows_of
from sau_cli.results import Check, CheckStatus, InputFile, Report, Verdict


def report(path: str, **changes: object) -> Report:
    base = Report(
        tool_version="1.2.3",
        command="inspect",
        inputs=(InputFile(path=path, sha256="a" * 64),),
        verdict=Verdict.PASSED,
        exit_code=ExitCode.PASSED,
        checks=(),
        environment={},
        outputs={},
        details={},
    )
    return replace(base, **changes)


SCORE = Check(id="behaviour.score", status=CheckStatus.FAILED, evidence="bad", value=0.9, threshold=0.5)
ACC = Check(id="acc", status=CheckStatus.MEASURED, evidence="", value=0.8, ci95=(0.7, 0.85))
FILE = {
    "format": "safetensors",
    "size_bytes": 10,
    "sha256": "b" * 64,
    "tensors": [],
    "description": {
        "architecture": "small_cnn",
        "class_names": ["a", "b"],
        "input": {"channels": 3, "height": 8, "width": 8},
        "history": [],
    },
}


def fleet() -> Report:
    bad = report(
        "m/bad.safetensors",
        verdict=Verdict.FAILED,
        exit_code=ExitCode.LIMIT_FAILED,
        checks=(SCORE, ACC, replace(SCORE, id="x", status=CheckStatus.SKIPPED)),
        details={"file": FILE, "parameters": 7, "behaviour": {"suspected_class": "b", "seeds": []}},
    )
    lost = report("=m/x\ud800", verdict=Verdict.NOT_EVALUATED, exit_code=ExitCode.NOT_EVALUATED, error="it is cut")
    skipped = Check(id="skipped.sub/link", status=CheckStatus.SKIPPED, evidence="a link")
    return report("", models=(bad, lost), checks=(skipped,), details={"folder": "m"})


def test_a_row_has_what_was_found_and_none_for_what_was_not():
    bad, lost, skipped = rows_of(fleet())
    assert (bad.path, bad.sha256, bad.format, bad.architecture) == (
        "m/bad.safetensors",
        "b" * 64,
        "safetensors",
        "small_cnn",
    )
    assert (bad.classes, bad.parameters, bad.size_bytes) == (2, 7, 10)
    assert (bad.verdict, bad.exit_code, bad.finding) == ("failed", 1, "behaviour.score: bad")
    assert (bad.score, bad.threshold, bad.suspected_class) == (0.9, 0.5, "b")
    assert (bad.accuracy, bad.accuracy_low, bad.accuracy_high) == (0.8, 0.7, 0.85)
    assert (bad.failed, bad.inconclusive, bad.not_examined) == (1, 0, 1)
    assert (lost.error, lost.format, lost.score, lost.classes) == ("it is cut", None, None, None)
    assert (skipped.path, skipped.verdict, skipped.exit_code, skipped.finding) == (
        "m/sub/link",
        "skipped",
        None,
        "a link",
    )


def test_a_command_that_came_to_no_model_has_no_row():
    assert list(rows_of(report("", inputs=(), error="no such file"))) == []


def test_json_lines_and_csv_hold_the_same(tmp_path):
    for name in ("t.jsonl", "t.csv"):
        write_table(tmp_path / name, fleet())
    lines = [json.loads(line) for line in (tmp_path / "t.jsonl").read_text().splitlines()]
    assert [tuple(line) for line in lines] == [COLUMNS] * 3
    with (tmp_path / "t.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["verdict"] for row in rows] == [line["verdict"] for line in lines]
    assert rows[1]["path"] == "'=m/x?"  # no spreadsheet computes it
    assert rows[1]["score"] == ""


def test_parquet_has_types_also_where_a_column_is_empty(tmp_path):
    pyarrow = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    from pyarrow import parquet

    write_table(tmp_path / "t.parquet", report("m/x"))
    found = parquet.read_table(tmp_path / "t.parquet")
    assert tuple(found.column_names) == COLUMNS
    assert found.schema.field("score").type == pyarrow.float64()
    assert found.schema.field("exit_code").type == pyarrow.int64()
    assert found.schema.field("error").type == pyarrow.string()
    assert found.column("score").to_pylist() == [None]
    write_table(tmp_path / "t.parquet", fleet())
    assert parquet.read_table(tmp_path / "t.parquet").num_rows == 3


def test_pages_of_another_run_are_replaced_and_nothing_else_is(tmp_path):
    write_table(tmp_path / "t.html", fleet())
    write_table(tmp_path / "t.html", report("m/x"))
    assert [file.name for file in (tmp_path / "t.pages").iterdir()] == ["1.html"]
    (tmp_path / "t.pages" / "notes.txt").write_text("mine")
    with pytest.raises(UsageError, match="notes.txt"):
        check_table(tmp_path / "t.html", force=True)
    with pytest.raises(UsageError, match="notes.txt"):
        write_table(tmp_path / "t.html", fleet())
    assert (tmp_path / "t.pages" / "notes.txt").read_text() == "mine"


def test_a_name_that_tells_no_form_is_refused(tmp_path):
    with pytest.raises(UsageError, match=r"end it in \.jsonl"):
        check_table(tmp_path / "t.xlsx", force=False)
