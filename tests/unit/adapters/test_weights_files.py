import argparse
import pickle
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from sau_adapters.architectures.cifar_networks import CIFAR_NETWORKS
from sau_adapters.classifiers.building import as_classifier
from sau_adapters.classifiers.metadata import KEYS, from_metadata, to_metadata
from sau_adapters.classifiers.saving import save_classifier
from sau_adapters.files import check_writable, claimed, written_whole
from sau_adapters.weights import pytorch
from sau_cli.description import Description, HistoryStep
from sau_cli.errors import NotEvaluable, UnsafeFile, UsageError
from tests.conftest import ROOT
from tests.support.files import hostile_pickle, hostile_zip, one_tensor, safetensors_bytes
from tests.support.models import file_facts, read_checkpoint
from tests.support.toys import describe, names, spec


def described(**changes) -> Description:
    step = HistoryStep(step="attack", settings={"attack": "badnets"}, seed=3, input_sha256=None, tool_version="0")
    known = {
        "architecture": "small_cnn",
        "class_names": names(10),
        "input": spec(),
        "data": "digits",
        "history": (step,),
    }
    return Description(**{**known, **changes})


@pytest.fixture
def classifier():
    torch.manual_seed(0)
    return describe(CIFAR_NETWORKS["small_cnn"](10, 1))


def test_metadata_round_trip():
    assert from_metadata(to_metadata(described())) == described()
    assert from_metadata({"format": "pt"}) is None
    whole = described(
        architecture="transformers:ViTForImageClassification", config={"hidden_size": 8, "depths": [1, 2]}
    )
    assert from_metadata(to_metadata(whole)) == whole
    assert set(to_metadata(whole)) == KEYS


@pytest.mark.parametrize(
    "change",
    [
        {"sau.schema": "99"},
        {"sau.classes": "[]"},
        {"sau.classes": '["a", "a"]'},
        {"sau.classes": "{"},
        {"sau.input": "[1]"},
        {"sau.input": '{"channels": 1, "height": 1e9, "width": 8}'},
        {"sau.input": '{"channels": 1, "height": -8, "width": 8}'},
        {"sau.mean": "[0, 0]"},
        {"sau.std": "[0]"},
        {"sau.std": '["x"]'},
        {"sau.history": '[{"step": "attack"}]'},
        {"sau.history": "[" * 5000},
        {"sau.architecture": "evil.py:Class"},
        {"sau.architecture": "timm:hf-hub:someone/else"},
        {"sau.architecture": "../../etc"},
    ],
)
def test_damaged_metadata_is_refused_in_one_sentence(change):
    with pytest.raises(NotEvaluable):
        from_metadata(to_metadata(described()) | change)


def test_save_and_load_change_no_tensor(tmp_path, classifier):
    path = tmp_path / "model.safetensors"
    save_classifier(path, classifier, described(), force=False)
    plain = load_file(path)
    again = as_classifier(read_checkpoint(path))
    assert again.description == described()
    for name, tensor in classifier.network.state_dict().items():
        assert torch.equal(plain[name], tensor)
        assert plain[name].dtype == tensor.dtype
        assert torch.equal(again.network.state_dict()[name], tensor)
    assert path.stat().st_mode & 0o777 == 0o666 & ~_umask(tmp_path)


def _umask(folder) -> int:
    probe = folder / "probe"
    probe.touch()
    return ~probe.stat().st_mode & 0o777


def test_nothing_is_overwritten_unasked(tmp_path, classifier):
    path = tmp_path / "model.safetensors"
    path.write_text("precious")
    with pytest.raises(UsageError, match="force"):
        save_classifier(path, classifier, described(), force=False)
    assert path.read_text() == "precious"
    save_classifier(path, classifier, described(), force=True)
    assert read_checkpoint(path).description == described()


def test_an_error_while_writing_leaves_nothing(tmp_path):
    path = tmp_path / "out"
    path.write_text("old")
    with pytest.raises(ValueError, match="half-way"), written_whole(path) as temporary:
        temporary.write_text("half")
        raise ValueError("half-way")
    assert [file.name for file in tmp_path.iterdir()] == ["out"]
    assert path.read_text() == "old"


