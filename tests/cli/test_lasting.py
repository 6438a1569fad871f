"""``sau evaluate --reactivate``, ``--relearn`` and ``--drill`` as whole commands."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from sau_adapters.images.sources import open_images
from tests.cli.conftest import one_sentence

TRIGGER = ("--trigger", "bad.trigger.safetensors")


@pytest.mark.long
def test_a_backdoor_that_is_there_is_measured_beside_its_controls(call, bad):
    done = call("evaluate", bad, *TRIGGER, "--reactivate", "--relearn", "5", "--json", "r.json")
    assert done.code == 0, done.err
    report = json.loads(Path("r.json").read_text())
    found = {check["id"]: check for check in report["checks"]}
    names = ("reactivated-asr", "reactivation-control", "relearned-asr", "relearned-acc", "relearning-control")
    for name in names:
        low, high = found[f"{name}.badnets"]["ci95"]
        assert low <= found[f"{name}.badnets"]["value"] <= high
    assert found["reactivated-asr.badnets"]["value"] > 0.9
    assert found["reactivation-control.badnets"]["value"] < 0.5
    assert report["details"]["lasting"]["measured_on"] == 180
    assert "control: no trigger" in done.err
    assert "Any model can be taught a trigger" in " ".join(done.err.split())
    assert report["verdict"] == "measured"


@pytest.mark.long
def test_a_drill_measures_each_attack_and_leaves_the_file(call, bad):
    """With short searches; that its purification removes what it planted is for the slow test."""
    drilled(call, bad)


@pytest.mark.slow
@pytest.mark.searches
def test_a_drill_removes_what_it_planted(call, bad):
    """As the fast one, with the searches of users' runs."""
    for measured in drilled(call, bad):
        assert measured["asr"]["value"] < 0.2


def drilled(call, bad) -> list[dict]:
    """What a drill tells of each attack."""
    before = bad.read_bytes()
    words = ("--drill", "badnets,blended", "--clean-frac", "0.3", "--json", "r.json", "--device", "cpu")
    done = call("evaluate", bad, *words)
    assert done.code == 0, done.err
    assert bad.read_bytes() == before
    assert sorted(path.name for path in Path().iterdir()) == ["bad.safetensors", "bad.trigger.safetensors", "r.json"]
    report = json.loads(Path("r.json").read_text())
    details = report["details"]
    assert details["settings"]["name"] == "default"
    assert (details["drill"]["measured_on"], details["drill"]["learned_from"]) == (360, 431)
    assert details["drill"]["planted_with"] + 431 / 0.9 == pytest.approx(1437, abs=1)
    for attack in details["drill"]["attacks"]:
        assert attack["outcome"] == "measured"
        assert attack["asr_before"]["value"] > 0.8
        assert 0 <= attack["asr"]["value"] <= 1
    assert "does not show that the model had none" in " ".join(done.err.split())
    attacks: list[dict] = details["drill"]["attacks"]
    return attacks


def test_a_drill_uses_the_settings_of_the_models_own_purification(call, bad):
    words = ("--method", "ft", "--clean-frac", "0.05", "--epochs", "3", "--lr", "0.02", "-o", "f.safetensors")
    assert call("purify", bad, *words).code in {0, 6}
    done = call("evaluate", "f.safetensors", "--drill", "badnets", "--json", "r.json")
    assert done.code == 0, done.err
    details = json.loads(Path("r.json").read_text())["details"]
    assert (details["method"], details["settings"]["epochs"], details["settings"]["lr"]) == ("ft", 3, 0.02)
    assert details["drill"]["learned_from"] == 72
    assert "history" in details["settings_from"]


def test_a_drill_without_a_split_takes_three_parts_of_the_users_images(call, bad):
    digits = open_images("digits").train
    np.savez("clean.npz", images=digits.images[:800].numpy(), labels=digits.labels[:800].numpy())
    done = call("evaluate", bad, "--drill", "badnets", "--data", "clean.npz", "--budget", "2s", "--json", "r.json")
    assert done.code == 6, done.err
    report = json.loads(Path("r.json").read_text())
    told = report["details"]["drill"]
    assert (told["planted_with"], told["learned_from"], told["measured_on"]) == (400, 180, 200)
    assert report["verdict"] == "inconclusive"
    (skipped,) = [check for check in report["checks"] if check["id"] == "drill.asr.badnets"]
    assert skipped["status"] == "skipped"
    assert skipped["value"] is None


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--reactivate",), ("--trigger",)),
        (("--relearn", "5"), ("--trigger",)),
        (("--relearn", "0", *TRIGGER), ("--relearn",)),
        (("--relearn", "5000", *TRIGGER), ("--relearn 5000", "give 1 to")),
        (("--drill", "magic"), ("magic",)),
        (("--drill", ""), ("--drill",)),
        (("--drill", "badnets,badnets"), ("--drill", "twice")),
        (("--drill", "badnets", "--target", "10"), ("target 10",)),
        (("--drill", "badnets", *TRIGGER), ("--drill", "--trigger")),
        (("--drill", "badnets", "--reactivate"), ("--reactivate",)),
        (("--drill", "badnets", "--budget", "soon"), ("soon",)),
        *((("--drill", "badnets", "--clean-frac", share), ("--clean-frac",)) for share in ("2", "0", "0.9")),
        (("--budget", "1m"), ("--budget", "--drill")),
        (("--clean-frac", "0.1"), ("--clean-frac", "--drill")),
    ],
)
def test_what_makes_no_sense_is_one_sentence(call, bad, words, told):
    one_sentence(call("evaluate", bad, *words), 2, *told)


def test_a_drill_of_data_that_is_not_the_models(call, bad):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (400, 8, 8), dtype=np.uint8)
    np.savez("noise.npz", images=images, labels=np.arange(400) % 10)
    one_sentence(call("evaluate", bad, "--drill", "badnets", "--data", "noise.npz"), 3, "near chance")


@pytest.mark.long
def test_a_finished_reactivation_is_told_where_relearning_cannot_be_done(call, bad):
    words = ("--reactivate", "--relearn", "5000", *TRIGGER, "--json", "r.json")
    one_sentence(call("evaluate", bad, *words), 2, "--relearn 5000")
    report = json.loads(Path("r.json").read_text())
    assert "reactivated-asr.badnets" in {check["id"] for check in report["checks"]}
    assert len(report["details"]["lasting"]["reactivation"]) == 1
