"""Work that is stopped is not lost: signals, kill -9, a time budget, and going on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.cli.conftest import one_sentence
from tests.conftest import ROOT

WORDS = ("--clean-frac", "0.1", "--batch-size", "24", "--device", "cpu")


def started(folder: Path, *words: str) -> subprocess.Popen:
    settings = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'adapters'}"}
    command = [sys.executable, "-m", "sau_cli", "purify", "bad.safetensors", *WORDS, *words]
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background ignores it
    try:
        return subprocess.Popen(
            command, cwd=folder, env=settings, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
    finally:
        signal.signal(signal.SIGINT, before)


def wait_for(path: Path) -> None:
    until = time.monotonic() + 120
    while not path.exists():
        assert time.monotonic() < until, f"{path} never came"
        time.sleep(0.02)


def same(first: Path, second: Path) -> bool:
    one, other = load_file(first), load_file(second)
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.long
@pytest.mark.parametrize("blow", [signal.SIGINT, signal.SIGKILL])
def test_stopped_by_a_signal_and_gone_on_with(call, bad, blow):
    """Of the recipe without searches, which the other process would make at length: test_resume has one of these."""
    folder, epochs = bad.parent, ("--recipe", "paper", "--epochs", "5")
    assert call("purify", bad, *WORDS, *epochs, "-o", "whole.safetensors").code == 0
    state, out = folder / "out.resume.safetensors", folder / "out.safetensors"
    work = started(folder, *epochs, "-o", "out.safetensors", "--json", "r.json")
    wait_for(state)
    work.send_signal(blow)
    _, err = work.communicate(timeout=120)
    assert not out.exists()
    assert state.exists()
    if blow is signal.SIGKILL:
        (folder / ".out.resume.123.4f.safetensors.part").write_bytes(b"half")
    else:
        assert work.returncode == 130, err
        assert err.splitlines()[-1].startswith("error: interrupted after")
        assert "--resume" in err
        assert "Traceback" not in err
        assert json.loads((folder / "r.json").read_text())["verdict"] == "interrupted"
    one_sentence(call("purify", bad, *WORDS, *epochs, "-o", "out.safetensors"), 2, "--resume")
    done = call("purify", bad, *WORDS, *epochs, "-o", "out.safetensors", "--resume")
    assert done.code == 0, done.err
    assert same(out, folder / "whole.safetensors")
    assert not state.exists()
    assert [file.name for file in folder.iterdir() if file.suffix in {".part", ".lock"}] == []


@pytest.mark.long
def test_a_time_budget_ends_in_time_with_what_there_is(call, bad):
    begun = time.monotonic()
    words = ("purify", bad, *WORDS, "--recipe", "paper", "--epochs", "4000", "-o", "out.safetensors")
    done = call(*words, "--time-budget", "5s", "--json", "r.json")
    one_sentence(done, 6, "time budget was spent", "--resume")
    assert time.monotonic() - begun < 30
    report = json.loads(Path("r.json").read_text())
    assert (report["verdict"], report["exit_code"], report["details"]["finished"]) == ("inconclusive", 6, False)
    assert Path("out.resume.safetensors").exists()
    assert call("evaluate", "out.safetensors").code == 0
    first = report["details"]["epochs"]
    done = call(*words, "--time-budget", "6s", "--resume", "--json", "r.json", "--force")
    assert done.code == 6
    again = json.loads(Path("r.json").read_text())["details"]["epochs"]
    assert len(again) > len(first)
    assert again[: len(first)] == first


def test_a_time_budget_that_ends_before_an_epoch_writes_no_weights(call, bad):
    words = ("purify", bad, *WORDS, "--epochs", "2", "-o", "out.safetensors", "--json", "r.json")
    one_sentence(call(*words, "--time-budget", "0.001s"), 6, "before the first epoch", "--resume")
    assert not Path("out.safetensors").exists()
    assert call(*words, "--resume").code == 0


def test_a_second_signal_says_what_is_kept(call, bad, monkeypatch):
    from sau_cli.unlearning import shared_unlearning

    real, calls = shared_unlearning.accumulate_gradients, []

    def interrupted_in_the_second_epoch(*arguments, **options):
        calls.append(1)
        if len(calls) == 8:  # an epoch has 6 steps
            raise KeyboardInterrupt
        return real(*arguments, **options)

    monkeypatch.setattr(shared_unlearning, "accumulate_gradients", interrupted_in_the_second_epoch)
    words = ("purify", bad, *WORDS, "--epochs", "2", "-o", "out.safetensors")
    one_sentence(call(*words), 130, "--resume", "out.resume.safetensors")
    assert call(*words, "--resume").code == 0


def test_going_on_with_other_settings_is_refused(call, bad):
    words = ("purify", bad, *WORDS, "--epochs", "4000", "-o", "out.safetensors", "--time-budget", "1s")
    assert call(*words).code == 6
    one_sentence(call(*words, "--resume", "--lr", "0.01"), 2, "another model, other data or other settings")
    assert call("purify", bad, *WORDS, "--epochs", "1", "-o", "out.safetensors", "--force").code == 0
    assert not Path("out.resume.safetensors").exists()


def test_going_on_does_not_overwrite_what_is_not_of_the_run(call, bad):
    words = ("purify", bad, *WORDS, "--epochs", "4000", "-o", "out.safetensors", "--time-budget", "1s")
    assert call(*words).code == 6
    for content in (b"precious", bad.read_bytes()):
        Path("out.safetensors").write_bytes(content)
        one_sentence(call(*words, "--resume"), 2, "out.safetensors is not of this run")
        assert Path("out.safetensors").read_bytes() == content


def test_nothing_to_go_on_from_starts_from_the_beginning(call, bad):
    done = call("purify", bad, *WORDS, "--epochs", "1", "--resume")
    assert done.code == 0
    assert "starting from the beginning" in done.err


def test_an_interrupt_while_the_command_line_is_imported_is_no_traceback(tmp_path):
    (tmp_path / "typer.py").write_text("raise KeyboardInterrupt\n")
    path = os.pathsep.join(map(str, (tmp_path, ROOT, ROOT / "adapters")))
    ended = subprocess.run(
        [sys.executable, "-m", "sau_cli", "--version"],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (130, "", "error: interrupted\n")


def test_neither_the_model_nor_what_is_no_state_is_ever_replaced(call, bad):
    """The state of the run that is to write v.safetensors would go where the model is."""
    before = bad.read_bytes()
    model = bad.rename(bad.with_name("v.resume.safetensors"))
    words = ("purify", model, *WORDS, "--epochs", "1", "-o", "v.safetensors")
    for more in ((), ("--force",), ("--resume",), ("--resume", "--force")):
        one_sentence(call(*words, *more), 2, "holds something else", "-o")
    one_sentence(call("purify", model, *WORDS, "-o", model, "--force"), 2, "is the model itself")
    words = ("attack", model, "--attack", "badnets", "--data", "digits", "--epochs", "1", "--force")
    one_sentence(call(*words, "-o", model), 2, "is the model itself")
    one_sentence(call(*words, "-o", "v.safetensors"), 2, "holds something else")
    assert model.read_bytes() == before


def test_starting_over_forgets_the_run_before(call, bad, monkeypatch):
    words = ("purify", bad, *WORDS, "-o", "out.safetensors")
    assert call(*words, "--epochs", "4000", "--time-budget", "1s").code == 6
    from sau_cli.unlearning import shared_unlearning

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(shared_unlearning, "accumulate_gradients", interrupted)
    one_sentence(call(*words, "--epochs", "2", "--force"), 130, "nothing was written")
    assert not Path("out.resume.safetensors").exists()


@pytest.mark.long
def test_interrupted_while_the_result_is_written(call, bad, monkeypatch):
    from sau_adapters.classifiers import saving

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    words = ("purify", bad, *WORDS, "--epochs", "2", "-o", "out.safetensors")
    with monkeypatch.context() as patched:
        patched.setattr(saving, "save_like", interrupted)
        one_sentence(call(*words), 130, "--resume", "out.resume.safetensors")
    assert call(*words, "--resume").code == 0
