"""``sau demo``: what it writes and says, with steps that are shorter than its own."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from sau_cli.commands import demo
from sau_cli.errors import ExitCode
from tests.cli.conftest import one_sentence

SHORTER = {
    "attack": "--epochs 3",
    "inspect": "--effort quick",
    "purify": "--method ft --epochs 1",
    "evaluate": "",
    "export": "",
}


@pytest.fixture
def short(monkeypatch):
    steps = tuple(replace(step, words=f"{step.words} {SHORTER[step.command]}".strip()) for step in demo.DEMO_STEPS)
    monkeypatch.setattr(demo, "DEMO_STEPS", steps)


@pytest.mark.parametrize("force", [False, True])
def test_a_file_is_no_folder(call, force):
    Path("taken").write_text("precious")
    one_sentence(call("demo", "--out", "taken", *["--force"] * force), 2, "--out taken is a file")
    assert Path("taken").read_text() == "precious"


def test_a_folder_with_something_in_it_is_left_alone(call):
    Path("mine").mkdir()
    Path("mine/model.safetensors").write_text("precious")
    one_sentence(call("demo", "--out", "mine"), 2, "--out mine is not empty", "--force")
    assert [path.read_text() for path in Path("mine").iterdir()] == ["precious"]


def test_a_step_that_fails_ends_the_demo_with_its_exit_code(call, monkeypatch):
    broken = demo.Step(says="Open what is not there", words="inspect nothing.safetensors")
    monkeypatch.setattr(demo, "DEMO_STEPS", (broken,))
    done = call("demo", "--json", "-")
    assert done.code == ExitCode.USAGE
    report = json.loads(done.out)
    assert (report["command"], report["verdict"]) == ("demo", "error")
    assert "nothing.safetensors does not exist" in done.err
    assert "sau inspect ended with exit code 2" in report["error"]


def test_the_demo_leaves_models_a_trigger_and_pages(call, short):
    """Fine-tuning for an epoch removes no backdoor: the limit on the ASR fails, and so does the demo."""
    done = call("demo", "--seed", "1", "--json", "demo.json")
    assert done.code == ExitCode.LIMIT_FAILED, done.err
    assert done.out == ""
    report = json.loads(Path("demo.json").read_text())
    assert {check["id"]: check["status"] for check in report["checks"]}["limit.max-asr.badnets"] == "failed"
    assert set(report["outputs"]) == {"weights", "trigger", "purified", "onnx"}
    assert all(Path(file["path"]).is_file() for file in report["outputs"].values())
    for name, _ in demo.LOOK_AT:
        assert list(Path("sau-demo").glob(name)), name
    for place, step in enumerate(demo.DEMO_STEPS, start=1):
        assert f"[{place}/5] {step.says}\n$ sau {step.words}\n" in done.err
        assert Path(f"sau-demo/{step.command}.html").is_file()
    assert done.err.splitlines()[-1].startswith("A limit failed: ASR ")
    seeds = json.loads(Path("sau-demo/purify.json").read_text())["details"]["seed"]
    assert seeds == 1


@pytest.mark.slow
def test_the_demo_as_it_is(sau, tmp_path):
    done = sau("demo", cwd=tmp_path)
    assert (done.code, done.out) == (0, ""), done.err
    assert done.err.splitlines()[-1].startswith("The trigger fails: ASR ")
