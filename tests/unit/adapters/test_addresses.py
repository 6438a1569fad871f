"""Models by an address: their heads before their weights, once and whole, and each refusal in a sentence."""

from __future__ import annotations

import json
import os
import socket
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest
import torch
from safetensors.torch import save_file

from sau_adapters.models import locate, open_model
from sau_adapters.zoos import addresses, fetched
from sau_adapters.zoos.addresses import address_of, asked, is_address, name_of
from sau_adapters.zoos.remote_content import REMOTE_BLOCK
from sau_adapters.zoos.search import models_at
from sau_cli.errors import NotEvaluable, UnsafeFile, UsageError
from tests.support.http_server import Served, serving

pytest.importorskip("aiohttp", reason="aiohttp is not installed")
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")
LARGE = 500_000


@pytest.fixture
def served(tmp_path, monkeypatch) -> Iterator[Served]:
    """A server of the folder ``served``, and a cache beside it."""
    monkeypatch.setenv("SAU_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.delenv("SAU_MODELS_LIMIT", raising=False)
    folder = tmp_path / "served"
    folder.mkdir()
    with serving(folder) as server:
        yield server


def saved(path: Path, value: float = 0.0, numbers: int = LARGE) -> Path:
    save_file({"weight": torch.full((numbers,), value)}, path)
    return path


def spec(served: Served, name: str) -> Path:
    return Path(f"{served.address}/{name}")


def entries(tmp_path: Path) -> list[Path]:
    return [file for file in (tmp_path / "cache" / "models").iterdir() if file.name != "locks"]


def code_in(path: Path, *, weights: int) -> Path:
    """A PyTorch archive whose pickle asks for code, with weights behind it."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/data.pkl", b"cos\nsystem\n(S'true'\ntR.")
        archive.writestr("a/data/0", os.urandom(weights))
    return path


def test_a_path_is_an_address_again():
    for address in ("s3://bucket/a/b.pth", "gs://b/x", "https://host:8000/x.pth?sig=1", "http://host/a b.pth"):
        assert is_address(Path(address))
        assert address_of(Path(address)) == address
    assert not any(
        map(is_address, map(Path, ("s3", "model.pth", "hf-hub:org/name", "timm:x", "C:/x.pth", "ftp://x/y")))
    )
    assert name_of(Path("https://host/x.pth?sig=secret")) == "https://host/x.pth"


def test_a_model_is_fetched_once_whole_and_by_its_head_first(served, tmp_path):
    file = saved(served.folder / "m.safetensors")
    located = locate(spec(served, "m.safetensors"))
    assert located.path.read_bytes() == file.read_bytes()
    assert located.source == f"{served.address}/m.safetensors"
    assert "was fetched, 2.0 MB in 1 file: safetensors with 1 tensors" in located.told
    assert served.sent("/m.safetensors") == REMOTE_BLOCK + file.stat().st_size
    assert open_model(located).facts.parameters == LARGE
    served.asked.clear()
    again = locate(spec(served, "m.safetensors"))
    assert "in the cache already" in again.told
    assert again.path == located.path
    assert served.sent("/m.safetensors") == 0


def test_what_must_not_be_opened_is_told_by_its_head(served, tmp_path):
    code_in(served.folder / "evil.pth", weights=3_000_000)
    with pytest.raises(
        UnsafeFile, match=r"http://.*/evil\.pth is refused: .*(os|posix)\.system.*nothing of its weights"
    ):
        locate(spec(served, "evil.pth"))
    assert served.sent("/evil.pth") < 10 * REMOTE_BLOCK
    file = saved(served.folder / "cut.safetensors")
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(NotEvaluable, match=r"http://.*/cut\.safetensors is cut short"):
        locate(spec(served, "cut.safetensors"))
    assert served.sent("/cut.safetensors") == REMOTE_BLOCK
    (served.folder / "lies.safetensors").write_bytes((1 << 40).to_bytes(8, "little") + b"{" + bytes(2_000_000))
    with pytest.raises(UnsafeFile, match="announces a header"):
        locate(spec(served, "lies.safetensors"))
    (served.folder / "film.pth").write_bytes(Random(0).randbytes(2_000_000))
    with pytest.raises(NotEvaluable, match="of no known model format"):
        locate(spec(served, "film.pth"))
    assert served.sent("/film.pth") < 10 * REMOTE_BLOCK
    assert entries(tmp_path) == []


def test_an_ordinary_archive_of_torch_is_fetched_although_its_head_is_long(served):
    state = {f"layer.{number}": torch.randn(20_000) for number in range(60)}
    torch.save(state, served.folder / "m.pth")
    located = locate(spec(served, "m.pth"))
    assert open_model(located).facts.parameters == 60 * 20_000
    assert served.sent("/m.pth") < 1.5 * (served.folder / "m.pth").stat().st_size


def test_one_of_several_networks_in_a_file(served):
    torch.save(
        {"ema": {"w": torch.zeros(3)}, "raw": {"w": torch.zeros(3), "v": torch.zeros(4)}}, served.folder / "m.pth"
    )
    model = spec(served, "m.pth#ema")
    assert models_at([model]).models == (model,)
    assert locate(model).part == "ema"


def test_a_server_without_parts_of_files_is_read_all_the_same(served):
    served.ranges = False
    saved(served.folder / "m.safetensors")
    assert open_model(locate(spec(served, "m.safetensors"))).facts.parameters == LARGE


def test_without_a_version_nothing_in_the_cache_is_believed(served):
    served.versions = False
    saved(served.folder / "m.safetensors")
    locate(spec(served, "m.safetensors"))
    saved(served.folder / "m.safetensors", 1.0)
    assert open_model(locate(spec(served, "m.safetensors"))).state["weight"][0] == 1.0


def test_what_is_beside_the_weights_comes_along(served):
    saved(served.folder / "m.safetensors")
    (served.folder / "config.json").write_text("{}")
    located = locate(spec(served, "m.safetensors"))
    assert located.path.with_name("config.json").read_text() == "{}"
    (served.folder / "config.json").write_text('{"a": 1}')
    assert locate(spec(served, "m.safetensors")).path.with_name("config.json").read_text() == '{"a": 1}'
    (served.folder / "config.json").unlink()
    assert not locate(spec(served, "m.safetensors")).path.with_name("config.json").exists()


def test_shards_come_along_and_one_model_is_found(served):
    placed = {}
    for number in range(2):
        save_file({f"w{number}": torch.zeros(10)}, served.folder / f"m-{number}.safetensors")
        placed[f"w{number}"] = f"m-{number}.safetensors"
    index = {"weight_map": placed | {"x": "../escape.safetensors"}}
    (served.folder / "m.safetensors.index.json").write_text(json.dumps({"weight_map": placed}))
    (served.folder / "strange").write_text("?")
    found = models_at([Path(served.address)])
    assert [model.name for model in found.models] == ["m.safetensors.index.json"]
    assert {left.path.name: left.open_question for left in found.passed_by} == {
        "m-0.safetensors": False,
        "m-1.safetensors": False,
        "strange": True,
    }
    assert open_model(locate(found.models[0])).facts.parameters == 20
    (served.folder / "m.safetensors.index.json").write_text(json.dumps(index))
    located = locate(found.models[0])
    with pytest.raises(UnsafeFile, match="not beside it"):
        _ = open_model(located).state
    assert not located.path.parent.with_name("escape.safetensors").exists()


def test_a_file_that_changes_while_it_is_read_is_no_model(served, tmp_path):
    file = saved(served.folder / "m.safetensors")
    times = iter(range(10))

    def change(path: str) -> None:
        if path == "/m.safetensors" and next(times) == 1:  # once its head was looked at
            saved(file, 2.0)

    served.on_get = change
    with pytest.raises(NotEvaluable, match="was changed while it was read; run the same command again"):
        locate(spec(served, "m.safetensors"))
    assert entries(tmp_path) == []
    assert open_model(locate(spec(served, "m.safetensors"))).state["weight"][0] == 2.0


def test_an_entry_that_was_changed_is_not_believed(served):
    saved(served.folder / "m.safetensors")
    located = locate(spec(served, "m.safetensors"))
    data = bytearray(located.path.read_bytes())
    data[-1] ^= 1
    located.path.write_bytes(data)
    again = locate(spec(served, "m.safetensors"))
    assert "was fetched" in again.told
    assert again.path.read_bytes() == (served.folder / "m.safetensors").read_bytes()
    (again.path.parent / "sau-entry.json").write_text("{")
    assert "was fetched" in locate(spec(served, "m.safetensors")).told


def test_the_cache_keeps_to_its_limit_and_to_what_is_in_use(served, tmp_path, monkeypatch):
    monkeypatch.setenv("SAU_MODELS_LIMIT", "5MB")
    for number in range(3):
        saved(served.folder / f"{number}.safetensors")
    held = locate(spec(served, "0.safetensors"))
    locate(spec(served, "1.safetensors"))
    locate(spec(served, "2.safetensors"))
    names = {next(entry.glob("*.safetensors")).name for entry in entries(tmp_path)}
    assert names == {"0.safetensors", "2.safetensors"}
    assert held.path.is_file()
    left = tmp_path / "cache" / "models" / "abc.part"
    left.mkdir()
    (left / "half.safetensors").write_bytes(bytes(4_000_000))
    saved(served.folder / "4.safetensors")
    locate(spec(served, "4.safetensors"))
    assert not left.exists()
    monkeypatch.setenv("SAU_MODELS_LIMIT", "1MB")
    saved(served.folder / "3.safetensors")
    with pytest.raises(UsageError, match=r"takes 2\.0 MB and the cache may take 1\.0 MB; set SAU_MODELS_LIMIT"):
        locate(spec(served, "3.safetensors"))
    assert served.sent("/3.safetensors") == REMOTE_BLOCK
    monkeypatch.setenv("SAU_MODELS_LIMIT", "much")
    with pytest.raises(UsageError, match="SAU_MODELS_LIMIT='much' is no size"):
        locate(spec(served, "3.safetensors"))


def test_two_at_once_fetch_it_once(served, tmp_path):
    saved(served.folder / "m.safetensors")
    found = []
    threads = [threading.Thread(target=lambda: found.append(locate(spec(served, "m.safetensors")))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({model.path for model in found}) == 1
    assert sum("was fetched" in model.told for model in found) == 1
    assert served.sent("/m.safetensors") == REMOTE_BLOCK + (served.folder / "m.safetensors").stat().st_size


@pytest.mark.parametrize(
    ("status", "kind", "words"),
    [
        (404, UsageError, "does not exist"),
        (403, NotEvaluable, "may not be read with these credentials"),
        (401, NotEvaluable, "may not be read with these credentials"),
        (500, NotEvaluable, "its host answers 500"),
    ],
)
def test_each_refusal_is_a_sentence(served, status, kind, words):
    saved(served.folder / "m.safetensors")
    served.statuses["/m.safetensors"] = status
    with pytest.raises(kind, match=words) as error:
        locate(Path(f"{served.address}/m.safetensors?signature=secret"))
    assert "secret" not in str(error.value)
    assert f"{served.address}/m.safetensors " in str(error.value)


def test_a_host_that_is_not_there_or_does_not_answer(tmp_path, monkeypatch):
    monkeypatch.setenv("SAU_CACHE_DIR", str(tmp_path / "cache"))
    with pytest.raises(NotEvaluable, match="cannot be reached"):
        locate(Path("http://127.0.0.1:9/m.safetensors"))
    with pytest.raises(NotEvaluable, match="cannot be reached"):
        locate(Path("http://host.invalid/m.safetensors"))
    monkeypatch.setattr(addresses, "PATIENCE", 0.5)
    addresses._store.cache_clear()
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        with pytest.raises(NotEvaluable, match="cannot be reached .it does not answer."):
            locate(Path(f"http://127.0.0.1:{silent.getsockname()[1]}/m.safetensors"))
    addresses._store.cache_clear()


def test_what_is_no_model_or_names_a_password(served):
    with pytest.raises(UsageError, match="is a folder of models"):
        locate(Path(served.address))
    (served.folder / "empty").mkdir()
    with pytest.raises(UsageError, match="is a folder without models"):
        models_at([spec(served, "empty")])
    with pytest.raises(UsageError, match="a name or a password") as error:
        asked("http://me:hidden@host/x.pth")
    assert "hidden" not in str(error.value)


def test_a_library_that_is_not_installed_names_its_extra(monkeypatch):
    addresses._store.cache_clear()
    monkeypatch.setitem(__import__("sys").modules, "gcsfs", None)
    with pytest.raises(UsageError, match=r'needs gcsfs, which is not installed; pip install "sau-cli\[cloud\]"'):
        asked("gs://bucket/x.pth")


def test_a_cache_that_cannot_be_written_to(served, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("SAU_CACHE_DIR", str(tmp_path / "file"))
    saved(served.folder / "m.safetensors")
    with pytest.raises(UsageError, match="SAU_CACHE_DIR"):
        locate(spec(served, "m.safetensors"))
    assert fetched.DEFAULT_MODELS_LIMIT == 20_000_000_000
