"""Models of Keras and TensorFlow, written by them (``tests/support/keras_files/make.py``), and changed by somebody."""

from __future__ import annotations

import json
import shutil
import sys
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest

from sau_adapters.weights import hdf5_listing
from sau_adapters.weights.keras_config import config_findings
from sau_adapters.zoos.folders import weights_in
from sau_adapters.zoos.search import models_under
from sau_cli.errors import NotEvaluable, UnsafeFile
from sau_cli.inspection.inspector import inspect
from sau_cli.results import CheckStatus
from tests.support.keras_files import KERAS_FILES
from tests.support.models import file_facts, read_checkpoint

CODE, ESCAPE, CUSTOM = "file.keras-code", "file.path-escape", "file.keras-custom-object"


def changed_config(folder: Path, change, source: str = "digits.keras") -> Path:
    """A real archive whose configuration somebody changed."""
    path = folder / "changed.keras"
    with zipfile.ZipFile(KERAS_FILES / source) as old, zipfile.ZipFile(path, "w") as new:
        for name in old.namelist():
            content = old.read(name)
            if name == "config.json":
                config = json.loads(content)
                change(config)
                content = json.dumps(config).encode()
            new.writestr(name, content)
    return path


def changed_weights(folder: Path, change) -> Path:
    """A real HDF5 file whose weights somebody changed."""
    path = Path(shutil.copy(KERAS_FILES / "digits.weights.h5", folder / "changed.h5"))
    with h5py.File(path, "r+") as file:
        change(file)
    return path


def ids(path: Path) -> dict[str, str]:
    return {finding.id: finding.sentence for finding in file_facts(path).findings}


@pytest.mark.parametrize(
    ("name", "form", "note"),
    [
        ("digits.keras", "keras", ""),
        ("digits.h5", "hdf5", "the network and its weights"),
        ("digits.weights.h5", "hdf5", "weights alone"),
        ("saved_model/saved_model.pb", "tensorflow savedmodel", ""),
    ],
)
def test_each_is_told_by_content(tmp_path, name, form, note):
    path = Path(shutil.copy(KERAS_FILES / name, tmp_path / "model.pt"))
    facts = file_facts(path)
    assert facts.format == form
    assert not facts.findings
    assert all(note in said for said in facts.notes)
    assert bool(facts.notes) == bool(note)


@pytest.mark.parametrize("name", ["digits.keras", "digits.h5"])
def test_what_is_in_a_model(name):
    facts = file_facts(KERAS_FILES / name)
    shapes = sorted(tensor.shape for tensor in facts.tensors)
    assert shapes == [(3, 3, 1, 4), (4,), (4,), (4,), (4,), (4,), (10,), (144, 10)]
    assert {tensor.dtype for tensor in facts.tensors} == {"float32"}
    assert facts.non_finite == ()
    assert facts.metadata == {
        "keras.classes": "10",
        "keras.input": "8 x 8 x 1",
        "keras.last-activation": "softmax",
        "keras.layers": "Rescaling, Conv2D, BatchNormalization, Flatten, Dense",
        "keras.version": "3.15.1",
    }


def test_a_custom_loss_and_custom_layers_are_named_and_no_reason_to_refuse():
    assert "the function my_loss" in ids(KERAS_FILES / "compiled.keras")[CUSTOM]
    told = ids(KERAS_FILES / "custom.keras")
    assert told.keys() == {CUSTOM}
    assert "mine>Halved, Doubled" in told[CUSTOM]


@pytest.mark.parametrize("name", ["lambda.keras", "lambda.h5"])
def test_a_lambda_layer_is_code(name):
    assert "bytecode" in ids(KERAS_FILES / name)[CODE]
    with pytest.raises(UnsafeFile, match="is refused: its configuration asks for"):
        read_checkpoint(KERAS_FILES / name)


def gadget(**changes):
    """An object at the place of a layer."""

    def change(config):
        config["config"]["layers"][1] = {"registered_name": None, "config": {"name": "x"}, **changes}

    return change