def test_what_is_claimed_is_nobody_elses_and_rid_of_what_killed_runs_left(tmp_path):
    out, others = tmp_path / "m.safetensors", (".m.json.12.3f.json.part", ".m.resume.12.3f.safetensors.part", "m.part")
    (tmp_path / ".m.12.3f.safetensors.part").write_text("half")
    (tmp_path / ".m.34.5a.safetensors.part").mkdir()
    for name in others:
        (tmp_path / name).write_text("of others")
    with claimed(out):
        assert {file.name for file in tmp_path.iterdir() if file.suffix == ".part"} == set(others)
        with pytest.raises(UsageError, match="another run of sau is writing"), claimed(tmp_path / "x", out):
            pass
    with claimed(out), claimed(tmp_path / "missing" / "x"):
        assert not (tmp_path / "missing").exists()


@pytest.mark.parametrize("place", ["missing/x.safetensors", "/proc/x.safetensors", "."])
def test_a_place_that_cannot_be_written_is_told_before_the_work(tmp_path, place):
    with pytest.raises(UsageError):
        check_writable(tmp_path / place, force=False)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda s: s,
        lambda s: {"state_dict": s, "epoch": 3},
        lambda s: {"model": s},
        lambda s: {"state_dict": {f"module.{k}": v for k, v in s.items()}},
        lambda s: {"netC": {f"_orig_mod.backbone.{k}": v for k, v in s.items()}, "epoch_current": 3},
        lambda s: {"model": {"state_dict": s}, "optimizer": {"state": {}}},
        lambda s: {"state_dict_ema": s, "arch": "mine"},
        lambda s: {k: v for k, v in s.items() if not k.endswith("num_batches_tracked")},
    ],
)
@pytest.mark.parametrize("zipped", [True, False])
def test_pytorch_weights_are_found_in_their_wrappers(tmp_path, classifier, wrap, zipped):
    state = classifier.network.state_dict()
    path = tmp_path / "model.bin"
    torch.save(wrap(dict(state)), path, _use_new_zipfile_serialization=zipped)
    assert file_facts(path).format == "pytorch"
    assert file_facts(path).safe
    loaded = as_classifier(
        read_checkpoint(path), architecture="small_cnn", normalisation=((0.0,), (1.0,)), image_shape=(1, 8, 8)
    )
    assert loaded.description.classes == 10
    assert all(torch.equal(loaded.network.state_dict()[name], state[name]) for name in state)


@pytest.mark.parametrize("protocol", range(6))
def test_code_in_a_pickle_is_listed_and_not_run(tmp_path, protocol):
    path = hostile_pickle(tmp_path, protocol)
    facts = file_facts(path)
    assert not facts.safe
    assert "open" in facts.findings[0].sentence
    with pytest.raises(UnsafeFile):
        read_checkpoint(path)
    assert not (tmp_path / "was-run").exists()


def test_code_in_an_archive_of_torch_is_listed_and_not_run(tmp_path):
    path = hostile_zip(tmp_path)
    assert not file_facts(path).safe
    with pytest.raises(UnsafeFile, match="open"):
        read_checkpoint(path)
    assert not (tmp_path / "was-run").exists()


@pytest.mark.parametrize("zipped", [True, False])
def test_weights_among_what_training_code_keeps_beside_them(tmp_path, classifier, zipped):
    """As BackdoorBench's attack_result.pt and timm's training checkpoints do."""
    state = classifier.network.state_dict()
    beside = {
        "model_name": "preactresnet18",
        "num_classes": 10,
        "img_size": [32, 32, 3],
        "best": np.float64(0.9),
        "args": argparse.Namespace(lr=0.1, betas=(0.9, 0.99)),
        "seen": Counter([1, 1, 2]),
        "bd_train": {
            "original_index_array": np.arange(5),
            "poison_indicator": np.array([True, False]),
            "paths": np.array(["a.png", "b.png"]),
            "other": np.array([("a", 1), None], dtype=object),
            "when": np.array(["2020-01-01"], dtype="datetime64[D]"),
        },
    }
    path = tmp_path / "attack_result.pt"
    torch.save(beside | {"model": state}, path, _use_new_zipfile_serialization=zipped)
    assert file_facts(path).safe
    read = read_checkpoint(path).state
    assert read.keys() == state.keys()
    assert all(torch.equal(read[name], state[name]) for name in state)


