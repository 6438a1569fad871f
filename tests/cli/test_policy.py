"""A policy at the command line: what is not measured does not pass, and quiet still says what failed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.cli.conftest import one_sentence

QUICK = ("--effort", "quick")
"""Behaviour has tests of its own."""


def checks(path: str = "r.json") -> dict[str, dict]:
    return {check["id"]: check for check in json.loads(Path(path).read_text())["checks"]}


def policy(*rules: str) -> None:
    Path("p.toml").write_text("\n".join(["[policy]", *rules]))


@pytest.mark.parametrize("rule", ["max-score = 1.0", "max-asr = 1.0", "max-drop = 1.0"])
def test_inspect_does_not_pass_what_it_did_not_measure(call, bad, rule):
    policy(rule)
    done = call("inspect", *QUICK, bad, "--policy", "p.toml", "--json", "r.json", "--quiet")
    assert done.code == 6
    name = rule.split()[0]
    assert checks()[f"policy.{name}"]["status"] == "inconclusive"
    assert checks()[f"policy.{name}"]["threshold"] == 1
    assert done.err.startswith(f"inconclusive: policy.{name}: ")


def test_accuracy_without_data_is_not_passed(call, bad, tmp_path):
    save_file(load_file(bad), "bare.safetensors")
    policy("min-acc = 0.5")
    assert call("inspect", *QUICK, "bare.safetensors", "--policy", "p.toml", "--json", "r.json").code == 6
    assert checks()["policy.min-acc"]["status"] == "inconclusive"


def test_a_broken_rule_counts_more_than_one_that_was_not_measured(call, bad):
    policy("max-score = 0.5", 'allowed-formats = ["onnx"]')
    assert call("inspect", *QUICK, bad, "--policy", "p.toml").code == 1


def test_a_rule_is_told_also_where_the_measurement_ends_in_an_error(call, bad):
    policy("min-acc = 0.5")
    done = call("inspect", *QUICK, bad, "--policy", "p.toml", "--data", "nothing", "--json", "r.json")
    assert done.code == 2
    assert checks()["policy.min-acc"]["status"] == "inconclusive"


def test_rules_about_the_file(call, bad):
    policy('max-severity = "info"', "require-purified = true", "require-onnx-verified = true")
    assert call("inspect", *QUICK, bad, "--policy", "p.toml", "--json", "r.json").code == 1
    found = {name: check["status"] for name, check in checks().items() if name.startswith("policy.")}
    assert found == {
        "policy.max-severity": "passed",
        "policy.require-purified": "failed",
        "policy.require-onnx-verified": "failed",
    }


def test_weights_that_are_no_numbers_are_not_evaluated_and_no_policy_passes_them(call, bad):
    state = load_file(bad)
    state["linear.bias"][0] = float("nan")
    save_file(state, "nan.safetensors")
    done = call("inspect", *QUICK, "nan.safetensors", "--data", "digits", "--json", "r.json", "--quiet")
    assert done.code == 3
    assert done.err.startswith("not-evaluated: file.non-finite-weights: 1 NaN and 0 infinite")
    found = checks()["file.non-finite-weights"]
    assert (found["status"], found["severity"], found["value"]) == ("failed", "high", 1)
    policy('allowed-formats = ["safetensors"]')
    assert call("inspect", *QUICK, "nan.safetensors", "--policy", "p.toml").code == 3
    policy('max-severity = "low"')
    assert call("inspect", *QUICK, "nan.safetensors", "--policy", "p.toml").code == 1


def test_every_check_of_a_file_has_a_severity_and_a_sentence(call, bad):
    assert call("inspect", *QUICK, bad, "--json", "r.json").code == 0
    of_file = {name: check for name, check in checks().items() if name.startswith("file.")}
    assert len(of_file) >= 3
    assert all(check["severity"] == "info" and check["evidence"] for check in of_file.values())


def test_evaluate_judges_what_it_can_and_says_why_not_of_the_rest(call, bad):
    Path("sau.toml").write_text(
        '[policy]\nmin-acc = 0.5\nmax-asr = 0.05\nmax-drop = 0.1\nmax-score = 0.5\nmax-severity = "low"\n'
        'allowed-formats = ["safetensors"]\nrequire-purified = true\n'
    )
    done = call("evaluate", bad, "--trigger", "bad.trigger.safetensors", "--json", "r.json", "--quiet")
    assert done.code == 1
    found = {name: check["status"] for name, check in checks().items() if name.startswith("policy.")}
    assert found == {
        "policy.allowed-formats": "passed",
        "policy.max-severity": "skipped",
        "policy.require-purified": "failed",
        "policy.max-score": "skipped",
        "policy.min-acc": "passed",
        "policy.max-asr": "failed",
        "policy.max-drop": "skipped",
    }
    assert "sau inspect" in checks()["policy.max-severity"]["evidence"]
    policy("max-drop = 0.0")
    assert call("evaluate", bad, "--reference", bad, "--policy", "p.toml", "--json", "r.json", "--force").code == 0
    assert checks()["policy.max-drop"]["status"] == "passed"
    assert "policy.min-acc" not in checks(), "a policy that is named takes the place of that of sau.toml"


@pytest.mark.parametrize(
    ("rule", "flags"),
    [
        ("max-asr = 0.05", ("--trigger", "bad.trigger.safetensors", "--max-asr", "10%")),
        ("min-acc = 0.9", ("--min-acc", "50%")),
        ("max-drop = 0.01", ("--reference", "bad.safetensors", "--max-acc-drop", "5%")),
    ],
)
def test_a_flag_that_allows_what_the_policy_forbids(call, bad, rule, flags):
    policy(rule)
    one_sentence(call("evaluate", bad, "--policy", "p.toml", *flags), 2, flags[-2], "forbids", "leave one")


def test_rules_about_the_file_are_judged_before_what_may_fail(call, bad):
    policy('allowed-formats = ["onnx"]')
    done = call("evaluate", bad, "--data", "nowhere.npz", "--policy", "p.toml", "--json", "r.json")
    assert done.code == 1, done
    assert checks()["policy.allowed-formats"]["status"] == "failed"


def test_a_flag_that_demands_more_than_the_policy(call, bad):
    policy("min-acc = 0.5")
    assert call("evaluate", bad, "--policy", "p.toml", "--min-acc", "80%", "--json", "r.json").code == 0
    assert {"limit.min-acc", "policy.min-acc"} <= set(checks())


def test_confidence_is_for_rules_too(call, bad):
    policy("min-acc = 0.9")
    call("evaluate", bad, "--json", "r.json")
    accuracy = checks()["acc"]["value"]
    policy(f"min-acc = {accuracy}")
    assert call("evaluate", bad, "--policy", "p.toml").code == 0
    assert call("evaluate", bad, "--policy", "p.toml", "--confident").code == 6


def test_quiet_says_in_one_line_what_failed(call, bad):
    policy('allowed-formats = ["onnx"]', "require-purified = true")
    done = call("inspect", *QUICK, bad, "--policy", "p.toml", "-q")
    assert done.code == 1
    assert done.out == ""
    assert done.err == "failed: policy.allowed-formats: the format is safetensors; allowed are onnx (and 1 more)\n"
    assert call("inspect", *QUICK, bad, "-q").err == ""


STRANGE = {
    "one class": {"linear.weight": torch.zeros(1, 256), "linear.bias": torch.zeros(1)},
    "21,000 classes": {"linear.weight": torch.zeros(21000, 256), "linear.bias": torch.zeros(21000)},
    "5 channels": {"conv.0.weight": torch.zeros(32, 5, 3, 3)},
    "regression": {"head.weight": torch.zeros(1, 8), "body.0.weight": torch.zeros(8, 3)},
    "a detector": {
        "backbone.body.conv1.weight": torch.zeros(64, 3, 7, 7),
        "rpn.head.bbox_pred.weight": torch.zeros(12, 256, 1, 1),
        "roi_heads.box_predictor.cls_score.weight": torch.zeros(91, 1024),
    },
}


@pytest.mark.parametrize("changes", STRANGE.values(), ids=STRANGE.keys())
def test_networks_that_are_no_ordinary_classifier(call, bad, changes):
    """The file is described, and what cannot be measured is said in one sentence; nothing is called clean."""
    own = load_file(bad)
    state = changes if not changes.keys() & own.keys() else own | changes
    save_file({name: tensor.half() for name, tensor in state.items()}, "strange.safetensors")
    assert call("inspect", *QUICK, "strange.safetensors", "--json", "r.json").code == 0
    assert json.loads(Path("r.json").read_text())["verdict"] == "measured"
    done = call("inspect", *QUICK, "strange.safetensors", "--data", "digits", "--normalisation", "none")
    one_sentence(done, 3)
