"""Files that ``sau`` wrote in its schema 1, which every later version opens, and which say there what they said.

``schema_1/make.py`` made them, once. A new schema gets a folder of its own beside that.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sau_adapters.classifiers.building import as_classifier
from sau_adapters.images.sources import open_images
from sau_adapters.models import locate, open_model
from sau_adapters.run_states import read_state
from sau_adapters.triggers import open_trigger
from sau_cli.classifier import Classifier
from sau_cli.evaluation.metrics import evaluate
from sau_cli.reporting.json_document import plain

FOLDER = Path(__file__).with_name("schema_1")
ARCH = f"{FOLDER / 'network.py'}:Tiny"
MODELS = ("planted.safetensors", "halfway.safetensors", "planted.purified.safetensors", "exported.onnx")
NEAR = 0.01
"""Three or four of 360 images, which another processor may see otherwise."""


def opened(name: str) -> Classifier:
    model = open_model(locate(FOLDER / name))
    return as_classifier(model, architecture=None if model.graph else ARCH)


def reported() -> dict[str, float]:
    checks = json.loads((FOLDER / "report.json").read_text())["checks"]
    return {check["id"]: check["value"] for check in checks}


def test_they_are_small():
    assert sum(path.stat().st_size for path in FOLDER.iterdir() if path.is_file()) < 300_000


@pytest.mark.parametrize("name", MODELS)
def test_a_model_says_what_it_said(name, monkeypatch):
    monkeypatch.chdir(FOLDER)
    told = json.loads(Path(f"{name}.inspect.json").read_text())["details"]["file"]
    now = plain(open_model(locate(Path(name))).facts)
    assert {key: now[key] for key in told} == told


@pytest.mark.parametrize("name", MODELS)
def test_a_model_opens(name):
    known = opened(name).description
    steps = [step.step for step in known.history]
    wanted = {"planted.safetensors": ["attack"], "exported.onnx": ["attack", "purify", "export"]}
    assert steps == wanted.get(name, ["attack", "purify"])
    assert (known.class_names, known.input.size, known.data) == (tuple("0123456789"), "8x8", "digits")


def test_a_trigger_stamps_and_leads_where_it_did():
    digits = open_images("digits").for_testing
    triggers = (open_trigger(str(FOLDER / "planted.trigger.safetensors"), None),)
    purified = evaluate(opened("planted.purified.safetensors"), digits, triggers=triggers)
    assert purified.accuracy.value == pytest.approx(reported()["acc"], abs=NEAR)
    assert purified.triggers[0].asr.value == pytest.approx(reported()["asr.badnets"], abs=NEAR)
    exported = evaluate(opened("exported.onnx"), digits)
    assert exported.accuracy.value == pytest.approx(purified.accuracy.value, abs=NEAR)


def test_the_state_of_a_run_is_read():
    state = read_state(FOLDER / "halfway.resume.safetensors")
    told = json.loads((FOLDER / "halfway.safetensors.inspect.json").read_text())["details"]["file"]["description"]
    assert len(state.history) == told["history"][-1]["settings"]["epochs_run"]


def test_a_report_has_what_the_contract_promises():
    report = json.loads((FOLDER / "report.json").read_text())
    assert report["schema_version"] == "1"
    wanted = {"tool_version", "command", "inputs", "verdict", "exit_code", "checks", "environment"}
    assert wanted <= report.keys()
    assert [Path(file["path"]).name for file in report["inputs"]][:2] == [
        "planted.purified.safetensors",
        "planted.safetensors",
    ]
    assert {"acc", "asr.badnets"} <= {check["id"] for check in report["checks"]}
