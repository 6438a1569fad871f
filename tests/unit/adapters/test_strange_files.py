"""Files as they come: wrapped, with things beside the weights, larger than they look, or a lie."""

from __future__ import annotations

import json
import pickle
import struct
import warnings
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from sau_adapters.architectures.cifar_networks import CIFAR_NETWORKS
from sau_adapters.classifiers.building import as_classifier
from sau_adapters.models import locate
from sau_adapters.weights import pytorch
from sau_adapters.zoos.folders import weights_in
from sau_cli.errors import NotEvaluable, UnsafeFile, UsageError
from tests.support.files import TouchesAFile, safetensors_bytes
from tests.support.models import file_facts, read_checkpoint

STATE = CIFAR_NETWORKS["small_cnn"](10, 3).state_dict()
PLAIN = {"normalisation": ((0.0,), (1.0,)), "image_shape": (3, 32, 32)}
CONFIG = {
    "architecture": "resnet18",
    "num_classes": 10,
    "pretrained_cfg": {"input_size": [3, 32, 32], "mean": [0.5, 0.5, 0.5], "std": [0.2, 0.2, 0.2]},
}


def saved(tmp_path: Path, content: object) -> Path:
    torch.save(content, tmp_path / "m.pth")
    return tmp_path / "m.pth"


def folder(tmp_path: Path, **changes: object) -> Path:
    import timm

    save_file(timm.create_model("resnet18", num_classes=10).state_dict(), tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(CONFIG | changes))
    return tmp_path


def raw_zip(tmp_path: Path, pickled: bytes) -> Path:
    """An archive as torch writes one, with this pickle in it."""
    path = tmp_path / "raw.pth"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("m/data.pkl", pickled)
        archive.writestr("m/version", "3\n")
    return path


@pytest.mark.parametrize("name", ["state_dict", "model", "netC", "module", "params_ema", "ema_state_dict", "student"])
def test_wrappers(tmp_path, name):
    path = saved(tmp_path, {name: STATE, "epoch": 3, "optimizer": {"state": {}}})
    assert read_checkpoint(path).state.keys() == STATE.keys()


def test_of_two_sets_of_weights_the_one_taken_is_told(tmp_path):
    path = saved(tmp_path, {"state_dict": STATE, "state_dict_ema": STATE, "epoch": 3})
    (note,) = file_facts(path).notes
    assert "'state_dict' were taken; there are others under state_dict_ema" in note
    assert read_checkpoint(path).notes == (note,)


TWICE = {f"model.{name}": tensor for name, tensor in STATE.items()} | {
    f"ema_model.module.{name}": tensor + 1 if tensor.is_floating_point() else tensor for name, tensor in STATE.items()
}


def test_of_two_networks_in_one_file_one_is_asked_for(tmp_path):
    path = saved(tmp_path, {"state_dict": TWICE | {"ema_model.n_averaged": torch.tensor(3)}, "epoch": 3})
    asked = f"{path}#model or {path}#ema_model"
    for architecture in (None, "small_cnn"):
        with pytest.raises(NotEvaluable, match="holds 2 networks, under model, ema_model") as refused:
            as_classifier(read_checkpoint(path), architecture=architecture, **PLAIN)
        assert str(refused.value).endswith(asked)
        assert "(ema_model: an average of weights, by its name)" in str(refused.value)
    assert file_facts(path).notes[-1].endswith(asked)
    for part, more in (("model", 0), ("ema_model", 1)):
        located = locate(Path(f"{path}#{part}"))
        assert (located.path, located.part) == (path, part)
        facts = file_facts(Path(f"{path}#{part}"))
        assert facts.sha256 == file_facts(path).sha256
        assert facts.recognition.fitting[0].name == "small_cnn"
        classifier = as_classifier(read_checkpoint(Path(f"{path}#{part}")), **PLAIN)
        assert torch.equal(classifier.network.state_dict()["linear.bias"], STATE["linear.bias"] + more)
    with pytest.raises(UsageError, match="no tensors under 'teacher'; give one of model, ema_model"):
        read_checkpoint(Path(f"{path}#teacher"))


def test_a_file_whose_name_has_a_hash_is_itself(tmp_path):
    path = saved(tmp_path, STATE).rename(tmp_path / "m.pth#model")
    assert locate(path).path == path
    assert read_checkpoint(path).state.keys() == STATE.keys()


def test_plain_values_beside_the_weights_are_left_out_and_told(tmp_path):
    checkpoint = read_checkpoint(saved(tmp_path, STATE | {"epoch": 3, "name": "x"}))
    assert checkpoint.state.keys() == STATE.keys()
    assert checkpoint.notes == ("left out, as no tensors: epoch, name",)


