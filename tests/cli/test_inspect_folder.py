"""A folder of models: each is inspected whatever becomes of the others; nothing that was skipped counts as clean."""

from __future__ import annotations

import json
import os
import shutil
from itertools import islice
from pathlib import Path

import jsonschema
import pytest
import torch
from junitparser import JUnitXml
from safetensors.torch import load_file, save_file

from sau_adapters.architectures.cifar_networks import CIFAR_NETWORKS
from sau_adapters.classifiers.saving import save_classifier
from sau_adapters.zoos.search import models_under
from sau_cli.commands import fleet
from sau_cli.fleet.pool import Pool
from tests.cli.conftest import one_sentence
from tests.conftest import ROOT
from tests.support.files import hostile_zip
from tests.support.toys import describe

QUICK = ("--effort", "quick")
"""Behaviour has tests of its own."""
SCHEMA = json.loads((ROOT / "sau_cli" / "reporting" / "report.schema.json").read_text())


@pytest.fixture
def clean(tmp_path) -> Path:
    """A model in ``models/``; the working folder is above it."""
    folder = tmp_path / "models"
    folder.mkdir()
    torch.manual_seed(0)
    classifier = describe(CIFAR_NETWORKS["small_cnn"](10, 1))
    save_classifier(folder / "digits.safetensors", classifier, classifier.description, force=False)
    return folder / "digits.safetensors"


def read(path: str = "r.json") -> dict:
    report = json.loads(Path(path).read_text())
    jsonschema.validate(report, SCHEMA)
    return report


def models(report: dict) -> dict[str, tuple[str, int]]:
    return {Path(model["inputs"][0]["path"]).name: (model["verdict"], model["exit_code"]) for model in report["models"]}


def spoiled(clean: Path, name: str, value: float) -> Path:
    state = load_file(clean)
    state["linear.bias"][0] = value
    save_file(state, clean.with_name(name))
    return clean.with_name(name)


@pytest.mark.parametrize("jobs", ["1", "2"])
def test_every_model_is_inspected_and_the_worst_counts(call, clean, jobs, tmp_path):
    clean.with_name("cut.safetensors").write_bytes(clean.read_bytes()[:-10])
    clean.with_name("old.h5").write_bytes(b"\x89HDF\r\n")
    clean.with_name("notes.txt").write_text("no model")
    spoiled(clean, "nan.safetensors", float("nan"))
    hostile_zip(clean.parent)
    done = call("inspect", *QUICK, "models", "--jobs", jobs, "--json", "r.json", *reports("html", "md", "sarif", "xml"))
    assert done.code == 4, done.err
    assert done.out == ""
    report = read()
    assert (report["verdict"], report["exit_code"], report["error"]) == ("unsafe", 4, None)
    assert models(report) == {
        "cut.safetensors": ("not-evaluated", 3),
        "digits.safetensors": ("measured", 0),
        "hostile.pth": ("unsafe", 4),
        "nan.safetensors": ("not-evaluated", 3),
        "old.h5": ("not-evaluated", 3),
    }
    statuses = {check["id"]: check["status"] for check in report["checks"]}
    assert statuses["model.digits.safetensors"] == "measured"
    assert statuses["model.hostile.pth"] == "failed"
    assert statuses["model.cut.safetensors"] == "inconclusive"
    assert [Path(skipped["path"]).name for skipped in report["details"]["skipped"]] == ["notes.txt"]
    assert not (tmp_path / "was-run").exists()
    table = done.err[done.err.index("5 models under models: ") :]
    assert "1 measured, 1 unsafe, 3 not-evaluated" in table
    assert all(name in table.replace("\n", "") for name in ("hostile.pth", "old.h5", "cut short"))
    assert_forms()


def reports(*forms: str) -> list[str]:
    return [word for form in forms for word in ("--report", f"r.{form}")]


