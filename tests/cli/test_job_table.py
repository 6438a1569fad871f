"""A table of jobs: every row is done, whatever becomes of the others, and a table that makes no sense is refused."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import jsonschema
import pytest

from sau_cli.commands.job_table import read_jobs
from sau_cli.errors import UsageError
from sau_cli.fleet.pool import Pool
from tests.cli.conftest import one_sentence
from tests.conftest import ROOT

SCHEMA = json.loads((ROOT / "sau_cli" / "reporting" / "report.schema.json").read_text())
SHORT = ("--recipe", "paper", "--epochs", "1", "--clean-frac", "0.05", "--device", "cpu")
ONE = ("--jobs", "1", "--json", "r.json")


def table(rows: list[dict[str, str]], name: str = "jobs.csv") -> str:
    with Path(name).open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return name


def report() -> dict:
    found = json.loads(Path("r.json").read_text())
    jsonschema.validate(found, SCHEMA)
    return found


def test_every_row_is_purified_and_none_twice(call, bad):
    shutil.copy(bad, "second.safetensors")
    Path("cut.safetensors").write_bytes(bad.read_bytes()[:-10])
    rows = [
        {"model": "bad.safetensors", "options": "", "out": "a.safetensors"},
        {"model": "cut.safetensors", "options": "", "out": "b.safetensors"},
        {"model": "second.safetensors", "options": "--seed 3 --epochs 2", "out": "c.safetensors"},
    ]
    done = call("purify", "--jobs-table", table(rows), *SHORT, *ONE)
    assert done.code == 3, done.err
    first = report()
    assert [model["exit_code"] in {0, 6} for model in first["models"]] == [True, False, True]
    assert [len(model["details"].get("epochs", ())) for model in first["models"]] == [1, 0, 2]
    assert first["models"][2]["details"]["seed"] == 3
    assert Path("a.safetensors").exists()
    assert not Path("b.safetensors").exists()
    weights = Path("a.safetensors").stat()
    again = call("purify", "--jobs-table", "jobs.csv", *SHORT, *ONE, "--force")
    assert again.code == 3
    assert report()["details"]["from_cache"] == 3
    assert Path("a.safetensors").stat() == weights
    assert "all verdicts were known" in again.err
    Path("a.safetensors").unlink()
    call("purify", "--jobs-table", "jobs.csv", *SHORT, *ONE, "--force")
    assert report()["details"]["from_cache"] == 2
    assert Path("a.safetensors").exists()


def test_every_row_is_evaluated_and_its_report_lies_where_it_says(call, bad):
    rows = [
        {"model": "bad.safetensors", "trigger": "bad.trigger.safetensors", "out": "one.json"},
        {"model": "bad.safetensors", "trigger": "", "out": "two.md"},
        {"model": "none.safetensors", "trigger": "", "out": "three.json"},
    ]
    words = ("evaluate", "--jobs-table", table(rows), "--device", "cpu", *ONE)
    done = call(*words)
    assert done.code == 2, done.err
    checks = {check["id"]: check["value"] for check in json.loads(Path("one.json").read_text())["checks"]}
    assert checks["asr.badnets"] > 0.9
    assert "sau evaluate" in Path("two.md").read_text()
    assert json.loads(Path("three.json").read_text())["exit_code"] == 2
    names = [check["id"] for check in report()["checks"]]
    assert names == ["model.bad.safetensors (row 1)", "model.bad.safetensors (row 2)", "model.none.safetensors"]
    Path("two.md").write_text("## sau is mine")
    Path("one.json").unlink()
    call(*words, "--force", "--max-asr", "5%")
    assert [model["exit_code"] for model in report()["models"]] == [1, 2, 2]


def test_a_machine_that_is_unfit_is_named_once_and_changes_no_verdict(call, bad, monkeypatch):
    class Found(Pool):
        @property
        def remarks(self):
            return {"0123456789abcdef": "old-box has another sau and gets no tasks; install the same"}

    monkeypatch.setattr("sau_cli.commands.fleet.engine_of", lambda *_, **__: Found(1))
    done = call("evaluate", "--jobs-table", table([{"model": "bad.safetensors"}]), "--device", "cpu", *ONE)
    assert done.code == 0, done.err
    assert done.err.count("old-box has another sau") == 1
    (machine, _) = report()["checks"]
    assert (machine["id"], machine["status"]) == ("machine.0123456789ab", "measured")


def test_options_of_a_row_are_its_own(tmp_path):
    rows = tmp_path / "jobs.jsonl"
    told = {"model": "m.pt", "data": "digits", "trigger": ["a b.png"], "options": "--seed 4", "out": "o.safetensors"}
    rows.write_text(json.dumps(told) + "\n\n")
    (job,) = read_jobs(rows, "purify", ["--seed=1"])
    assert job.words == ("--seed=1", "--data=digits", "--trigger=a b.png", "--seed", "4")
    assert (job.name, job.out) == ("m.pt", Path("o.safetensors"))


BAD_TABLES = {
    "no column out": ("model\nm.pt\n", "has no column out"),
    "a column that is none": ("model,out,lr\nm.pt,o.safetensors,1\n", "a column 'lr'; columns are model, data"),
    "a value too many": ("model,out\nm.pt,o.safetensors,1\n", "a value too many"),
    "no out": ("model,out\nm.pt,\n", "row 1 of jobs has no out"),
    "the same out": ("model,out\nm.pt,o.st\nn.pt,./o.st\n", "rows 1 and 2 of jobs both write o.st"),
    "out is a model": ("model,out\nm.pt,n.pt\nn.pt,o.st\n", "row 1 of jobs writes n.pt, which is the model of row 2"),
    "options of the run": ("model,out,options\nm.pt,o.st,--json x\n", "row 1 of jobs has --json among its options"),
    "out among options": ("model,out,options\nm.pt,o.st,-o x\n", "row 1 of jobs has -o among its options"),
    "quotes": ("model,out,options\nm.pt,o.st,--data 'x\n", "row 1 of jobs: options cannot be read as words"),
    "nothing": ("model,out\n", "has no jobs"),
    "no table": ("{]", "is neither CSV nor JSON lines"),
}


@pytest.mark.parametrize(("text", "said"), BAD_TABLES.values(), ids=BAD_TABLES)
def test_a_table_that_makes_no_sense(tmp_path, monkeypatch, text, said):
    monkeypatch.chdir(tmp_path)
    Path("jobs").write_text(text.replace("both write o.st", "both write ./o.st"))
    with pytest.raises(UsageError) as error:
        read_jobs(Path("jobs"), "purify", [])
    assert said in str(error.value).replace("./o.st", "o.st")


def test_what_does_not_go_together(call, bad):
    Path("jobs.csv").write_text("model,out\nbad.safetensors,o.safetensors\n")
    one_sentence(call("purify"), 2, "there is no MODEL")
    one_sentence(call("purify", bad, "--jobs-table", "jobs.csv"), 2, "both given")
    one_sentence(call("purify", bad, "--ray"), 2, "--ray is for several models")
    one_sentence(call("inspect", bad, "--ray"), 2, "--ray is for several models")
    one_sentence(call("purify", "--jobs-table", "jobs.csv", "-o", "x.safetensors"), 2, "give each row its out")
    one_sentence(call("evaluate", "--jobs-table", "no.csv"), 2, "no.csv cannot be read")


def test_a_row_with_options_that_are_none_ends_alone(call, bad):
    rows = [
        {"model": "bad.safetensors", "options": "--max-acr 3", "out": ""},
        {"model": "bad.safetensors", "options": "", "out": ""},
    ]
    assert call("evaluate", "--jobs-table", table(rows), "--device", "cpu", *ONE).code == 2
    first, second = report()["models"]
    assert "No such option" in first["error"]
    assert second["exit_code"] == 0