GADGETS = {
    "a function of Python's library, called as a layer": (
        gadget(module="subprocess", class_name="function", config="Popen"),
        "subprocess.Popen",
    ),
    "a class of Python's library": (gadget(module="os", class_name="system"), "os.system"),
    "a function that Python has built in": (
        gadget(module="builtins", class_name="function", config="exec"),
        "exec of Python",
    ),
    "Keras's own switch of its safety": (
        gadget(module="keras.config", class_name="function", config="enable_unsafe_deserialization"),
        "enable_unsafe_deserialization",
    ),
    "Keras's own downloader in a Lambda": (
        gadget(
            module="keras.layers",
            class_name="Lambda",
            config={"name": "x", "function": {"class_name": "function", "module": "keras.utils", "config": "get_file"}},
        ),
        "get_file",
    ),
    "a function of somebody's own in a Lambda": (
        gadget(
            module="keras.layers",
            class_name="Lambda",
            config={"name": "x", "function": {"class_name": "function", "module": "builtins", "config": "scale"}},
        ),
        "scale in a Lambda layer",
    ),
    "a Lambda as Keras 2 wrote it": (
        gadget(class_name="Lambda", config={"name": "x", "function": ["4wEAAAA=", None, None]}),
        "bytecode",
    ),
    "a pickle": (gadget(module="keras.layers", class_name="TorchModuleWrapper"), "TorchModuleWrapper"),
    "another program": (gadget(module="keras.layers", class_name="TFSMLayer"), "TFSMLayer"),
    "an operation that writes files": (
        gadget(class_name="TFOpLambda", config={"name": "x", "function": "io.write_file"}),
        "tf.io.write_file",
    ),
    "a function to compile with": (
        lambda config: config.update(
            compile_config={"loss": {"module": "shutil", "class_name": "function", "config": "rmtree"}}
        ),
        "shutil.rmtree",
    ),
    "a function to build with": (
        lambda config: config.update(
            build_config={"input_shape": {"module": "os", "class_name": "function", "config": "getenv"}}
        ),
        "os.getenv",
    ),
}


@pytest.mark.parametrize(("change", "named"), GADGETS.values(), ids=GADGETS.keys())
def test_what_would_run_when_keras_builds_it(tmp_path, change, named):
    path = changed_config(tmp_path, change)
    assert named in ids(path)[CODE]
    with pytest.raises(UnsafeFile):
        read_checkpoint(path)


def test_bytecode_anywhere():
    with zipfile.ZipFile(KERAS_FILES / "lambda.keras") as archive:
        text = archive.read("config.json").decode()
    lambdas = [layer for layer in json.loads(text)["config"]["layers"] if layer["class_name"] == "Lambda"]
    code = lambdas[0]["config"]["function"]["config"]["code"]
    layer = {"module": "keras.layers", "class_name": "Dense", "config": {"activation": {"value": [code, None, None]}}}
    assert [finding.id for finding in config_findings(layer)] == [CODE]
    assert config_findings({"name": "4" * 100, "description": "Yellow " * 20}) == ()


@pytest.mark.parametrize("function", ["math.multiply", "compat.v1.transpose", "nn.softmax", "__operators__.getitem"])
def test_operations_of_tensorflow_that_only_compute(function):
    assert config_findings({"class_name": "TFOpLambda", "config": {"function": function}}) == ()


def test_functions_of_keras_that_only_compute():
    for module in ("keras.activations", "keras.src.ops.nn", "keras.losses"):
        assert config_findings({"class_name": "function", "module": module, "config": "relu"}) == ()


def test_a_vocabulary_in_a_file(tmp_path):
    change = gadget(module="keras.layers", class_name="StringLookup", config={"name": "x", "vocabulary": "/etc/passwd"})
    assert "/etc/passwd" in ids(changed_config(tmp_path, change))[ESCAPE]


def test_links_and_values_in_other_files(tmp_path):
    secret = tmp_path / "secret.h5"
    with h5py.File(secret, "w") as file:
        file["x"] = np.zeros(4, np.float32)

    def external(file):
        file["link"] = h5py.ExternalLink("secret.h5", "x")

    def stored(file):
        file.create_dataset("w", (4,), "f4", external=[(str(secret), 0, 16)])

    def virtual(file):
        layout = h5py.VirtualLayout((4,), "f4")
        layout[:] = h5py.VirtualSource(str(secret), "x", (4,))
        file.create_virtual_dataset("w", layout)

    for change, named in ((external, "secret.h5"), (stored, "'w' in another file"), (virtual, "'w' in another file")):
        path = changed_weights(tmp_path, change)
        assert named in ids(path)[ESCAPE]
        assert file_facts(path).non_finite is None
        with pytest.raises(UnsafeFile, match="outside of it"):
            read_checkpoint(path)


