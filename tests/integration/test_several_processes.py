"""Several processes purify together, to the result of one."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.conftest import run_here
from tests.support.short_searches import shorten

TOGETHER = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")


def together(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Two processes of a module or a script."""
    return subprocess.run(
        [*TOGETHER, *words],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


@pytest.mark.long
# Batches of 48 of 144 images are shared out evenly; of 143 the last holds 47, and of 145 a single image.
@pytest.mark.parametrize(
    ("recipe", "share"), [pytest.param("paper", "0.1", marks=pytest.mark.slow), ("paper", "0.1008"), ("default", "0.1")]
)
def test_two_processes_end_where_one_does(planted, tmp_path, monkeypatch, recipe, share):
    """With short searches, which both sides make alike."""
    bad = shutil.copy(planted / "bad.safetensors", tmp_path)
    words = ("purify", "bad.safetensors", "--recipe", recipe, "--clean-frac", share, "--epochs", "2")
    words = (*words, "--batch-size", "48", "--precision", "fp32")
    shorten(monkeypatch.setattr)
    alone = run_here(*words, "-o", "one.safetensors", "--json", "one.json", cwd=tmp_path)
    assert alone.code in {0, 6}, alone.err  # two epochs may clear nothing, and torchrun makes 1 of 6
    (tmp_path / "run.py").write_text(
        "import sys; from sau_cli.app import main; from tests.support.short_searches import shorten; "
        "shorten(); main(sys.argv[1:])"
    )
    done = together(tmp_path, "run.py", *words, "-o", "two.safetensors", "--json", "two.json")
    assert done.returncode in {0, 1}, done.stderr
    assert done.stdout == ""
    assert done.stderr.count("wrote two.safetensors") == 1, "the leader alone reports"
    one, two = load_file(tmp_path / "one.safetensors"), load_file(tmp_path / "two.safetensors")
    received = load_file(bad)
    for name, tensor in one.items():
        assert torch.allclose(tensor.double(), two[name].double(), atol=2e-4, rtol=1e-3), name
    assert any(not torch.equal(tensor, received[name]) for name, tensor in one.items())
    reports = [json.loads((tmp_path / name).read_text()) for name in ("one.json", "two.json")]
    assert [report["environment"]["processes"] for report in reports] == [1, 2]
    assert {report["exit_code"] for report in reports} <= {0, 6}
    first, second = (report["details"]["epochs"] for report in reports)
    assert [epoch["images"] for epoch in first] == [epoch["images"] for epoch in second]
    for ours, theirs in zip(second, first, strict=True):
        assert ours["clean_loss"] == pytest.approx(theirs["clean_loss"], rel=0.01)
    assert not (tmp_path / "two.resume.safetensors").exists()


def test_variables_that_make_no_sense_are_one_sentence(planted, monkeypatch, tmp_path):
    monkeypatch.setenv("RANK", "2")
    monkeypatch.setenv("WORLD_SIZE", "2")
    words = ("purify", planted / "bad.safetensors", "--clean-frac", "0.1", "-o", "out.safetensors")
    done = run_here(*words, cwd=tmp_path)
    assert done.code == 2
    assert "RANK=2" in done.err
    assert "torchrun" in done.err
    assert not list(tmp_path.iterdir())


@pytest.mark.long
def test_processes_that_were_given_different_things_say_so(planted, tmp_path):
    """As where two machines share no disk, and only one has the state of the interrupted run."""
    shutil.copy(planted / "bad.safetensors", tmp_path)
    script = (
        "import os, sys; from sau_cli.app import main; "
        "main(['purify', 'bad.safetensors', '--clean-frac', '0.1', '--epochs', '1', '--seed', os.environ['RANK'], "
        "'-o', 'out.safetensors'])"
    )
    (tmp_path / "run.py").write_text(script)
    done = together(tmp_path, "run.py")
    assert done.returncode != 0
    assert "the processes work on different models" in done.stderr
    assert not (tmp_path / "out.safetensors").exists()
