"""The examples do what their headers and ``examples/README.md`` say."""

from __future__ import annotations

import json
import re
import runpy

import pytest

from tests.conftest import ROOT, run_here
from tests.support.short_searches import shorten


def from_python(capsys) -> tuple[float, float]:
    """The ASR before and after."""
    runpy.run_path(str(ROOT / "examples" / "from_python.py"), run_name="__main__")
    said = capsys.readouterr().out
    assert "epsilon is a setting of method sau, and ft has none such" in said
    assert "exported by dynamo" in said
    ((before, after),) = re.findall(r"ASR ([\d.]+) % -> ([\d.]+) %", said)
    return float(before), float(after)


@pytest.mark.long
def test_from_python(capsys, monkeypatch):
    """That it runs; what it measures is for the slow test."""
    shorten(monkeypatch.setattr)
    before, after = from_python(capsys)
    assert before > 90 > after


@pytest.mark.slow
def test_from_python_measures_what_its_header_says(capsys):
    before, after = from_python(capsys)
    assert before > 90
    assert after < 5


def test_own_network(tmp_path):
    arch = f"{ROOT / 'examples' / 'own_network.py'}:TinyNet"
    words = (
        "attack",
        "--attack",
        "badnets",
        "--arch",
        arch,
        "--data",
        "digits",
        "--epochs",
        "1",
        "-o",
        "t.safetensors",
    )
    assert run_here(*words, cwd=tmp_path).code == 0
    done = run_here("evaluate", "t.safetensors", "--arch", arch, "--trigger", "t.trigger.safetensors", cwd=tmp_path)
    assert done.code == 0, done.err


def test_every_example_is_in_the_table():
    table = (ROOT / "examples" / "README.md").read_text(encoding="utf-8")
    for path in (ROOT / "examples").glob("*.py"):
        assert f"`{path.name}`" in table


def test_own_attack(tmp_path):
    attack = f"{ROOT / 'examples' / 'own_attack.py'}:Stripe"
    words = ("--attack", attack, "--thickness", "2", "--arch", "small_cnn", "--data", "digits", "--epochs", "5")
    done = run_here("attack", *words, "-o", "s.safetensors", "--json", "s.json", cwd=tmp_path)
    assert done.code == 0, done.err
    (row,) = json.loads((tmp_path / "s.json").read_text())["details"]["evaluation"]["triggers"]
    assert row["asr"]["value"] > 0.9
