"""Streams, exit codes and speed of start, as a shell sees them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.cli.conftest import one_sentence


def strictly(text: str) -> dict:
    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is no JSON")

    return json.loads(text, parse_constant=refuse)


def test_json_on_standard_output_is_one_document_and_nothing_else(sau, planted, tmp_path):
    shutil.copy(planted / "bad.safetensors", tmp_path)
    words = ("--attack", "badnets", "--epochs", "1", "-o", "worse.safetensors", "--device", "cpu", "--json", "-")
    done = sau("attack", "bad.safetensors", *words, cwd=tmp_path)
    assert done.code == 0, done.err
    report = strictly(done.out)
    assert list(report) == [
        *("tool_version", "command", "inputs", "verdict", "exit_code", "checks", "environment", "outputs", "details"),
        *("models", "error", "schema_version"),
    ]
    assert (report["command"], report["exit_code"], report["error"]) == ("attack", 0, None)
    assert set(report["inputs"][0]) == {"path", "sha256"}
    keys = {"id", "status", "value", "threshold", "ci95", "evidence", "severity"}
    assert all(set(check) == keys for check in report["checks"])
    assert report["environment"]["packages"]["torch"]
    assert "\x1b" not in done.err
    assert "training epoch 1/1" in done.err


def test_an_error_is_a_document_too(call):
    done = call("evaluate", "nothing.safetensors", "--json", "-")
    assert done.code == 2
    report = strictly(done.out)
    assert (report["verdict"], report["exit_code"]) == ("error", 2)
    assert "nothing.safetensors does not exist" in report["error"]


@pytest.mark.parametrize("words", [["--nonsense", "--json", "-"], ["--json=-", "--seed", "many", "x"]])
def test_a_usage_error_of_the_command_line_is_a_document_too(sau, tmp_path, words):
    done = sau("purify", *words, cwd=tmp_path)
    assert done.code == 2
    report = strictly(done.out)
    assert (report["command"], report["verdict"], report["exit_code"]) == ("purify", "error", 2)
    assert report["error"] in done.err
    assert len(done.err.splitlines()) == 1


def test_without_a_command_there_is_what_to_do_first(sau, tmp_path):
    """Each line that it shows is a command that there is, with options that there are; 80 columns hold them."""
    done = sau(cwd=tmp_path)
    assert (done.code, done.out) == (2, "")
    assert all(len(line) <= 80 for line in done.err.splitlines())
    shown = done.err.replace("\\\n", " ").splitlines()
    commands = [line.split()[1] for line in shown if line.startswith("  sau ")]
    assert commands == ["demo", "inspect", "purify", "evaluate", "export"]
    assert "sau --help" in done.err


def test_quiet_is_quiet(sau, planted, tmp_path):
    done = sau("inspect", "--effort", "quick", planted / "bad.safetensors", "--quiet", cwd=tmp_path)
    assert (done.code, done.out, done.err) == (0, "", "")


def test_a_report_is_not_overwritten(call, bad):
    Path("r.json").write_text("precious")
    words = ("inspect", "--effort", "quick", bad, "--json", "r.json")
    for more in ([], ["--force"]):
        assert call(*words, *more).code == 2
        assert Path("r.json").read_text() == "precious"
    Path("r.json").unlink()
    assert call(*words).code == 0
    assert call(*words).code == 2
    assert call(*words, "--force").code == 0
    assert strictly(Path("r.json").read_text())["command"] == "inspect"


@pytest.mark.parametrize("words", [["--help"], ["purify", "--help"], ["purify", "--nonsense"], ["--version"]])
def test_help_and_usage_errors_load_nothing_heavy(sau, tmp_path, words):
    done = sau(*words, cwd=tmp_path, PYTHONPROFILEIMPORTTIME="1")
    loaded = {line.rpartition("|")[2].strip() for line in done.err.splitlines() if line.startswith("import time:")}
    assert not loaded & {"torch", "timm", "onnx", "onnxruntime", "numpy", "sklearn", "scipy", "torchvision"}


def test_no_colour_when_piped_and_none_when_unwanted(sau, planted, tmp_path):
    done = sau(
        "inspect", "--effort", "quick", planted / "bad.safetensors", cwd=tmp_path, NO_COLOR="1", TERM="xterm-256color"
    )
    assert "\x1b" not in done.err


def test_a_report_in_every_form_at_once(call, bad):
    names = [f"r{suffix}" for suffix in (".json", ".html", ".md", ".sarif", ".xml")]
    words = [word for name in names for word in ("--report", name)]
    done = call("evaluate", bad, "--min-acc", "99.99%", *words, "-q")
    assert done.code == 1
    assert all("limit.min-acc" in Path(name).read_text() for name in names)
    one_sentence(call("evaluate", bad, "--report", "r.md"), 2, "r.md exists")
    assert call("evaluate", bad, *words, "--force", "-q").code == 0
    one_sentence(call("evaluate", bad, "--report", "r.pdf"), 2, ".sarif")
    one_sentence(call("evaluate", bad, "--report", bad, "--force"), 2, "tells no form")
    Path("notes.md").write_text("my notes")
    one_sentence(call("evaluate", bad, "--report", "notes.md", "--force"), 2, "no report of sau")
    assert Path("notes.md").read_text() == "my notes"
    one_sentence(call("evaluate", "none.safetensors", "--report", "e.md"), 2, "does not exist")
    assert "does not exist" in Path("e.md").read_text()


def test_a_report_that_cannot_be_written_does_not_take_the_others_along(call, bad, monkeypatch):
    from sau_cli.commands import session

    real = session.rendered_parts

    def gone(report, form):
        Path("sub").rmdir()
        return real(report, form)

    Path("sub").mkdir()
    monkeypatch.setattr(session, "rendered_parts", gone)
    done = call("evaluate", bad, "--report", "sub/r.html", "--json", "-")
    assert done.code == 2
    assert strictly(done.out)["exit_code"] == 0
    assert "sub" in done.err


def test_a_report_that_cannot_be_written_leaves_the_document_its_place(call):
    done = call("evaluate", "m.safetensors", "--report", "x.docx", "--json", "-")
    assert done.code == 2
    assert json.loads(done.out)["exit_code"] == 2


def test_what_the_users_own_file_prints_is_no_part_of_the_document(call):
    """The file is run before the command begins, because it says which flags there are."""
    Path("own.py").write_text("print('hello')\n")
    done = call("attack", "--attack", "own.py:Stripe", "--arch", "small_cnn", "--data", "digits", "--json", "-")
    assert done.code == 2
    assert json.loads(done.out)["exit_code"] == 2
    assert "hello" in done.err