@pytest.mark.parametrize("hostile", ["a huge array", "bytes as addresses of objects"])
def test_nothing_is_made_of_what_is_beside_the_weights(tmp_path, monkeypatch, hostile):
    """The second clears a dtype's flags, so that numpy would take the file's bytes for addresses of objects."""
    reconstruct = np.ndarray([0]).__reduce__()[0]

    class Dtype:
        def __reduce__(self):
            return np.dtype, ("O8", False, True), (3, "|", None, None, None, -1, -1, 0)

    class Array:
        def __reduce__(self):
            if hostile == "a huge array":
                return reconstruct, (np.ndarray, (10**15,), b"d")
            return reconstruct, (np.ndarray, (0,), b"b"), (1, (4,), Dtype(), False, b"A" * 32)

    path = tmp_path / "hostile.pt"
    torch.save({"model": {"w": torch.ones(1)}, "beside": Array()}, path)
    seen = {}
    out_of_wrapper = pytorch._state_dict
    monkeypatch.setattr(
        pytorch, "_state_dict", lambda content, where: seen.update(content) or out_of_wrapper(content, where)
    )
    assert list(read_checkpoint(path).state) == ["w"]
    assert type(seen["beside"]) is pytorch._LeftOut
    assert not vars(seen["beside"])


def test_a_whole_module_is_refused(tmp_path, classifier):
    path = tmp_path / "whole.pt"
    torch.save(classifier.network, path)
    with pytest.raises(UnsafeFile, match="SmallCNN"):
        read_checkpoint(path)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_torchscript_is_refused(tmp_path):
    path = tmp_path / "script.pt"
    torch.jit.save(torch.jit.trace(torch.nn.Linear(2, 2), torch.zeros(1, 2)), path)
    with pytest.raises(UnsafeFile, match="TorchScript"):
        read_checkpoint(path)


def test_a_global_hidden_behind_the_memo_is_still_named():
    hidden = b"\x80\x04\x8c\x02os\x94\x8c\x06system\x940h\x00h\x01\x93."
    import io

    assert list(pytorch._globals_of(io.BytesIO(hidden), Path("x"))) == ["os.system"]


LYING = {
    "a header beyond the file": safetensors_bytes(b"{}")[:8] and (10**6).to_bytes(8, "little") + b"{}",
    "an enormous header": (10**15).to_bytes(8, "little") + b"{}",
    "overlapping tensors": safetensors_bytes(
        {**one_tensor(), "v": {"dtype": "F32", "shape": [4], "data_offsets": [8, 24]}}, b"\0" * 24
    ),
    "negative offsets": safetensors_bytes({"w": {"dtype": "F32", "shape": [4], "data_offsets": [-16, 0]}}, b"\0" * 16),
    "an unknown dtype": safetensors_bytes({"w": {"dtype": "F99", "shape": [4], "data_offsets": [0, 16]}}, b"\0" * 16),
    "bytes that no tensor owns": safetensors_bytes(one_tensor(), b"\0" * 32),
    "no JSON": safetensors_bytes(b"{nonsense"),
    "JSON without end": safetensors_bytes(b"{" + b'"a":[' * 5000),
}


@pytest.mark.parametrize("content", LYING.values(), ids=LYING.keys())
def test_lying_headers_are_refused_as_unsafe(tmp_path, content):
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    assert not file_facts(path).safe
    with pytest.raises(UnsafeFile):
        read_checkpoint(path)


