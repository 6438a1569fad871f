"""Archives of torch's with tricks in them, without checksums, and with plain things beside the weights."""

from __future__ import annotations

import collections
import datetime as dt
import io
import pathlib
import pickle
import tarfile
import uuid
import zipfile
from pathlib import Path

import pytest
import torch
from torch.utils.serialization import config

from sau_cli.errors import NotEvaluable, UnsafeFile
from tests.support.models import file_facts, read_checkpoint

STATE = {"fc.weight": torch.eye(3), "fc.bias": torch.zeros(3)}


class Code:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return print, ("this code was run",)


def history() -> collections.defaultdict[str, list[float]]:
    kept: collections.defaultdict[str, list[float]] = collections.defaultdict(list)
    kept["loss"] += [1.0, 0.5]
    return kept


BESIDE = {
    "a set": {1, 2},
    "a frozenset": frozenset({3}),
    "a defaultdict": history(),
    "a deque": collections.deque([1.0, 2.0], maxlen=5),
    "a path": pathlib.Path("runs/x"),
    "a date": dt.datetime(2026, 1, 1, tzinfo=dt.UTC),
    "a span": dt.timedelta(seconds=3),
    "torch's version": torch.__version__,
    "bytes": bytearray(b"x"),
    "a counter": collections.Counter([1, 1]),
    "a complex number": 1j,
    "a size": torch.Size([3]),
    "an id": uuid.UUID(int=1),
}


@pytest.mark.parametrize("name", BESIDE)
@pytest.mark.parametrize("wrapped", [True, False])
def test_plain_things_beside_the_weights_are_no_code(tmp_path, name, wrapped):
    extra = {"extra": BESIDE[name], "epoch": 3}
    torch.save({"state_dict": STATE} | extra if wrapped else {"model_state": STATE} | extra, tmp_path / "m.pth")
    assert file_facts(tmp_path / "m.pth").findings == ()
    assert read_checkpoint(tmp_path / "m.pth").shapes == {"fc.weight": (3, 3), "fc.bias": (3,)}


@pytest.mark.parametrize("key", ["weight", "model_state", "net_state_dict", "best_model", "classifier", "ema_net"])
def test_the_weights_under_any_key(tmp_path, key):
    optimizer = {"state": {0: {"step": torch.tensor(1.0)}}, "param_groups": [{"lr": 0.1}]}
    torch.save({"epoch": 3, key: STATE, "optimizer": optimizer, "val_loss": 0.1}, tmp_path / "m.pth")
    checkpoint = read_checkpoint(tmp_path / "m.pth")
    assert set(checkpoint.state) == set(STATE)
    assert checkpoint.notes == (f"the weights were found under {key!r}",)


def test_weights_inside_of_what_is_inside(tmp_path):
    torch.save({"checkpoint": {"best": {"network": STATE}}, "epoch": 1}, tmp_path / "m.pth")
    assert set(read_checkpoint(tmp_path / "m.pth").state) == set(STATE)


def test_of_two_sets_of_weights_both_are_named(tmp_path):
    torch.save({"teacher_weights": STATE, "pupil_weights": {"fc.bias": torch.zeros(3)}}, tmp_path / "m.pth")
    (note,) = read_checkpoint(tmp_path / "m.pth").notes
    assert note == "the weights under 'teacher_weights' were taken; there are others under pupil_weights"


def archive(path: Path, content: object) -> bytearray:
    torch.save(content, path)
    return bytearray(path.read_bytes())


def encrypted(data: bytearray) -> bytearray:
    at = data.find(b"PK\x01\x02")
    while at >= 0:
        data[at + 8] |= 1
        at = data.find(b"PK\x01\x02", at + 4)
    return data


def renamed(data: bytearray) -> bytearray:
    at = data.find(b"data.pkl")
    data[at : at + 8] = b"datb.pkl"
    return data


def miscounted(data: bytearray) -> bytearray:
    data[data.find(b"PK\x01\x02") + 16] ^= 0xFF
    return data


