"""What of a repository is fetched, and what the disk and the network do to that."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from sau_adapters.zoos.hub_downloads import _chosen, fetch, files_on_hub
from sau_adapters.zoos.names import hub_name, source_of, weights_of
from sau_cli.errors import NotEvaluable, UsageError
from tests.support.hub import COMMIT, hub

MODEL = Path("hf-hub:org/net")


@pytest.fixture
def served(tmp_path, monkeypatch):
    with hub() as one:
        one.stands_for_the_hub(monkeypatch, tmp_path / "cache")
        one.folders["org/net"] = tmp_path / "net"
        yield one


def have(folder: Path, **files: bytes) -> None:
    for name, content in files.items():
        path = folder / "net" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def chosen(*names: str) -> tuple[str, ...]:
    return _chosen(MODEL, "org/net", names)


SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
INDEX = "model.safetensors.index.json"


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (
            ("model.safetensors", "pytorch_model.bin", "config.json", "model.onnx", "evil.py", "x/model.safetensors"),
            ("config.json", "model.safetensors"),
        ),
        (("model.safetensors", "model.fp16.safetensors"), ("model.safetensors",)),
        ((INDEX, *SHARDS, "preprocessor_config.json"), ("preprocessor_config.json", INDEX, *SHARDS)),
        (("net.safetensors", "net.onnx"), ("net.safetensors",)),
        (("net.onnx", "net.onnx_data", "net.pt"), ("net.onnx", "net.onnx_data")),
        (("config.json", "onnx/model.onnx", "pytorch_model.bin"), ("config.json", "onnx/model.onnx")),
    ],
)
def test_what_is_chosen(names, expected):
    assert chosen(*names) == expected


def test_pickles_are_never_chosen():
    with pytest.raises(NotEvaluable, match=r"only as pickles \(pytorch_model.bin\).*hf download org/net pytorch_model"):
        chosen("config.json", "pytorch_model.bin")
    with pytest.raises(NotEvaluable, match="no weights that sau reads"):
        chosen("config.json", "tf_model.h5", "..\\model.safetensors", "../model.safetensors")
    with pytest.raises(UsageError, match=r"several models \(a.onnx, b.onnx\)"):
        chosen("a.onnx", "b.onnx")


def test_fetched_is_found_under_any_name(served, tmp_path):
    have(tmp_path, **{"config.json": b"{}", "net.onnx": b"graph", "net.onnx.data": b"tensors"})
    files = files_on_hub(MODEL)
    assert (files.commit, files.size) == (COMMIT, 2 + 5 + 7)
    fetch(files, progress=False)
    path = weights_of(MODEL)
    assert path.read_bytes() == b"graph"
    assert source_of(MODEL, path) == f"hf-hub:org/net@{COMMIT}"
    assert weights_of(Path(f"hf-hub:org/net@{COMMIT}")) == path
    with pytest.raises(UsageError, match="hf download org/net --revision v1 "):
        weights_of(Path("hf-hub:org/net@v1"))


def test_bars_are_shown_where_they_are_wanted(served, tmp_path, monkeypatch, capsys):
    from huggingface_hub.utils.tqdm import are_progress_bars_disabled

    monkeypatch.setenv("TQDM_POSITION", "-1")  # as on a terminal
    have(tmp_path, **{"model.safetensors": b"0" * 100_000})
    fetch(files_on_hub(MODEL), progress=True)
    assert "model.safetensors" in capsys.readouterr().err
    have(tmp_path, **{"model.safetensors": b"1" * 100_000})
    fetch(files_on_hub(MODEL), progress=False)
    assert capsys.readouterr().err == ""
    assert not are_progress_bars_disabled()


def test_a_full_disk(served, tmp_path, monkeypatch):
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    have(tmp_path, **{"model.safetensors": b"0"})
    files = files_on_hub(MODEL)
    monkeypatch.setattr("huggingface_hub.file_download.http_get", full)
    with pytest.raises(UsageError, match="the disk is full"):
        fetch(files, progress=False)


def test_a_model_that_changes_meanwhile(served, tmp_path, monkeypatch):
    have(tmp_path, **{"model.safetensors": b"0"})
    files = files_on_hub(MODEL)
    monkeypatch.setattr("tests.support.hub.COMMIT", "0" * 39 + "3")
    with pytest.raises(NotEvaluable, match="was changed on the hub"):
        fetch(files, progress=False)


def test_names_of_timm_are_on_the_hub_too():
    assert hub_name(Path("timm:test_resnet")) == ("timm/test_resnet.r160_in1k", None)
    assert source_of(Path("x.safetensors"), Path("snapshots/1/x.safetensors")) is None
