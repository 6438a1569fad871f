"""A folder of Hugging Face transformers through every command."""

from __future__ import annotations

import json
import shutil

import pytest
from PIL import Image
from safetensors import safe_open

from sau_adapters.architectures import transformers_networks
from sau_adapters.silence import silenced
from tests.cli.conftest import one_sentence
from tests.support.transformers_models import NAMES, answers, lessons, network, saved, taught

transformers = pytest.importorskip("transformers")
DONE = {0, 6}
"""The exit codes of a purification that ran."""
CLEAN = ("--data", "clean", "--device", "cpu")
SHORT = ("--method", "ft", "--epochs", "1", "--clean-frac", "0.5")


@pytest.fixture
def shelf(tmp_path):
    """The working folder, with a network in ``model`` and images of its classes in ``clean``."""
    saved(tmp_path / "model", "resnet", form=lambda made: taught(made, "resnet"))
    for number, (picture, label) in enumerate(zip(*lessons(), strict=True)):
        place = tmp_path / "clean" / NAMES[label] / f"{number}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture.permute(1, 2, 0).numpy()).save(place)
    return tmp_path


def test_inspect_says_what_it_is_without_the_extra(shelf, call, monkeypatch):
    monkeypatch.setattr(transformers_networks, "find_spec", lambda name: None)
    done = call("inspect", "model", "--effort", "quick")
    assert done.code == 0, done
    assert "transformers:ResNetForImageClassification" in done.err
    assert f"10: {', '.join(NAMES)}" in done.err
    for command in (("inspect", "model"), ("evaluate", "model"), ("purify", "model", *SHORT)):
        one_sentence(call(*command, *CLEAN), 3, "pip install 'sau-cli[transformers]'")


def test_evaluate_and_export(shelf, call):
    done = call("evaluate", "model", *CLEAN, "--json", "-")
    assert done.code == 0, done.err
    images, labels = lessons()
    right = answers(shelf / "model", images).argmax(1) == labels
    assert right.float().mean() > 0.9
    (accuracy,) = (check["value"] for check in json.loads(done.out)["checks"] if check["id"] == "acc")
    assert accuracy == pytest.approx(right.float().mean().item())
    done = call("export", "model", "--data", "clean", "-o", "model.onnx")
    assert done.code == 0, done.err
    assert call("evaluate", "model.onnx", *CLEAN, "--reference", "model", "--max-acc-drop", "0").code == 0


def test_purify_writes_a_folder_that_transformers_loads(shelf, call):
    done = call("purify", "model", *CLEAN, *SHORT, "--json", "report.json")
    assert done.code in DONE, done.err
    report = json.loads((shelf / "report.json").read_text())
    assert report["outputs"]["weights"]["path"] == "model.purified/model.safetensors"
    assert (shelf / "model.purified" / "config.json").read_text() == (shelf / "model" / "config.json").read_text()
    with silenced():
        loaded, info = transformers.AutoModelForImageClassification.from_pretrained(
            "model.purified", output_loading_info=True
        )
        assert transformers.AutoImageProcessor.from_pretrained("model.purified").size["shortest_edge"] == 32
    assert not any(info.values())
    assert loaded.config.id2label == dict(enumerate(NAMES))
    with safe_open(shelf / "model.purified" / "model.safetensors", framework="numpy") as file:
        (step,) = json.loads(file.metadata()["sau.history"])
    assert step["input_sha256"] == report["inputs"][0]["sha256"]
    assert sorted(file.name for file in shelf.iterdir()) == ["clean", "model", "model.purified", "report.json"]
    done = call("evaluate", "model.purified", *CLEAN, "--reference", "model")
    assert done.code == 0, done.err
    one_sentence(call("purify", "model", *CLEAN, *SHORT), 2, "model.purified exists", "--force")
    (shelf / "model.purified" / "notes.txt").write_text("mine")
    one_sentence(call("purify", "model", *CLEAN, *SHORT, "--force"), 2, "notes.txt")


def test_one_file_is_enough_wherever_it_goes(shelf, call):
    done = call("purify", "model", *CLEAN, *SHORT, "-o", "one.safetensors")
    assert done.code in DONE, done.err
    (shelf / "away").mkdir()
    shutil.move(shelf / "one.safetensors", shelf / "away")
    done = call("evaluate", "away/one.safetensors", *CLEAN)
    assert done.code == 0, done.err
    one_sentence(call("purify", "model", *CLEAN, *SHORT, "-o", "out.pt"), 2, ".safetensors")


def test_attack_implants_into_a_copy(shelf, call):
    done = call("attack", "model", "--attack", "badnets", *CLEAN, "--epochs", "1", "-o", "bad.v2")
    assert done.code == 0, done.err
    assert (shelf / "bad.v2" / "preprocessor_config.json").is_file()
    assert (shelf / "bad.v2.trigger.safetensors").is_file()
    done = call("evaluate", "bad.v2", *CLEAN, "--trigger", "bad.v2.trigger.safetensors")
    assert done.code == 0, done.err


def test_without_a_preprocessor_the_usual_normalisations_are_shown(shelf, call):
    (shelf / "model" / "preprocessor_config.json").unlink()
    done = call("evaluate", "model", *CLEAN)
    one_sentence(done, 3, "does not say how its images are normalised", "--normalisation")
    assert "Accuracy on 60 of the images by normalisation" in done.err
    given = call("evaluate", "model", *CLEAN, "--normalisation", "imagenet")
    assert given.code == 0, given.err
    shown = " ".join(call("inspect", "model", "--effort", "quick").err.split())
    assert "transformers:ResNetForImageClassification, 10 classes (seven, two," in shown


@pytest.mark.parametrize("command", ["inspect", "evaluate", "purify", "export", "attack"])
def test_another_task_is_one_sentence(shelf, call, command):
    with silenced():
        network("segformer", ending="ForSemanticSegmentation").save_pretrained(shelf / "other")
    more = {"purify": SHORT, "export": ("-o", "x.onnx"), "attack": ("-a", "badnets", "-o", "x.safetensors")}
    done = call(command, "other", "--data", "clean", *more.get(command, ()))
    one_sentence(done, 3, "SegformerForSemanticSegmentation, which is no image classifier")
