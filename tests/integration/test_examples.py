"""The examples do what their headers and ``examples/README.md`` say."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys

from tests.conftest import ROOT


def test_from_python(tmp_path):
    settings = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'adapters'}"}
    done = subprocess.run(
        [sys.executable, str(ROOT / "examples" / "from_python.py")],
        cwd=tmp_path,
        env=settings,
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
    )
    before, after = re.findall(r"ASR ([\d.]+) % -> ([\d.]+) %", done.stdout)[0]
    assert float(before) > 90
    assert float(after) < 5
    assert "epsilon is a setting of method sau, and ft has none such" in done.stdout
    assert "exported by dynamo" in done.stdout


def test_own_network(sau, tmp_path):
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
    assert sau(*words, cwd=tmp_path).code == 0
    done = sau("evaluate", "t.safetensors", "--arch", arch, "--trigger", "t.trigger.safetensors", cwd=tmp_path)
    assert done.code == 0, done.err


def test_every_example_is_in_the_table():
    table = (ROOT / "examples" / "README.md").read_text(encoding="utf-8")
    for path in (ROOT / "examples").glob("*.py"):
        assert f"`{path.name}`" in table


def test_own_attack(sau, tmp_path):
    attack = f"{ROOT / 'examples' / 'own_attack.py'}:Stripe"
    words = ("--attack", attack, "--thickness", "2", "--arch", "small_cnn", "--data", "digits", "--epochs", "5")
    done = sau("attack", *words, "-o", "s.safetensors", "--json", "s.json", cwd=tmp_path)
    assert done.code == 0, done.err
    (row,) = json.loads((tmp_path / "s.json").read_text())["details"]["evaluation"]["triggers"]
    assert row["asr"]["value"] > 0.9
