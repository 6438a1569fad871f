"""Models of Keras and TensorFlow on the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.conftest import one_sentence
from tests.support.keras_files import KERAS_FILES


@pytest.mark.parametrize(
    ("name", "code", "words"),
    [
        ("digits.keras", 0, ("keras", "Rescaling, Conv2D", "8 x 8 x 1", "144 x 10", "softmax")),
        ("digits.h5", 0, ("hdf5", "the network and its weights", "Rescaling, Conv2D")),
        ("digits.weights.h5", 0, ("hdf5", "weights alone")),
        ("custom.keras", 0, ("file.keras-custom-object", "mine>Halved")),
        ("lambda.keras", 4, ("file.keras-code", "Lambda, Flatten, Dense")),
        ("saved_model", 3, ("tensorflow savedmodel", "not examined")),
    ],
)
def test_inspect(call, name, code, words):
    done = call("inspect", KERAS_FILES / name, "--tensors", "--json", "-")
    assert done.code == code, done
    assert json.loads(done.out)["exit_code"] == code
    for word in words:
        assert word in done.err


@pytest.mark.long
def test_inspect_the_folder_of_them_all(call):
    done = call("inspect", KERAS_FILES, "--jobs", "1", "--json", "-")
    assert done.code == 4
    verdicts = {Path(model["inputs"][0]["path"]).name: model["verdict"] for model in json.loads(done.out)["models"]}
    assert verdicts == {
        "compiled.keras": "measured",
        "custom.keras": "measured",
        "digits.h5": "measured",
        "digits.keras": "measured",
        "digits.weights.h5": "measured",
        "lambda.h5": "unsafe",
        "lambda.keras": "unsafe",
        "saved_model.pb": "not-evaluated",
    }


COMMANDS = {
    "evaluate": ("--data", "digits"),
    "purify": ("--data", "digits"),
    "export": ("-o", "out.onnx", "--data", "digits"),
    "attack": ("--attack", "badnets", "--data", "digits", "-o", "out.safetensors"),
}


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(
    ("name", "way_out"),
    [
        ("digits.keras", "m.export('model.onnx', format='onnx')"),
        ("digits.h5", "m.export('model.onnx', format='onnx')"),
        ("digits.weights.h5", "export('model.onnx', format='onnx')"),
        ("saved_model", "python -m tf2onnx.convert --saved-model"),
    ],
)
def test_the_others_name_the_way_out(call, command, name, way_out):
    one_sentence(call(command, KERAS_FILES / name, *COMMANDS[command]), 3, way_out)


def test_code_is_refused_everywhere(call):
    for command, words in COMMANDS.items():
        one_sentence(call(command, KERAS_FILES / "lambda.keras", *words), 4, "is refused", "bytecode")


def test_a_name_that_a_shell_would_run_is_quoted(call):
    path = Path("$(touch ran).keras")
    path.write_bytes((KERAS_FILES / "digits.keras").read_bytes())
    one_sentence(call("evaluate", path, "--data", "digits"), 3, f"'{path}'")
