"""What the demo claims does not hang on its seed: the same settings, over several."""

from __future__ import annotations

import json

import pytest

pytestmark = pytest.mark.slow
PAPER = ("--recipe", "paper", "--lr", "2e-3", "--batch-size", "64", "--epochs", "100")


@pytest.mark.parametrize("seed", [0, 1, 2, 3, 4])
def test_the_demos_settings_keep_their_promise(sau, tmp_path, seed):
    for words in (
        ("attack", "--attack", "badnets", "--arch", "small_cnn", "--data", "digits", "-o", "m.safetensors"),
        ("purify", "m.safetensors", "--clean-frac", "0.1", *PAPER),
    ):
        done = sau(*words, "--seed", str(seed), cwd=tmp_path)
        assert done.code == 0, done.err
    words = ("m.purified.safetensors", "-r", "m.safetensors", "-t", "m.trigger.safetensors", "--json", "r.json")
    assert sau("evaluate", *words, cwd=tmp_path).code == 0
    found = {check["id"]: check["value"] for check in json.loads((tmp_path / "r.json").read_text())["checks"]}
    assert found["reference.asr.badnets"] > 0.9
    assert found["asr.badnets"] < 0.05
    assert found["acc-drop"] <= 0.03