def test_sizes_that_the_file_does_not_hold(tmp_path):
    path = changed_weights(tmp_path, lambda file: file.create_dataset("w", (10**12,), "f4", chunks=(1000,)))
    assert "announces 4,000,000,000,000 bytes" in ids(path)["file.header"]
    many = np.zeros(50_000_000, np.float32)
    path = changed_weights(
        tmp_path, lambda file: file.create_dataset("v", data=many, chunks=(1_000_000,), compression="gzip")
    )
    assert "announces" in ids(path)["file.header"]


def test_links_that_go_round(tmp_path):
    def change(file):
        file["layers/again"] = file["layers"]
        file["soft"] = h5py.SoftLink("/nowhere")

    assert len(file_facts(changed_weights(tmp_path, change)).tensors) == 8


def test_values_that_are_no_numbers(tmp_path):
    def change(file):
        file["layers/dense/vars/0"][3, 1] = np.nan
        file["layers/dense/vars/1"][2] = np.inf
        file["big"] = np.array([1.0, np.inf], ">f8")
        half = file.create_dataset("half", data=np.array([0x7FC0, 0x3F80], "<u2").view("V2"))
        half.attrs["dtype"] = "bfloat16"

    facts = file_facts(changed_weights(tmp_path, change))
    found = {counted.tensor: (counted.nan, counted.infinite) for counted in facts.non_finite}
    assert found == {
        "layers/dense/vars/0": (1, 0),
        "layers/dense/vars/1": (0, 1),
        "big": (0, 1),
        "half": (1, 0),
    }
    assert next(tensor.dtype for tensor in facts.tensors if tensor.name == "half") == "bfloat16"


def test_numbers_that_nobody_can_tell_are_not_called_finite(tmp_path):
    facts = file_facts(changed_weights(tmp_path, lambda file: file.update(raw=np.zeros(3, "V7"))))
    assert facts.non_finite is None
    assert "'raw'" in facts.unread


@pytest.mark.parametrize("member", ["../evil", "/etc/evil", "c:\\evil"])
def test_members_outside_of_the_archive(tmp_path, member):
    path = Path(shutil.copy(KERAS_FILES / "digits.keras", tmp_path))
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(member, b"x")
    assert "a place outside of it" in ids(path)[ESCAPE]


def test_a_bomb_and_a_configuration_twice(tmp_path):
    path = Path(shutil.copy(KERAS_FILES / "digits.keras", tmp_path))
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("assets/x", b"0" * 300_000_000)
    assert "file.zip-bomb" in ids(path)
    path = Path(shutil.copy(KERAS_FILES / "digits.keras", tmp_path))
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("config.json", b"{}")
    assert "stands twice" in ids(path)["file.archive"]


@pytest.mark.parametrize("kept", [0.3, 0.8, 0.99])
@pytest.mark.parametrize("name", ["digits.keras", "digits.h5", "saved_model/saved_model.pb"])
def test_cut_short(tmp_path, name, kept):
    content = (KERAS_FILES / name).read_bytes()
    path = tmp_path / "cut"
    path.write_bytes(content[: round(kept * len(content))])
    with pytest.raises(NotEvaluable):
        read_checkpoint(path)


def test_a_configuration_deeper_than_any_network(tmp_path):
    path = tmp_path / "deep.keras"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("metadata.json", "{}")
        archive.writestr("config.json", '{"config": ' * 100_000 + "{}" + "}" * 100_000)
    with pytest.raises(NotEvaluable, match="nested deeper"):
        file_facts(path)


def test_an_unpacked_archive(tmp_path):
    with zipfile.ZipFile(KERAS_FILES / "lambda.keras") as archive:
        archive.extractall(tmp_path)
    assert weights_in(tmp_path).name == "model.weights.h5"
    assert CODE in ids(weights_in(tmp_path))


