"""``sau purify`` tells what is otherwise than before: on its page, and with triggers that it never learned from."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from safetensors import safe_open

from tests.cli.conftest import one_sentence

QUICK = ("--clean-frac", "0.05", "--method", "ft", "--epochs", "1")


def test_before_and_after_are_on_one_page(call, bad):
    words = ("--trigger", "bad.trigger.safetensors", "--json", "r.json", "--report", "r.html")
    done = call("purify", bad, *QUICK, *words)
    assert done.code in {0, 6}, done.err
    report = json.loads(Path("r.json").read_text())
    found = {check["id"]: check for check in report["checks"]}
    assert found["reference.asr.badnets"]["value"] > 0.9
    assert found["acc-drop"]["value"] == pytest.approx(found["reference.acc"]["value"] - found["acc"]["value"])
    comparison = report["details"]["comparison"]
    assert comparison["images"] == 360
    assert comparison["lost"] - comparison["gained"] == round(360 * found["acc-drop"]["value"])
    assert len(comparison["shown"]) == min(comparison["changed"], 12)
    assert {Path(taken["path"]).name for taken in report["inputs"]} == {"bad.safetensors", "bad.trigger.safetensors"}
    page = Path("r.html").read_text()
    assert "Images that changed their answer" in page
    assert "Images with the trigger that are sent to its target: badnets" in page
    assert "ASR badnets" in done.err
    with safe_open("bad.purified.safetensors", framework="numpy") as file:
        told = json.loads(file.metadata()["sau.history"])[-1]
    assert told["step"] == "purify"
    assert "trigger" not in json.dumps(told["settings"])


@pytest.mark.parametrize("words", [("--target", "0"), ("--trigger", "none.safetensors")])
def test_a_trigger_that_is_not_there_is_said_before_anything_is_learned(call, bad, words):
    one_sentence(call("purify", bad, *QUICK, *words), 2, words[0] if words[0] == "--target" else "none.safetensors")
    assert not Path("bad.purified.safetensors").exists()
