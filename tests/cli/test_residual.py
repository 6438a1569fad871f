"""The residual test: at the end of ``sau purify``, in ``sau inspect --reference``, and of one model alone."""

from __future__ import annotations

import json
import shutil
from base64 import b64decode
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from tests.cli.conftest import one_sentence
from tests.conftest import made_once, run_here


def report(name: str = "r.json") -> dict:
    return json.loads(Path(name).read_text())


def check(found: dict, name: str) -> dict:
    (one,) = [each for each in found["checks"] if each["id"] == name]
    return one


def last_step(path: Path) -> dict:
    with safe_open(path, framework="pt") as file:
        return json.loads(file.metadata()["sau.history"])[-1]


pytestmark = pytest.mark.searches


@pytest.fixture(scope="session")
def purified(planted, tmp_path_factory):
    """The backdoored digits classifier, purified by the default recipe. Read only."""

    def purify(folder):
        shutil.copy(planted / "bad.safetensors", folder)
        words = ("purify", "bad.safetensors", "--clean-frac", "0.1", "-o", "fixed.safetensors", "--device", "cpu")
        done = run_here(*words, "--json", "r.json", "--report", "r.html", cwd=folder)
        assert done.code == 0, done.err

    return made_once(tmp_path_factory, "purified", purify)


@pytest.mark.long
def test_a_purified_model_that_is_cleared_passes_and_its_file_says_so(purified):
    found = report(purified / "r.json")
    residual = check(found, "residual.score")
    assert (found["exit_code"], residual["status"]) == (0, "passed"), residual
    assert residual["value"] <= residual["threshold"]
    assert "clean images" in residual["evidence"]
    told = last_step(purified / "fixed.safetensors")["settings"]["residual"]
    assert told["cleared"] is True
    assert told["limit"] == residual["threshold"]
    assert set(told["kinds"]) == {"square", "mask", "smooth"}
    first = found["details"]["rounds"][0]
    assert ("square", 0) in [(suspect["kind"], suspect["wanted"]) for suspect in first["suspects"]]


def test_the_page_shows_the_easiest_changes(purified):
    page = (purified / "r.html").read_text()
    assert "The easiest changes of all images" in page
    for change in report(purified / "r.json")["details"]["residual"]["recovered"]:
        assert change["png"] in page
        assert b64decode(change["png"]).startswith(b"\x89PNG")


@pytest.mark.long
def test_the_two_files_are_looked_at_together(call, bad, purified):
    words = ("--reference", bad, "--data", "digits", "--effort", "quick", "--json", "r.json")
    assert call("inspect", purified / "fixed.safetensors", *words).code == 0
    assert check(report(), "residual.score")["status"] == "passed"


@pytest.mark.long
def test_a_backdoor_that_is_left_is_never_passed(call, bad):
    """A copy whose weights differ by nothing that matters: all of the backdoor is left."""
    weights = load_file(bad)
    with safe_open(bad, framework="pt") as file:
        told = file.metadata()
    weights["linear.bias"] = weights["linear.bias"] + 1e-4
    save_file(weights, "half.safetensors", metadata=told)
    done = call(
        *("inspect", "half.safetensors", "--reference", bad, "--data", "digits", "--effort", "quick"),
        *("--json", "r.json"),
    )
    residual = check(report(), "residual.score")
    assert (done.code, residual["status"]) == (6, "inconclusive"), residual
    assert "class '0'" in residual["evidence"]
    assert report()["details"]["residual"]["suspected_class"] == "0"


@pytest.mark.long
def test_a_class_that_stands_out_before_and_was_not_unlearned_is_not_cleared(call, bad, purified):
    """As the purified file tells; nothing that both models share stands out."""
    weights = load_file(purified / "fixed.safetensors")
    with safe_open(purified / "fixed.safetensors", framework="pt") as file:
        told = file.metadata()
    history = json.loads(told["sau.history"])
    assert "0" in history[-1]["settings"]["unlearned"]
    history[-1]["settings"]["unlearned"] = ["7"]
    save_file(weights, "overlooked.safetensors", metadata=told | {"sau.history": json.dumps(history)})
    words = ("--reference", bad, "--data", "digits", "--effort", "quick", "--json", "r.json")
    assert call("inspect", "overlooked.safetensors", *words).code == 6
    residual = check(report(), "residual.score")
    assert residual["status"] == "inconclusive"
    assert "class '0' in the received model" in residual["evidence"]
    assert report()["details"]["residual"]["cleared"] is False