def assert_forms() -> None:
    """Each form has each model, at its own place."""
    sarif = json.loads(Path("r.sarif").read_text())["runs"][0]
    places = {
        (result["ruleId"], result["locations"][0]["physicalLocation"]["artifactLocation"]["uri"]): result["level"]
        for result in sarif["results"]
    }
    assert places["file.pickle-code", "models/hostile.pth"] == "error"
    assert places["file.non-finite-weights", "models/nan.safetensors"] == "error"
    assert places["file.non-finite-weights", "models/digits.safetensors"] == "none"
    assert places["run.not-evaluated", "models/cut.safetensors"] == "warning"
    assert sarif["invocations"][0]["exitCode"] == 4
    assert not sarif["invocations"][0]["executionSuccessful"]
    suites = {suite.name: suite for suite in JUnitXml.fromstring(Path("r.xml").read_bytes())}
    assert suites["sau inspect models/hostile.pth"].failures == 1
    assert suites["sau inspect models/cut.safetensors"].errors == 1
    assert suites["sau inspect"].failures == 1
    markdown, page = Path("r.md").read_text(), Path("r.html").read_text()
    for text in (markdown, page):
        assert "5 models were inspected: 1 measured, 1 unsafe, 3 not-evaluated" in text
        assert "models/digits.safetensors" in text
        assert "file.pickle-code" in text
    assert page.count("<details class=") == 5
    assert "| `file.non-finite-weights` | ❌ failed, high | 1 |" in markdown


def test_what_is_hidden_linked_or_of_sau_is_skipped_and_said(call, clean, tmp_path):
    folder = clean.parent
    (folder / ".cache").mkdir()
    hostile_zip(folder / ".cache")
    outside = hostile_zip(tmp_path)
    (folder / "out.pth").symlink_to(outside)
    (folder / "loop.pt").symlink_to("loop.pt")
    (folder / "folder").symlink_to(tmp_path)
    (folder / "again.safetensors").symlink_to("digits.safetensors")
    save_file({"a": torch.ones(1)}, folder / "x.trigger.safetensors", metadata={"sau.trigger.schema": "1"})
    done = call("inspect", *QUICK, "models", "--json", "r.json", "--report", "r.sarif")
    assert done.code == 0, done.err
    report = read()
    assert models(report) == {"again.safetensors": ("measured", 0)}
    skipped = {check["id"]: check["status"] for check in report["checks"] if check["id"].startswith("skipped.")}
    names = {".cache", "out.pth", "loop.pt", "folder", "x.trigger.safetensors"}
    assert skipped == {f"skipped.{name}": "skipped" for name in names}
    assert all(f"skipped, not examined: {name}" in done.err for name in names)
    results = json.loads(Path("r.sarif").read_text())["runs"][0]["results"]
    assert {result["kind"] for result in results if result["ruleId"] == "file.skipped"} == {"notApplicable"}


def test_a_model_that_calls_itself_a_trigger_is_not_passed_over(call, clean):
    shutil.copy(clean, clean.with_name("x.trigger.safetensors"))
    call("inspect", *QUICK, "models", "--json", "r.json")
    assert set(models(read())) == {"digits.safetensors", "x.trigger.safetensors"}


@pytest.mark.parametrize("given", [".", "models"])
def test_a_folder_that_is_one_model_has_the_report_of_one(call, clean, given, monkeypatch):
    if given == ".":
        monkeypatch.chdir(clean.parent)
    (clean.parent / "README.md").write_text("about it")
    assert call("inspect", *QUICK, given, "--json", "r.json").code == 0
    report = read()
    assert report["models"] == []
    assert "file.format" in [check["id"] for check in report["checks"]]


