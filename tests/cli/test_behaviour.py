"""``sau inspect``: how a model behaves, on a real backdoored classifier of digits."""

from __future__ import annotations

import json
from base64 import b64decode
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from sau_cli.inspection.behaviour_tests import TESTS
from tests.cli.conftest import one_sentence
from tests.conftest import made_once, run_here


def report(name: str = "r.json") -> dict:
    return json.loads(Path(name).read_text())


@pytest.fixture(scope="session")
def examined(planted, tmp_path_factory):
    """The backdoored classifier, inspected once with nothing but its name: how it ended, its report, and its page."""

    def inspect(folder):
        done = run_here("inspect", planted / "bad.safetensors", "--json", "r.json", "--report", "r.html", cwd=folder)
        (folder / "code").write_text(str(done.code))

    folder = made_once(tmp_path_factory, "examined", inspect)
    report = json.loads((folder / "r.json").read_text())
    return int((folder / "code").read_text()), report, (folder / "r.html").read_text()


@pytest.mark.long
def test_every_test_is_run_and_the_score_decides(examined):
    code, found, _ = examined
    checks = {check["id"]: check for check in found["checks"]}
    assert "model.behaviour" not in checks
    for name in (*(test.id for test in TESTS), "channel-bounds"):
        assert checks[f"behaviour.{name}"]["status"] == "measured"
    score = checks["behaviour.score"]
    assert 0 < score["value"] < 1
    verdicts = {"failed": ("failed", 1), "inconclusive": ("inconclusive", 6), "passed": ("passed", 0)}
    assert (found["verdict"], found["exit_code"]) == verdicts[score["status"]]
    assert code == found["exit_code"]
    assert checks["acc"]["value"] > 0.9
    seeds = found["details"]["behaviour"]["seeds"]
    assert len(seeds) == 3
    same = sum(seed["class"] == found["details"]["behaviour"]["most_suspicious_class"] for seed in seeds)
    over = [seed["score"] > score["threshold"] for seed in seeds]
    if score["value"] > score["threshold"]:
        assert score["status"] == ("failed" if same >= 2 else "inconclusive")
    else:
        assert score["status"] == ("inconclusive" if any(over) else "passed")


def test_the_target_of_the_planted_backdoor_stands_out_most(examined):
    """Whether the score is over the threshold differs from machine to machine: tests/integration has a clear case."""
    _, found, _ = examined
    assert found["details"]["behaviour"]["most_suspicious_class"] == "0"


def test_the_trigger_that_was_found_is_a_picture(examined):
    _, found, page = examined
    recovered = found["details"]["behaviour"]["recovered"]
    assert [change["kind"] for change in recovered] == ["inverted-square", "inverted-mask", "inverted-smooth"]
    for change in recovered:
        Path("found.png").write_bytes(b64decode(change["png"]))
        with Image.open("found.png") as picture:
            assert picture.size == (3 * 8 + 4, 8)
        Path("found.png").unlink()
        assert change["png"] in page
        assert 0 <= change["success"] <= 1
    assert "anomaly index" in page


def test_quick_says_what_it_left_out(call, bad):
    assert call("inspect", bad, "--effort", "quick", "--json", "r.json").code == 0
    (left,) = [check for check in report()["checks"] if check["id"] == "model.behaviour"]
    assert left["status"] == "skipped"
    assert "--effort quick" in left["evidence"]
    assert report()["verdict"] == "measured"


def test_the_seed_is_the_first_of_several(call, bad):
    assert call("inspect", bad, "--data", "digits", "--seed", "5", "--json", "r.json").code in {0, 1, 6}
    assert [seed["seed"] for seed in report()["details"]["behaviour"]["seeds"]] == [5, 6, 7]


def test_what_cannot_be_opened_is_a_skipped_check_unless_it_was_asked_for(call, bad):
    save_file(load_file(bad), "bare.safetensors")
    assert call("inspect", "bare.safetensors", "--json", "r.json").code == 0
    (left,) = [check for check in report()["checks"] if check["id"] == "model.behaviour"]
    assert left["status"] == "skipped"
    assert "--normalisation" in left["evidence"]
    one_sentence(call("inspect", "bare.safetensors", "--effort", "standard"), 3, "--normalisation")


def test_two_classes_are_too_few_to_compare(call, bad):
    weights = load_file(bad)
    weights["linear.weight"], weights["linear.bias"] = weights["linear.weight"][:2], weights["linear.bias"][:2]
    save_file({name: tensor.contiguous() for name, tensor in weights.items()}, "two.safetensors")
    words = ("two.safetensors", "--normalisation", "none", "--image-size", "8")
    assert call("inspect", *words, "--json", "r.json").code == 0
    (left,) = [check for check in report()["checks"] if check["id"] == "model.behaviour"]
    assert "2 classes" in left["evidence"]
    one_sentence(call("inspect", *words, "--effort", "deep"), 3, "2 classes")


def test_a_score_can_be_ruled_by_policy(call, bad):
    Path("p.toml").write_text("[policy]\nmax-score = 0.0\n")
    words = ("--normalisation", "none", "--image-size", "8")
    torch.save(load_file(bad), "vendor.pth")
    assert call("inspect", "vendor.pth", *words, "--policy", "p.toml", "--json", "r.json").code == 1
    checks = {check["id"]: check for check in report()["checks"]}
    assert checks["policy.max-score"]["status"] == "failed"
    assert checks["behaviour.inverted-square"]["status"] == "skipped"
    assert checks["behaviour.score"]["status"] != "passed"
    assert call("inspect", bad, "--effort", "quick", "--policy", "p.toml").code == 6
