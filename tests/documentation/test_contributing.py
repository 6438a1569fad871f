"""The pages for contributors, followed to the letter in a copy of the source.

Slow, as each step is a process. That their commands parse is in ``test_commands_shown.py``.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file

from tests.conftest import ROOT, Finished

pytestmark = pytest.mark.slow
PAGES = ROOT / "docs" / "contributing"
FILE = re.compile(r"`((?:sau_cli|adapters)/[\w/]+\.py)`(?:(?!```).)*?```python\n(.*?)^ *```", re.DOTALL | re.MULTILINE)
LINE = re.compile(r"\*\*The line\*\*, in `\w+` of `([\w/.]+)`.*?```python\n(?: *\w+ = \(\n)? *([^\n]+)\n", re.DOTALL)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A copy that may be changed."""
    for name in ("sau_cli", "adapters"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


def follow(page: str, source: Path, *, behind: str, importing: str = "") -> None:
    """Write the files that a page shows, and its one line behind a text, with what that has to import."""
    text = (PAGES / f"{page}.md").read_text(encoding="utf-8")
    shown = FILE.findall(text.partition("**The line**")[0])
    assert shown, page
    for path, code in shown:
        assert not (source / path).exists(), f"{path} is there already"
        lines = [line.removeprefix("    ") for line in code.splitlines()]
        (source / path).write_text("\n".join(lines) + "\n", encoding="utf-8")
    ((table, line),) = LINE.findall(text)
    whole = (source / table).read_text(encoding="utf-8")
    assert whole.count(behind) == 1
    whole = whole.replace(behind, f"{behind}    {line}\n")
    if importing:
        whole = whole.replace("\nfrom sau_", f"\n{importing}\nfrom sau_", 1)
    (source / table).write_text(whole, encoding="utf-8")


def sau(source: Path, *words: str) -> Finished:
    settings = {**os.environ, "PYTHONPATH": f"{source}{os.pathsep}{source / 'adapters'}"}
    command = [sys.executable, "-m", "sau_cli", *words]
    done = subprocess.run(command, cwd=source, env=settings, capture_output=True, text=True, check=False, timeout=300)
    return Finished(done.returncode, done.stdout, done.stderr)


@pytest.fixture
def model(source: Path, planted: Path) -> str:
    shutil.copy(planted / "bad.safetensors", source / "m.safetensors")
    return "m.safetensors"


def test_a_new_attack(source):
    follow("attack", source, behind="ATTACKS = {\n")
    words = ("--attack", "stripe", "--thickness", "2", "--arch", "small_cnn", "--data", "digits", "--epochs", "1")
    done = sau(source, "attack", *words, "-o", "m.safetensors")
    assert done.code == 0, done.err
    with safe_open(source / "m.safetensors", framework="numpy") as file:
        (step,) = json.loads(file.metadata()["sau.history"])
    (told,) = step["settings"]["attacks"]
    assert told["settings"] == {"thickness": 2}
    assert "A bright stripe along the top" in sau(source, "attack", "--list").out


def test_a_new_method(source, model):
    importing = "from sau_cli.unlearning.norm_tuning import NormTuning"
    follow("method", source, behind='    SAU = "sau", "Shared Adversarial Unlearning", Recipe\n', importing=importing)
    words = ("--method", "bn", "--clean-frac", "0.05", "--epochs", "1", "-o", "p.safetensors")
    done = sau(source, "purify", model, *words)
    assert done.code in {0, 6}, done.err
    assert "bn: fine-tuning of batch norms alone" in " ".join(sau(source, "purify", "--help").out.split())
    before, after = load_file(source / model), load_file(source / "p.safetensors")
    changed = {name for name in before if not np.array_equal(before[name], after[name])}
    assert changed
    assert all(before[name].ndim == 1 for name in changed), "convolutions are the same bit for bit"


def test_a_new_behaviour_test(source, model):
    importing = "from sau_cli.inspection.noise_answers import NoiseAnswers"
    follow("behaviour-test", source, behind="    HeadProbing(),\n", importing=importing)
    words = ("--data", "digits", "--test", "noise-answers", "--test", "maximum-margin", "--json", "r.json")
    done = sau(source, "inspect", model, *words)
    assert done.code in {0, 6}, done.err
    report = json.loads((source / "r.json").read_text())
    statuses = {check["id"]: check["status"] for check in report["checks"]}
    assert statuses["behaviour.noise-answers"] == "measured"
    assert report["details"]["behaviour"]["tests"]["noise-answers"] == {"images": 256}


def test_a_new_format(source, model):
    importing = "from sau_adapters.weights.npz import NpzReader"
    follow("format", source, behind="READERS: tuple[type[WeightsReader], ...] = (\n", importing=importing)
    np.savez(source / "w.npz", **load_file(source / model))
    done = sau(source, "inspect", "w.npz", "--effort", "quick", "--json", "r.json")
    assert done.code == 0, done.err
    assert json.loads((source / "r.json").read_text())["details"]["file"]["format"] == "npz"
    words = ("--arch", "small_cnn", "--normalisation", "none", "--data", "digits", "--json", "npz.json")
    assert sau(source, "evaluate", "w.npz", *words).code == 0
    assert sau(source, "evaluate", model, "--json", "own.json").code == 0
    own, npz = (
        {check["id"]: check["value"] for check in json.loads((source / name).read_text())["checks"]}
        for name in ("own.json", "npz.json")
    )
    assert npz["acc"] == own["acc"]