def test_shards_are_one_model_and_strangers_beside_them_are_not(call, clean):
    state = load_file(clean)
    names = sorted(state)
    save_file({name: state[name] for name in names[:5]}, clean.with_name("a-1.safetensors"))
    save_file({name: state[name] for name in names[5:]}, clean.with_name("a-2.safetensors"))
    clean.unlink()
    index = {name: "a-1.safetensors" if name in names[:5] else "a-2.safetensors" for name in names}
    (clean.parent / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    assert call("inspect", *QUICK, "models", "--json", "r.json").code == 0
    assert read()["models"] == []
    (clean.parent / "pytorch_model.bin").write_bytes(hostile_zip(clean.parent.parent).read_bytes())
    assert call("inspect", *QUICK, "models", "--json", "r.json", "--force").code == 4
    assert models(read()) == {
        "model.safetensors.index.json": ("measured", 0),
        "pytorch_model.bin": ("unsafe", 4),
    }


def test_an_index_that_lies_hides_no_file(tmp_path):
    hostile_zip(tmp_path)
    (tmp_path / "x.index.json").write_text(json.dumps({"weight_map": {"w": "hostile.pth"}}))
    assert [path.name for path in models_under(tmp_path).models] == ["hostile.pth", "x.index.json"]


def test_a_model_by_content_whatever_its_name(tmp_path):
    hostile_zip(tmp_path).rename(tmp_path / "holiday.jpg")
    assert [path.name for path in models_under(tmp_path).models] == ["holiday.jpg"]


def test_folders_without_models(call, tmp_path):
    (tmp_path / "models" / ".git").mkdir(parents=True)
    one_sentence(call("inspect", *QUICK, "models"), 2, "is a folder without models", "models/.git", "hidden")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").write_text("no model")
    one_sentence(call("inspect", *QUICK, "other"), 2, "is a folder without models")


def test_several_models_of_which_one_is_missing(call, clean):
    done = call("inspect", *QUICK, "models/digits.safetensors", "nothing.pt", "--json", "r.json")
    assert done.code == 2, done.err
    assert [(model["verdict"], model["exit_code"]) for model in read()["models"]] == [("measured", 0), ("error", 2)]
    assert "nothing.pt does not exist" in done.err.replace("\n", " ").replace("  ", " ") or "nothing.pt" in done.err


@pytest.mark.long
def test_a_policy_is_for_each_and_a_broken_one_for_none(call, clean):
    torch.save(load_file(clean), clean.with_name("b.pt"))
    Path("sau.toml").write_text('[policy]\nallowed-formats = ["safetensors"]\n')
    done = call("inspect", *QUICK, "models", "--json", "r.json", "--quiet")
    assert done.code == 1
    assert done.out == ""
    assert done.err.startswith("failed: model.b.pt: policy.allowed-formats: the format is pytorch")
    assert len(done.err.splitlines()) == 1
    assert models(read()) == {"b.pt": ("failed", 1), "digits.safetensors": ("passed", 0)}
    Path("sau.toml").write_text('[policy]\nallowed-format = ["safetensors"]\n')
    one_sentence(call("inspect", *QUICK, "models"), 2, "did you mean allowed-formats")


def test_what_was_found_comes_before_what_could_not_be_looked_at():
    order = [int(code) for code in fleet.WORST_FIRST]
    assert order[:2] == [4, 1]
    assert order[-1] == 0
    assert order.index(3) < order.index(6)


class Interrupted(Pool):
    """Ctrl-C after the first model."""

    def run(self, tasks):
        yield from super().run(islice(tasks, 1))
        raise KeyboardInterrupt


def test_what_an_interrupted_run_did_not_reach_is_skipped(call, clean, monkeypatch):
    for name in ("a.safetensors", "b.safetensors"):
        shutil.copy(clean, clean.with_name(name))
    monkeypatch.setattr(fleet, "engine_of", lambda *_, **__: Interrupted(1))
    done = call("inspect", *QUICK, "models", "--json", "r.json")
    assert done.code == 130, done.err
    report = read()
    assert (report["verdict"], report["exit_code"]) == ("interrupted", 130)
    assert {check["id"]: check["status"] for check in report["checks"]} == {
        "model.a.safetensors": "measured",
        "skipped.b.safetensors": "skipped",
        "skipped.digits.safetensors": "skipped",
    }


def test_names_that_are_not_utf8_are_skipped_and_said(call, clean):
    shutil.copy(clean, os.fsencode(clean.parent) + b"/\xff.pt")
    Path(os.fsdecode(os.fsencode(clean.parent) + b"/\xfe")).mkdir()
    done = call("inspect", *QUICK, "models", "--json", "r.json", *reports("html", "md", "sarif", "xml"))
    assert done.code == 0, done.err
    assert [check["id"] for check in read()["checks"] if check["status"] == "skipped"] == ["skipped.?", "skipped.?.pt"]


def test_a_file_that_cannot_be_read_is_no_clean_dashboard(call, clean):
    clean.write_bytes(clean.read_bytes()[:-10])
    assert call("inspect", *QUICK, clean, *reports("sarif")).code == 3
    (result,) = json.loads(Path("r.sarif").read_text())["runs"][0]["results"]
    assert (result["ruleId"], result["level"]) == ("run.not-evaluated", "warning")
    assert "cut short" in result["message"]["text"]


def test_links_of_the_hubs_cache_are_what_they_are(call, clean, tmp_path):
    """A snapshot there is links to files that are kept beside it; any other link out is not followed."""
    home = tmp_path / "hub" / "models--vendor--digits"
    snapshot = home / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (home / "blobs").mkdir()
    blob = clean.rename(home / "blobs" / ("a" * 64))
    (snapshot / "model.safetensors").symlink_to(Path("../../blobs") / blob.name)
    for folder in (snapshot, tmp_path / "hub"):
        done = call("inspect", folder, "--effort", "quick", "--json", "-")
        assert done.code == 0, done
        document = json.loads(done.out)
        (model,) = document["models"] or [document]
        assert model["inputs"][0]["path"].endswith("model.safetensors")