def test_a_wrapper_in_itself_ends(tmp_path):
    content: dict[str, object] = {}
    content["model"] = content
    with pytest.raises(NotEvaluable, match="no tensor"):
        read_checkpoint(saved(tmp_path, content))


@pytest.mark.parametrize(
    "made",
    [
        lambda: torch.zeros(1).expand(5_000_000, 256),
        lambda: torch.zeros(2, 2).to_sparse(),
        lambda: torch.quantize_per_tensor(torch.zeros(2, 2), 0.1, 0, torch.qint8),
        lambda: torch.zeros(2, device="meta"),
    ],
    ids=["repeated", "sparse", "quantised", "hollow"],
)
@pytest.mark.filterwarnings("ignore")
def test_tensors_without_ordinary_values(tmp_path, made):
    path = saved(tmp_path, {**STATE, "linear.weight": made()})
    with pytest.raises(NotEvaluable, match="ordinary values"):
        read_checkpoint(path)


@pytest.mark.parametrize("kind", [torch.complex64, torch.int8])
def test_numbers_of_another_kind_are_not_cast(tmp_path, kind):
    path = saved(tmp_path, {**STATE, "conv.0.weight": STATE["conv.0.weight"].to(kind)})
    with pytest.raises(NotEvaluable, match="real numbers"):
        as_classifier(read_checkpoint(path), **PLAIN)


def test_names_that_become_one_are_refused(tmp_path):
    with pytest.raises(NotEvaluable, match="alike"):
        read_checkpoint(saved(tmp_path, {1: torch.zeros(1), "1": torch.ones(1)}))


def test_a_pickle_of_millions_of_instructions_is_refused_before_it_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(pytorch, "MOST_OPCODES", 1000)
    path = raw_zip(tmp_path, b"\x80\x04" + b"N\x94" * 1000 + b".")
    with pytest.raises(NotEvaluable, match="1,000 instructions"):
        file_facts(path)


def test_a_length_that_lies_is_damage_and_not_a_lack_of_memory(tmp_path):
    path = tmp_path / "lie.pth"
    path.write_bytes(b"\x80\x04\x8d" + struct.pack("<Q", 2**50) + b"abc")
    for read in (file_facts, read_checkpoint):
        with pytest.raises(NotEvaluable, match="damaged"):
            read(path)


def test_a_memorised_name_is_still_seen(tmp_path):
    """A global whose module was pushed and memorised long before it is asked for."""
    body = b"\x80\x04\x8c\x02os\x94N\x94h\x00\x8c\x06system\x93."
    path = raw_zip(tmp_path, body)
    (finding,) = file_facts(path).findings
    assert "os.system" in finding.sentence
    with pytest.raises(UnsafeFile):
        read_checkpoint(path)


@pytest.mark.parametrize(
    "changes",
    [
        {"num_classes": 10**9},
        {"num_classes": float("inf")},
        {"num_classes": -1},
        {"pretrained_cfg": CONFIG["pretrained_cfg"] | {"input_size": [3, 10**9, 10**9]}},
        {"model_args": {"global pool": "max"}},
        {"model_args": {f"setting_{number}": number for number in range(50)}},
        {"label_names": ["a", "b"]},
        {"label_names": {"0": "a", "99": "b"}},
    ],
)
def test_a_config_that_cannot_be_followed_is_told(tmp_path, changes):
    with pytest.raises(NotEvaluable, match=r"config.json .*(impossible|infinity|made with|names)"):
        read_checkpoint(folder(tmp_path, **changes))


def test_a_config_with_arguments_that_say_the_same_again(tmp_path):
    loaded = as_classifier(read_checkpoint(folder(tmp_path, model_args={"num_classes": 10, "in_chans": 3})))
    assert loaded.description.architecture == "timm:resnet18"


def test_a_folder_with_one_file_of_weights(tmp_path):
    saved(tmp_path, STATE)
    assert weights_in(tmp_path) == tmp_path / "m.pth"
    torch.save(STATE, tmp_path / "n.pt")
    with pytest.raises(UsageError, match="several"):
        weights_in(tmp_path)


def test_names_too_long_for_any_file(tmp_path):
    with pytest.raises(UsageError):
        read_checkpoint(Path("a" * 5000))
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"x": "b" * 5000}}))
    with pytest.raises(NotEvaluable, match="missing beside it"):
        read_checkpoint(index)


