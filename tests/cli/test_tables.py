"""``--table``: a row a model in every form, also where a model or the run fails, and SARIF and JUnit beside it."""

from __future__ import annotations

import json
import shutil
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from sau_adapters.architectures.cifar_networks import CIFAR_NETWORKS
from sau_adapters.classifiers.saving import save_classifier
from tests.cli.conftest import one_sentence
from tests.support.files import hostile_zip
from tests.support.toys import describe

QUICK = ("--effort", "quick", "--jobs", "1")


@pytest.fixture
def fleet(tmp_path) -> Path:
    """Three models, of which one is cut short and one holds code, and a folder that is not looked into."""
    folder = tmp_path / "models"
    folder.mkdir()
    torch.manual_seed(0)
    classifier = describe(CIFAR_NETWORKS["small_cnn"](10, 1))
    save_classifier(folder / "digits.safetensors", classifier, classifier.description, force=False)
    (folder / "cut.safetensors").write_bytes((folder / "digits.safetensors").read_bytes()[:-10])
    hostile_zip(folder)
    (folder / ".hidden").mkdir()
    return folder


def lines(path: str) -> list[dict]:
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


def test_a_fleet_in_every_form(call, fleet):
    done = call(
        *("inspect", "models", *QUICK, "--table", "t.jsonl", "--table", "t.html", "--table", "t.csv"),
        *("--report", "r.sarif", "--report", "r.xml", "--json", "r.json"),
    )
    assert done.code == 4, done.err
    assert done.out == ""
    rows = {row["path"]: (row["verdict"], row["exit_code"]) for row in lines("t.jsonl")}
    assert rows == {
        "models/cut.safetensors": ("not-evaluated", 3),
        "models/digits.safetensors": ("measured", 0),
        "models/hostile.pth": ("unsafe", 4),
        "models/.hidden": ("skipped", None),
    }
    report = json.loads(Path("r.json").read_text())
    assert len(report["models"]) == sum(row["verdict"] != "skipped" for row in lines("t.jsonl"))
    page = Path("t.html").read_text()
    assert all(path in page for path in rows)
    assert len(list(Path("t.pages").iterdir())) == 3
    sarif = json.loads(Path("r.sarif").read_text())["runs"][0]
    places = {result["locations"][0]["physicalLocation"]["artifactLocation"]["uri"] for result in sarif["results"]}
    assert places == rows.keys()
    assert all(path in Path("r.xml").read_text() for path in rows if path != "models/.hidden")


def test_one_model_is_a_table_of_one_row_also_where_it_is_refused(call, fleet):
    assert call("inspect", "models/hostile.pth", *QUICK, "--table", "t.jsonl").code == 4
    (row,) = lines("t.jsonl")
    assert (row["path"], row["verdict"], row["exit_code"]) == ("models/hostile.pth", "unsafe", 4)
    done = call("inspect", "models/cut.safetensors", *QUICK, "--table", "t.jsonl", "--force")
    assert done.code == 3
    (row,) = lines("t.jsonl")
    assert (row["verdict"], row["exit_code"]) == ("not-evaluated", 3)


def test_a_table_that_cannot_be_written_is_said_first(call, fleet):
    one_sentence(call("inspect", "models", *QUICK, "--table", "t.xls"), 2, "--table", ".parquet")
    one_sentence(call("inspect", "models", *QUICK, "--table", "no/t.csv"), 2, "no does not exist")
    one_sentence(
        call("inspect", "models", *QUICK, "--table", "r.html", "--report", "r.html"), 2, "--table and --report"
    )
    Path("t.csv").write_text("mine")
    one_sentence(call("inspect", "models", *QUICK, "--table", "t.csv"), 2, "t.csv exists", "--force")
    assert Path("t.csv").read_text() == "mine"
    Path("t.pages").mkdir()
    Path("t.pages", "mine.txt").write_text("mine")
    one_sentence(call("inspect", "models", *QUICK, "--table", "t.html", "--force"), 2, "mine.txt")


@pytest.mark.skipif(find_spec("pyarrow") is not None, reason="pyarrow is installed")
def test_parquet_without_its_extra_is_one_sentence(call, fleet):
    one_sentence(call("inspect", "models", *QUICK, "--table", "t.parquet"), 2, "sau-cli[parquet]", ".jsonl")


def test_a_table_that_fails_in_the_end_hides_no_finding(call, fleet, monkeypatch):
    """Somebody takes the folder away meanwhile."""
    Path("out").mkdir()
    from sau_cli.commands import inspect as command

    before = command.inspect_model

    def inspected(*words, **settings):
        shutil.rmtree("out", ignore_errors=True)
        before(*words, **settings)

    monkeypatch.setattr(command, "inspect_model", inspected)
    done = call("inspect", "models/digits.safetensors", *QUICK, "--table", "out/t.csv", "--json", "r.json")
    assert done.code == 2
    assert "out/t.csv could not be written" in done.err
    assert json.loads(Path("r.json").read_text())["verdict"] == "measured"
    Path("out").mkdir()
    assert call("inspect", "models/hostile.pth", *QUICK, "--table", "out/t.csv").code == 4
