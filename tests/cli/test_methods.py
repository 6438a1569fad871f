"""``sau purify --method``: each runs as a whole command and says what it is; what is not its own is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from safetensors import safe_open

from tests.cli.conftest import one_sentence

SHORT = {"ft": "20", "ft-sam": "20", "i-bau": "5", "d3": "100", "fst": "100"}


@pytest.mark.long
@pytest.mark.parametrize("method", SHORT)
def test_each_runs_on_digits_and_keeps_the_accuracy(call, bad, method):
    words = ("--method", method, "--clean-frac", "0.1", "--epochs", SHORT[method], "--device", "cpu")
    done = call("purify", bad, *words, "--json", "r.json")
    assert done.code in {0, 6}, done.err
    report = json.loads(Path("r.json").read_text())
    found = {check["id"]: check["value"] for check in report["checks"]}
    assert found["held-back-accuracy"] > found["held-back-accuracy.before"] - 0.05
    compared = {"acc", "reference.acc", "acc-drop", "acc-change.p-value"}
    own = {"held-back-accuracy", "held-back-accuracy.before", "residual.score"}
    assert set(found) == own | compared, "no shared examples"
    assert report["details"]["method"] == report["details"]["settings"]["name"] == method
    with safe_open("bad.purified.safetensors", framework="numpy") as file:
        history = json.loads(file.metadata()["sau.history"])
    assert (history[-1]["step"], history[-1]["settings"]["method"]) == ("purify", method)
    assert "SAE" not in done.err
    evaluated = call("evaluate", "bad.purified.safetensors", "-r", bad, "--json", "e.json")
    assert evaluated.code == 0


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--method", "ft", "--recipe", "paper"), ("--recipe", "--method sau", "ft")),
        (("--method", "ft-sam", "--epsilon", "0.1"), ("--epsilon", "--method sau", "ft-sam")),
        (("--method", "i-bau", "--steps", "3"), ("--steps", "--method sau")),
        (("--method", "ft", "--rho", "2"), ("--rho", "--method ft-sam")),
        (("--rho", "2"), ("--rho", "--method ft-sam")),
        (("--method", "d3", "--alpha", "0.2"), ("--alpha", "--method fst", "d3")),
        (("--method", "fst", "--clean-weight", "2"), ("--clean-weight", "--method sau", "fst")),
        (("--method", "d3", "--clean-weight", "0"), ("clean weight 0 is impossible",)),
        (("--method", "ft-sam", "--rho", "-1"), ("rho -1 is impossible",)),
        (("--method", "i-bau", "--max-batch", "8"), ("--max-batch", "--batch-size")),
        (("--method", "magic"), ("magic",)),
    ],
)
def test_what_is_not_of_the_method_is_refused_in_a_sentence(call, bad, words, told):
    one_sentence(call("purify", bad, "--clean-frac", "0.1", *words), 2, *told)
    assert not Path("bad.purified.safetensors").exists()