TRICKS = [encrypted, renamed, miscounted]


@pytest.mark.parametrize("trick", TRICKS)
def test_what_torch_would_read_is_what_is_judged(tmp_path, trick):
    path = tmp_path / "bad.pt"
    path.write_bytes(trick(archive(path, {"x": torch.ones(2), "bad": Code()})))
    (finding,) = file_facts(path).findings
    assert "print" in finding.sentence
    assert finding.id == "file.pickle-code"
    with pytest.raises(UnsafeFile):
        read_checkpoint(path)


@pytest.mark.parametrize("trick", [encrypted, renamed])
def test_an_archive_that_readers_take_differently(tmp_path, trick):
    path = tmp_path / "odd.pt"
    path.write_bytes(trick(archive(path, STATE)))
    (finding,) = file_facts(path).findings
    assert finding.id == "file.archive"


def test_a_checksum_that_is_wrong_is_damage(tmp_path):
    path = tmp_path / "odd.pt"
    path.write_bytes(miscounted(archive(path, STATE)))
    with pytest.raises(NotEvaluable, match="checksum"):
        file_facts(path)


def test_an_archive_without_checksums_opens_and_says_so(tmp_path):
    before = config.save.compute_crc32
    config.save.compute_crc32 = False
    try:
        torch.save(STATE, tmp_path / "m.pt")
    finally:
        config.save.compute_crc32 = before
    checkpoint = read_checkpoint(tmp_path / "m.pt")
    assert set(checkpoint.state) == set(STATE)
    assert checkpoint.notes == ("the archive keeps no checksums, so damage to it cannot be told",)


def test_code_is_found_behind_what_is_plain(tmp_path):
    torch.save({"state_dict": STATE, "log": history(), "hook": Code()}, tmp_path / "m.pth")
    (finding,) = file_facts(tmp_path / "m.pth").findings
    assert "print" in finding.sentence


def test_a_class_by_its_name_alone_is_code(tmp_path):
    """The plain things are named one by one: what else builtins has is not among them."""
    (tmp_path / "m.pkl").write_bytes(pickle.dumps({"state_dict": {}, "x": getattr}, protocol=2))
    (finding,) = file_facts(tmp_path / "m.pkl").findings
    assert "getattr" in finding.sentence


def recased(path: Path, *names: str, content: object) -> Path:
    """An archive of torch's with its pickle under these names, one after another."""
    torch.save(content, path)
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    (pickled,) = (name for name in members if name.endswith("data.pkl"))
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            archive.writestr(pickled.replace("data.pkl", name), members[pickled])
        for name, data in members.items():
            if name != pickled:
                archive.writestr(name, data)
    return path


@pytest.mark.parametrize("name", ["DATA.PKL", "Data.Pkl"])
def test_letter_case_hides_no_code(tmp_path, name):
    """torch looks for a member in any letter case."""
    path = recased(tmp_path / "m.pt", name, content={"x": Code()})
    (finding,) = file_facts(path).findings
    assert "print" in finding.sentence


@pytest.mark.parametrize("names", [("DATA.PKL", "data.pkl"), ("data.pkl", "DATA.PKL")])
def test_two_members_that_torch_takes_for_one(tmp_path, names):
    (finding,) = file_facts(recased(tmp_path / "m.pt", *names, content=STATE)).findings
    assert finding.id == "file.archive"


def oldest(path: Path, storages: bytes) -> Path:
    """The tar archive that torch wrote first."""
    members = {"sys_info": pickle.dumps({}, 2), "pickle": b"", "tensors": b"", "storages": storages}
    with tarfile.open(path, "w") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def test_code_in_the_oldest_format_is_found(tmp_path):
    (finding,) = file_facts(oldest(tmp_path / "m.tar", pickle.dumps(Code(), 2))).findings
    assert "print" in finding.sentence


def test_the_oldest_format_is_named(tmp_path):
    with pytest.raises(NotEvaluable, match="save it anew"):
        file_facts(oldest(tmp_path / "m.tar", pickle.dumps(0, 2)))