def test_a_header_longer_than_any_model_needs_is_not_read(tmp_path):
    path = tmp_path / "long.safetensors"
    header = b'{"a":' + b"[]," * 2_000_000 + b"0}"
    path.write_bytes(struct.pack("<Q", len(header)) + header)
    with pytest.raises(UnsafeFile, match="no model needs more"):
        read_checkpoint(path)


def test_a_tensor_of_a_hundred_dimensions_is_refused(tmp_path):
    path = tmp_path / "deep.safetensors"
    header = json.dumps({"a": {"dtype": "F32", "shape": [1] * 100, "data_offsets": [0, 4]}}).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(4))
    with pytest.raises(UnsafeFile, match="100 dimensions"):
        read_checkpoint(path)


def finding_of(path: Path) -> str:
    (finding,) = file_facts(path).findings
    return finding.id


def saved_members(path: Path) -> dict[str, bytes]:
    torch.save({"w": torch.ones(3)}, path)
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def test_an_archive_with_a_member_twice_or_outside_of_itself(tmp_path):
    members = saved_members(tmp_path / "m.pt")
    with warnings.catch_warnings(action="ignore"), zipfile.ZipFile(tmp_path / "m.pt", "a") as archive:
        archive.writestr(next(name for name in members if name.endswith("data.pkl")), b"\x80\x02}.")
    assert finding_of(tmp_path / "m.pt") == "file.archive"
    for name in ("../evil", "/etc/evil", "C:\\evil", "a\\..\\..\\evil"):
        saved_members(tmp_path / "m.pt")
        with zipfile.ZipFile(tmp_path / "m.pt", "a") as archive:
            archive.writestr(name, b"")
        assert finding_of(tmp_path / "m.pt") == "file.path-escape", name


@pytest.mark.parametrize("harmful", [False, True])
def test_a_pickle_in_front_of_an_archive(tmp_path, harmful):
    """torch reads the pickle, and a list of the archive's members would not show what that one asks for."""
    saved_members(tmp_path / "m.pt")
    front = pickle.dumps(TouchesAFile(tmp_path / "was-run") if harmful else {}, protocol=2)
    (tmp_path / "m.pt").write_bytes(front + (tmp_path / "m.pt").read_bytes())
    assert finding_of(tmp_path / "m.pt") == ("file.pickle-code" if harmful else "file.archive")
    assert not (tmp_path / "was-run").exists()


def test_packed_archives_are_read_too(tmp_path):
    members = saved_members(tmp_path / "m.pt")
    with zipfile.ZipFile(tmp_path / "m.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    facts = file_facts(tmp_path / "m.pt")
    assert (facts.safe, facts.non_finite) == (True, ())


def test_a_size_that_no_machine_has(tmp_path):
    path = tmp_path / "m.safetensors"
    path.write_bytes(safetensors_bytes({"w": {"dtype": "F32", "shape": [0, 2**63], "data_offsets": [0, 0]}}))
    assert file_facts(path).findings


SYSTEM = b"cposix\nsystem\n(S'true'\ntR"
HIDDEN = {
    # The same place twice: Python's MEMOIZE counts places, not writes.
    "memo": b"\x80\x04\x8c\x01xq\x00q\x00\x8c\x05posix\x94\x8c\x06system\x94\x8c\x0bOrderedDict\x94h\x01h\x02\x93.",
    # The magic number of torch's old files as text: five pickles follow.
    "magic": b"L%dL\n." % 0x1950A86A20F9469CFC6C + b"N." + SYSTEM + b".",
    "cut": SYSTEM + b"0",
}


@pytest.mark.parametrize("name", HIDDEN)
def test_calls_that_a_reader_would_run_are_listed(tmp_path, name):
    path = tmp_path / "hidden.pkl"
    path.write_bytes(HIDDEN[name])
    (finding,) = file_facts(path).findings
    assert "posix.system" in finding.sentence


def test_text_is_no_pickle(tmp_path):
    for text in ("class Net:\n    pass\n", "import os\nimport sys\n", "(i\nb\n", "a text\n"):
        path = tmp_path / "notes.txt"
        path.write_text(text)
        with pytest.raises(NotEvaluable):
            file_facts(path)


def test_a_call_is_not_hidden_by_a_config_that_says_nothing(tmp_path):
    (tmp_path / "pytorch_model.bin").write_bytes(SYSTEM + b".")
    (tmp_path / "config.json").write_text('{"architecture": "resnet18"}')
    assert "posix.system" in file_facts(tmp_path).findings[0].sentence
