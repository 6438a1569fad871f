"""What the demo claims is no luck of its seed: the same settings, over several."""

from __future__ import annotations

import json
from statistics import median

import pytest

pytestmark = pytest.mark.slow


def test_the_demos_settings_keep_their_promise_for_other_seeds(sau, tmp_path):
    left, lost = [], []
    for seed in range(5):
        for words in (
            ("attack", "--attack", "badnets", "--arch", "small_cnn", "--data", "digits", "-o", "m.safetensors"),
            ("purify", "m.safetensors", "--clean-frac", "0.1"),
        ):
            done = sau(*words, "--seed", str(seed), "--force", cwd=tmp_path)
            assert done.code == 0, done.err
        words = ("m.purified.safetensors", "-r", "m.safetensors", "-t", "m.trigger.safetensors", "--json", "r.json")
        assert sau("evaluate", *words, "--force", cwd=tmp_path).code == 0
        found = {check["id"]: check["value"] for check in json.loads((tmp_path / "r.json").read_text())["checks"]}
        assert found["reference.asr.badnets"] > 0.9
        left.append(found["asr.badnets"])
        lost.append(found["acc-drop"])
    assert max(left) < 0.05, left
    assert median(lost) <= 0.03, lost