UNKNOWN = {
    "text": b"hello world, this is a text file\n",
    "empty": b"",
    "one byte": b"\x08",
    "a picture": b"\x89PNG\r\n\x1a\n" + b"\0" * 100,
    "tensors cut short": safetensors_bytes(one_tensor(), b"\0" * 8),
    "a cut archive": b"PK\x03\x04\x00\x00\x08\x08archive/data.pkl" + b"\0" * 50,
    "a cut pickle": pickle.dumps({"a": [1.5] * 100})[:60],
    "a pickle of no weights": pickle.dumps({"a": 1}),
    "another zip": b"PK\x03\x04" + b"\0" * 60,
}


@pytest.mark.parametrize("content", UNKNOWN.values(), ids=UNKNOWN.keys())
def test_what_is_no_model_could_not_be_evaluated(tmp_path, content):
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(NotEvaluable):
        read_checkpoint(path)


def test_truncated_torch_files_are_never_a_traceback(tmp_path, classifier):
    whole = tmp_path / "model.pt"
    torch.save(classifier.network.state_dict(), whole)
    content = whole.read_bytes()
    for length in range(0, len(content), max(1, len(content) // 40)):
        path = tmp_path / "cut.pt"
        path.write_bytes(content[:length])
        with pytest.raises((NotEvaluable, UnsafeFile)):
            read_checkpoint(path)


def test_a_file_without_metadata_names_the_flag_that_is_missing(tmp_path, classifier):
    path = tmp_path / "bare.safetensors"
    save_file(classifier.network.state_dict(), path)
    checkpoint = read_checkpoint(path)
    with pytest.raises(NotEvaluable, match="add normalisation"):
        as_classifier(checkpoint)
    with pytest.raises(NotEvaluable, match="image_size"):
        as_classifier(checkpoint, architecture="small_cnn", normalisation=((0.0,), (1.0,)))
    with pytest.raises(NotEvaluable, match="do not fit wrn_16_1: 69 tensors are missing"):
        as_classifier(checkpoint, architecture="wrn_16_1", normalisation=((0.0,), (1.0,)), image_shape=(1, 8, 8))
    with pytest.raises(UsageError, match="did you mean small_cnn"):
        as_classifier(checkpoint, architecture="smal_cnn", normalisation=((0.0,), (1.0,)), image_shape=(1, 8, 8))


@pytest.mark.long
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak of memory is read from /proc")
def test_describing_five_gigabytes_takes_little_memory(tmp_path):
    each = 10**9
    header = {
        f"layer{number}.weight": {
            "dtype": "F32",
            "shape": [each // 4],
            "data_offsets": [number * each, (number + 1) * each],
        }
        for number in range(5)
    }
    path = tmp_path / "large.safetensors"
    path.write_bytes(safetensors_bytes(header))
    with path.open("rb+") as file:
        file.truncate(path.stat().st_size + 5 * each)  # a hole, which takes no space on the disk
    script = (
        "import sys; from pathlib import Path; from types import SimpleNamespace as Fake; "
        "from sau_adapters.weights import content; "
        "from sau_adapters.models import locate, open_model; "
        "content.hashlib = Fake(sha256=lambda: Fake(update=len, hexdigest=str)); "  # hashing takes half a minute
        f"facts = open_model(locate(Path({str(path)!r}))).facts; "
        "peak = next(int(l.split()[1]) for l in open('/proc/self/status') if l.startswith('VmHWM')); "
        "sys.exit(facts.parameters != 5 * 10**9 // 4 or peak > 200_000)"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, env={"PYTHONPATH": ".:adapters"}, check=False)
    assert done.returncode == 0


def test_describing_safetensors_needs_no_torch(tmp_path, classifier):
    path = tmp_path / "model.safetensors"
    save_classifier(path, classifier, described(), force=False)
    script = (
        "import sys; from pathlib import Path; from sau_adapters.models import locate, open_model; "
        f"open_model(locate(Path({str(path)!r}))).facts; sys.exit('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, env={"PYTHONPATH": ".:adapters"}, check=False)
    assert done.returncode == 0
