"""ONNX as MODEL: measured as it is, purified into a file of the same form."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
import pytest

from tests.cli.conftest import one_sentence

LEARN = ("--clean-frac", "0.1", "--recipe", "paper", "--epochs", "2")


def checks(path: str) -> dict[str, dict]:
    return {check["id"]: check for check in json.loads(Path(path).read_text())["checks"]}


@pytest.fixture
def graph(call, bad) -> Path:
    """The backdoored digits classifier as ONNX, in the working folder."""
    assert call("export", bad, "-o", "bad.onnx", "-q").code == 0
    return Path("bad.onnx")


def stripped(path: Path) -> Path:
    """The same graph without a word of sau's, as a vendor would send it."""
    model = onnx.load(str(path))
    del model.metadata_props[:]
    onnx.save(model, "vendor.onnx")
    return Path("vendor.onnx")


def test_a_graph_measures_like_the_weights_it_was_made_of(call, bad, graph):
    trigger = ("--trigger", "bad.trigger.safetensors")
    assert call("evaluate", bad, *trigger, "--json", "weights.json").code == 0
    assert call("evaluate", graph, *trigger, "--reference", bad, "--json", "graph.json").code == 0
    weights, graphs = checks("weights.json"), checks("graph.json")
    for name in ("acc", "asr.badnets"):
        assert graphs[name]["value"] == weights[name]["value"]
    assert call("inspect", "--effort", "quick", graph, "--data", "digits", "--json", "inspect.json").code == 0
    assert checks("inspect.json")["acc"]["value"] == weights["acc"]["value"]


def test_purify_writes_a_graph(call, bad, graph):
    words = ("--clean-frac", "0.1", "--recipe", "paper", "--epochs", "2", "--json", "p.json")
    assert call("purify", graph, *words).code in {0, 6}  # two epochs may clear nothing
    report = json.loads(Path("p.json").read_text())
    assert Path(report["outputs"]["weights"]["path"]).name == "bad.purified.onnx"
    steps = [
        step["step"]
        for entry in onnx.load("bad.purified.onnx").metadata_props
        if entry.key == "sau.history"
        for step in json.loads(entry.value)
    ]
    assert steps == ["attack", "export", "purify"]
    done = call("evaluate", "bad.purified.onnx", "--reference", graph, "--json", "e.json")
    assert done.code == 0
    assert checks("e.json")["acc"]["value"] > 0.8
    assert sorted(path.name for path in Path().glob("*.onnx")) == ["bad.onnx", "bad.purified.onnx"]


def test_a_vendors_graph_is_asked_for_its_normalisation(call, graph):
    vendor = stripped(graph)
    done = call("evaluate", vendor, "--data", "digits")
    one_sentence(done, 3, "--normalisation", "'none' first")
    assert call("evaluate", vendor, "--data", "digits", "--normalisation", "none", "--min-acc", "0.9").code == 0
    learned = (
        "--data",
        "digits",
        "--normalisation",
        "none",
        "--clean-frac",
        "0.1",
        "--recipe",
        "paper",
        "--epochs",
        "1",
    )
    assert call("purify", vendor, *learned, "-o", "fixed.onnx").code in {0, 6}
    assert call("evaluate", "fixed.onnx", "--data", "digits", "--min-acc", "0.8").code == 0


def test_a_backdoor_is_implanted_into_a_copy_of_a_graph(call, graph):
    done = call("attack", graph, "--attack", "badnets", "--target", "3", "--epochs", "2", "-o", "worse.onnx")
    assert done.code == 0
    assert call("evaluate", "worse.onnx", "--trigger", "worse.trigger.safetensors").code == 0


def test_what_does_not_go_with_a_graph(call, graph):
    one_sentence(call("export", graph, "-o", "again.onnx"), 2, "ONNX already")
    one_sentence(call("purify", graph, "--clean-frac", "0.1", "-o", "x.safetensors"), 2, "ends in .onnx")
    one_sentence(call("evaluate", graph, "--arch", "small_cnn"), 2, "leave --arch out")
    one_sentence(call("evaluate", graph, "--normalisation", "imagenet"), 2, "normalisation")