@pytest.mark.long
def test_a_purification_that_removes_nothing_ends_in_6_and_marks_the_file(call, bad):
    Path("policy.toml").write_text("[policy]\nrequire-purified = true\n")
    done = call(
        *("purify", bad, "--clean-frac", "0.1", "--method", "ft", "--epochs", "1", "--lr", "1e-6"),
        *("-o", "half.safetensors", "--json", "r.json"),
    )
    assert done.code == 6, done.err
    assert check(report(), "residual.score")["status"] == "inconclusive"
    assert "not cleared" in done.err
    assert last_step(Path("half.safetensors"))["settings"]["residual"]["cleared"] is False
    assert call("inspect", "half.safetensors", "--effort", "quick", "--policy", "policy.toml").code == 1


def test_the_demo_s_backdoor_is_not_passed_by_inspect(call, bad):
    done = call("inspect", bad, "--data", "digits", "--json", "r.json")
    assert done.code in {1, 6}, done.err
    assert check(report(), "behaviour.easiest-change")["status"] == "inconclusive"


def test_the_same_bytes_are_no_reference(call, bad):
    shutil.copy(bad, "copy.safetensors")
    done = call("inspect", bad, "--reference", "copy.safetensors", "--data", "digits", "--effort", "quick")
    one_sentence(done, 2, "same bytes")


def test_a_reference_that_is_not_there(call, bad):
    one_sentence(call("inspect", bad, "--reference", "none.safetensors", "--data", "digits"), 2, "none.safetensors")


def test_a_reference_of_several_models(call, bad):
    shutil.copy(bad, "copy.safetensors")
    one_sentence(call("inspect", bad, "copy.safetensors", "--reference", bad), 2, "one model")


def test_a_reference_without_data_names_what_is_missing(call, bad):
    with safe_open(bad, framework="pt") as file:
        told = {name: value for name, value in file.metadata().items() if name != "sau.data"}
    weights = load_file(bad)
    save_file(weights, "nameless.safetensors", metadata=told)
    weights["linear.bias"] = weights["linear.bias"] + 1e-4
    save_file(weights, "other.safetensors", metadata=told)
    done = call("inspect", "nameless.safetensors", "--reference", "other.safetensors")
    one_sentence(done, 2, "--data")


def test_a_reference_with_other_classes_clears_nothing(call, bad):
    weights = {name: tensor.clone() for name, tensor in load_file(bad).items()}
    with safe_open(bad, framework="pt") as file:
        told = dict(file.metadata())
    told["sau.classes"] = json.dumps([str(number) for number in range(9)])
    weights["linear.weight"], weights["linear.bias"] = weights["linear.weight"][:9], weights["linear.bias"][:9]
    save_file({name: tensor.contiguous() for name, tensor in weights.items()}, "nine.safetensors", metadata=told)
    done = call("inspect", bad, "--reference", "nine.safetensors", "--data", "digits", "--effort", "quick")
    one_sentence(done, 3, "classes")


def test_weights_of_a_reference_that_are_no_numbers(call, bad):
    weights = load_file(bad)
    with safe_open(bad, framework="pt") as file:
        told = file.metadata()
    weights["linear.bias"] = torch.full_like(weights["linear.bias"], torch.nan)
    save_file(weights, "nan.safetensors", metadata=told)
    done = call(
        *("inspect", bad, "--reference", "nan.safetensors", "--data", "digits", "--effort", "quick"),
        *("--json", "r.json"),
    )
    assert done.code in {3, 6}, done.err
    assert "NaN" in done.err or "NaN" in check(report(), "residual.score")["evidence"]
