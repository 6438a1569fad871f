"""``--download``, from a hub on this machine that has a folder as timm saves it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import timm
import torch
from safetensors import safe_open

from tests.cli.conftest import one_sentence
from tests.conftest import ROOT
from tests.support.hub import COMMIT, OLD_COMMIT, TOKEN, hub

NAME = "hf-hub:org/net"


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    """A network of ten classes of grey images of 32x32, as timm saves it for the hub."""
    torch.manual_seed(0)
    own = {"input_size": (1, 32, 32), "mean": (0.5,), "std": (0.5,)}
    network = timm.create_model("test_resnet", num_classes=10, in_chans=1, pretrained_cfg_overlay=own)
    folder = tmp_path_factory.mktemp("saved") / "net"
    names = {"label_names": [str(number) for number in range(10)]}
    timm.models.save_for_hf(network, folder, model_config=names, safe_serialization="both")
    assert {"config.json", "model.safetensors", "pytorch_model.bin"} <= {file.name for file in folder.iterdir()}
    (folder / "modeling.py").write_text("raise SystemExit\n")
    return folder


@pytest.fixture
def served(saved):
    with hub() as one:
        one.folders["org/net"] = saved
        yield one


@pytest.fixture
def run(call, served, tmp_path, monkeypatch):
    """``sau`` in this process, with this hub and a cache of its own."""
    served.stands_for_the_hub(monkeypatch, tmp_path / "home" / "hub")
    return call


@pytest.fixture
def run_alone(sau, served, tmp_path):
    """``sau`` as a process, by the settings that a user has."""
    known = {"HF_ENDPOINT": served.address, "HF_HOME": str(tmp_path / "home")}
    return lambda *words, **settings: sau(*words, cwd=tmp_path, **known | settings)


def in_cache(tmp_path: Path) -> set[str]:
    return {file.name for file in (tmp_path / "home" / "hub").glob("models--*/snapshots/*/*")}


@pytest.mark.long
def test_inspect_what_is_fetched(run_alone, run, served, tmp_path, saved):
    words = ("inspect", NAME, "--effort", "quick")
    one_sentence(run(*words), 2, "nothing is fetched", "add --download")
    done = run_alone(*words, "--download", "--json", "-")
    assert done.code == 0, done.err
    size = (saved / "model.safetensors").stat().st_size
    assert f"at commit {COMMIT}: config.json" in done.err
    assert f"model.safetensors ({size / 1e6:.1f} MB)" in done.err
    assert "%|" not in done.err  # no bar where it is no terminal
    assert served.fetched == ["config.json", "model.safetensors"]
    assert in_cache(tmp_path) == {"config.json", "model.safetensors"}
    report = json.loads(done.out)
    assert report["inputs"][0]["path"] == f"{NAME}@{COMMIT}"
    assert report["details"]["file"]["description"]["architecture"] == "timm:test_resnet"
    again = run(*words, "--json", "-")
    assert json.loads(again.out)["inputs"] == report["inputs"]
    assert run(*words, "--download").code == 0
    assert len(served.fetched) == 2


def test_purify_keeps_the_commit_in_its_history(run, served, bad, tmp_path):
    served.folders["org/bad"] = tmp_path / "published"
    served.folders["org/bad"].mkdir()
    shutil.copy(bad, served.folders["org/bad"] / "model.safetensors")
    words = ("--clean-frac", "0.1", "--method", "ft", "--epochs", "1", "--device", "cpu", "--json", "report.json")
    done = run("purify", "hf-hub:org/bad@v1", "--download", *words)
    assert done.code in {0, 6}, done.err
    with safe_open("bad.purified.safetensors", framework="numpy") as file:
        steps = json.loads(file.metadata()["sau.history"])
    assert steps[-1]["settings"]["received_from"] == f"hf-hub:org/bad@{OLD_COMMIT}"
    assert json.loads(Path("report.json").read_text())["inputs"][0]["path"] == f"hf-hub:org/bad@{OLD_COMMIT}"


@pytest.mark.long
@pytest.mark.parametrize(
    "words",
    [
        ("evaluate", NAME, "--data", "digits", "--image-size", "32"),
        ("export", NAME, "-o", "net.onnx", "--data", "digits", "--image-size", "32"),
        ("attack", NAME, "-a", "badnets", "--data", "digits", "--image-size", "32", "--preview", "bad.png"),
    ],
)
def test_the_other_commands(run, words):
    done = run(*words, "--download", "--json", "report.json")
    assert done.code == 0, done.err
    assert f"at commit {COMMIT}" in done.err


def test_what_is_not_there(run, served, saved, monkeypatch):
    served.folders |= dict.fromkeys(("org/gated", "org/private", "org/broken"), saved)
    served.gated.add("org/gated")
    served.private.add("org/private")
    served.broken.add("org/broken")
    for model, code, sentence in (
        ("hf-hub:org/absent", 2, "the hub has no org/absent, or it is private"),
        ("hf-hub:org/private", 2, "HF_TOKEN"),
        ("hf-hub:org/gated", 3, "is gated"),
        ("hf-hub:org/broken", 3, "the hub answers 503"),
        (f"{NAME}@v9", 2, "org/net has no revision 'v9'"),
        (f"{NAME}@../../v9", 2, "is no revision"),
        ("hf-hub:a/b/c", 2, "no name of a model on the hub"),
    ):
        one_sentence(run("inspect", model, "--download"), code, sentence)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert run("inspect", "hf-hub:org/gated", "--download", "--effort", "quick").code == 0


def test_only_pickles(run, served, saved, tmp_path):
    (tmp_path / "pickles").mkdir()
    for name in ("config.json", "pytorch_model.bin"):
        (tmp_path / "pickles" / name).write_bytes((saved / name).read_bytes())
    served.folders["org/pickles"] = tmp_path / "pickles"
    done = run("evaluate", "hf-hub:org/pickles", "--download", "--data", "digits")
    one_sentence(done, 3, "only as pickles (pytorch_model.bin)", "at your own risk with hf download org/pickles")
    assert served.fetched == []


def test_no_way_to_the_hub(run_alone):
    offline = run_alone("inspect", NAME, "--download", HF_HUB_OFFLINE="1")
    one_sentence(offline, 2, "HF_HUB_OFFLINE forbids it")
    one_sentence(
        run_alone("inspect", NAME, "--download", HF_ENDPOINT="http://127.0.0.1:9"), 3, "the hub cannot be reached"
    )


def test_a_cache_that_cannot_be_written_to(run, tmp_path):
    (tmp_path / "home").write_text("a file where the cache should be")
    one_sentence(run("inspect", NAME, "--download"), 2, f"{NAME} cannot be kept", "set HF_HOME")


@pytest.mark.long
def test_interrupted(served, tmp_path):
    served.slow = "model.safetensors"
    own = {"PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "adapters"), os.environ.get("PYTHONPATH", "")))}
    own |= {"HF_ENDPOINT": served.address, "HF_HOME": str(tmp_path / "home")}
    words = [sys.executable, "-m", "sau_cli", "inspect", NAME, "--download"]
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background ignores it
    with subprocess.Popen(words, cwd=tmp_path, env=os.environ | own, stderr=subprocess.PIPE, text=True) as process:
        signal.signal(signal.SIGINT, before)
        assert served.started.wait(120)
        began = time.monotonic()
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "files that are whole are kept" in err
    assert time.monotonic() - began < 20  # not only when the file is there
    assert in_cache(tmp_path) == {"config.json"}


def test_a_flag_that_would_do_nothing(call):
    for words in (("inspect", "a.safetensors"), ("evaluate", "torchvision:resnet18", "--data", "digits")):
        one_sentence(call(*words, "--download"), 2, "--download fetches", "leave it out")