def test_a_process_that_crashes_is_the_files_fault(tmp_path, monkeypatch):
    path = KERAS_FILES / "digits.h5"
    folder = tmp_path / "crashing"
    folder.mkdir()
    (folder / "h5py.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)\n")
    monkeypatch.setattr(sys, "path", [str(folder), *sys.path])
    with pytest.raises(UnsafeFile, match="crashes the reader"):
        hdf5_listing.listed(path)


def test_a_process_that_does_not_end_is_the_files_fault(tmp_path, monkeypatch):
    folder = tmp_path / "waiting"
    folder.mkdir()
    (folder / "h5py.py").write_text("import time\ntime.sleep(60)\n")
    monkeypatch.setattr(sys, "path", [str(folder), *sys.path])
    monkeypatch.setattr(hdf5_listing, "SECONDS_TO_START", 1)
    with pytest.raises(UnsafeFile, match="without an end"):
        hdf5_listing.listed(KERAS_FILES / "digits.h5")


def test_without_the_library(monkeypatch):
    monkeypatch.setattr(hdf5_listing, "is_available", lambda: False)
    facts = file_facts(KERAS_FILES / "digits.keras")
    assert facts.tensors is None
    assert "Conv2D" in facts.metadata["keras.layers"]
    assert "pip install 'sau-cli[keras]'" in facts.unread
    safe = next(check for check in inspect(facts) if check.id == "file.safe-to-open")
    assert safe.status is CheckStatus.SKIPPED
    assert CODE in ids(KERAS_FILES / "lambda.keras")
    facts = file_facts(KERAS_FILES / "digits.h5")
    assert (facts.format, facts.tensors) == ("hdf5", None)
    assert "sau-cli[keras]" in facts.unread
    with pytest.raises(NotEvaluable, match="make ONNX of it"):
        read_checkpoint(KERAS_FILES / "digits.h5")


def test_a_saved_model_and_what_is_beside_it(tmp_path):
    folder = tmp_path / "saved"
    shutil.copytree(KERAS_FILES / "saved_model", folder)
    assert weights_in(folder).name == "saved_model.pb"
    assert models_under(tmp_path).models == (folder / "saved_model.pb",)
    facts = file_facts(folder)
    assert None not in facts.beside.values()
    assert facts.beside.keys() == {
        "fingerprint.pb",
        "variables/variables.index",
        "variables/variables.data-00000-of-00001",
    }
    assert facts.unread
    (folder / "variables" / "variables.index").unlink()
    assert file_facts(folder).beside["variables/variables.index"] is None


def test_operations_that_reach_out_of_a_saved_model(tmp_path):
    content = (KERAS_FILES / "saved_model" / "saved_model.pb").read_bytes()
    node = b"\x12\x12MergeV2Checkpoints"
    assert node in content
    path = tmp_path / "saved_model.pb"
    path.write_bytes(content.replace(node, b"\x12\x09WriteFile\x32\x07abcdefg"))
    assert "WriteFile" in ids(path)["file.graph-operations"]
    with pytest.raises(UnsafeFile):
        read_checkpoint(path)


def test_layers_that_keras_2_described_beside_a_saved_model(tmp_path):
    shutil.copytree(KERAS_FILES / "saved_model", tmp_path / "saved")
    told = json.dumps({"class_name": "Lambda", "config": {"name": "x", "function": ["4wEAAAA=", None, None]}}).encode()

    def message(number, content):
        size = len(content)
        return bytes([number << 3 | 2, size & 0x7F | 0x80, size >> 7]) + content

    (tmp_path / "saved" / "keras_metadata.pb").write_bytes(message(1, message(5, told)))
    assert CODE in ids(tmp_path / "saved")


def test_hdf5_of_somebody_else(tmp_path):
    path = tmp_path / "measured.h5"
    with h5py.File(path, "w") as file:
        file["temperature"] = np.zeros(3)
    assert "did not write" in file_facts(path).notes[0]
    with pytest.raises(NotEvaluable, match="did not write"):
        read_checkpoint(path)
