"""Every command reads models, images and triggers once: what was hashed and judged is what was run."""

from __future__ import annotations

import hashlib
import json
import sys
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from sau_adapters import files
from sau_adapters.images.sources import open_images
from sau_adapters.weights import content
from tests.cli.conftest import one_sentence
from tests.support.openings import counted_openings, counting_sha256

NONE = ("--normalisation", "none")
DIGITS = ("--data", "digits", "-q")
QUICK = ("--clean-frac", "0.1", "--method", "ft-sam", "--epochs", "1")
WORDS = {
    "inspect": (*DIGITS, "--effort", "quick"),
    "evaluate": DIGITS,
    "purify": (*DIGITS, *QUICK, "-o", "out"),
    "attack": (*DIGITS, "--attack", "badnets", "--epochs", "1", "-o", "out"),
    "export": (*DIGITS, "-o", "out.onnx"),
}


@pytest.fixture
def model(call, bad, request) -> Path:
    """The backdoored classifier in a form of one's own."""
    if request.param == "m.safetensors":
        return bad.rename(request.param)
    if request.param == "m.pth":
        torch.save({"state_dict": load_file(bad)}, request.param)
        return Path(request.param)
    assert call("export", bad, "-o", request.param, "-q").code == 0
    return Path(request.param)


@pytest.fixture
def hashed(monkeypatch) -> Counter[int]:
    """How often as many bytes were hashed in one go, by their number: a file tells itself by its size."""
    found: Counter[int] = Counter()

    for module in (content, files):
        monkeypatch.setattr(module, "hashlib", SimpleNamespace(sha256=counting_sha256(found)))
    return found


@pytest.mark.long
@pytest.mark.skipif(sys.platform != "linux", reason="the kernel counts, by inotify")
@pytest.mark.parametrize("model", ["m.safetensors", "m.pth", "m.onnx"], indirect=True)
@pytest.mark.parametrize("command", WORDS)
def test_a_command_opens_and_hashes_the_weights_once(call, model, hashed, command):
    if model.suffix == ".onnx" and command == "export":
        return  # it is ONNX already
    suffix = ".onnx" if model.suffix == ".onnx" else ".safetensors"
    words = [f"out{suffix}" if word == "out" else word for word in WORDS[command]]
    size = model.stat().st_size
    with counted_openings(model) as opened:
        done = call(command, model, *words, *(NONE if model.suffix == ".pth" else ()))
    assert done.code in {0, 6}, done.err
    assert opened[model.name] == 1
    assert hashed[size] == 1


def swapped(path: Path, monkeypatch, *, other: bytes) -> None:
    """Another file takes the place of a model as soon as that was hashed, in its very inode."""
    take_in = content.Content.take_in

    def and_then(self, **options) -> None:
        take_in(self, **options)
        if self.path == path:
            path.write_bytes(other)

    monkeypatch.setattr(content.Content, "take_in", and_then)


@pytest.mark.parametrize("model", ["m.safetensors", "m.pth", "m.onnx"], indirect=True)
@pytest.mark.parametrize("command", ["inspect", "evaluate"])
def test_a_file_that_is_swapped_after_it_was_hashed_changes_nothing(call, model, monkeypatch, command):
    words = (command, model, *WORDS[command], *(NONE if model.suffix == ".pth" else ()))
    before = call(*words, "--json", "-")
    swapped(model, monkeypatch, other=b"something else, which is no model\n" * 100)
    after = call(*words, "--json", "-")
    assert after.code == before.code == 0
    assert after.out == before.out
    assert not model.read_bytes().startswith(b"PK")


@pytest.mark.parametrize("model", ["m.safetensors", "m.pth"], indirect=True)
@pytest.mark.parametrize("command", ["inspect", "evaluate"])
def test_a_file_too_large_for_memory_that_is_swapped_is_refused(call, model, monkeypatch, command):
    monkeypatch.setattr(content.Content.take_in, "__kwdefaults__", content.Content.take_in.__kwdefaults__ | {"most": 0})
    words = (command, model, *WORDS[command], *(NONE if model.suffix == ".pth" else ()))
    assert call(*words).code == 0
    whole = bytearray(model.read_bytes())
    whole[len(whole) // 2] ^= 1
    swapped(model, monkeypatch, other=bytes(whole))
    one_sentence(call(*words), 3, f"{model} was changed while it was read; run the same command again")


@pytest.fixture
def images(bad) -> Path:
    """Clean images in a file."""
    digits = open_images("digits").train
    np.savez("clean.npz", images=digits.images[:300].numpy(), labels=digits.labels[:300].numpy())
    return Path("clean.npz")


TRIGGERS = ("-t", "bad.trigger.safetensors", "-t", "patch:corner.png", "-t", "add:haze.npy", "--target", "0")


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel counts, by inotify")
@pytest.mark.parametrize("command", ["evaluate", "purify", "export"])
def test_a_command_opens_and_hashes_images_and_triggers_once(call, bad, images, hashed, command):
    Image.new("L", (2, 2), 255).save("corner.png")
    np.save("haze.npy", np.full((8, 8), 0.1, np.float32))
    files = [images, *map(Path, ("bad.trigger.safetensors", "corner.png", "haze.npy"))]
    words = {"purify": (*QUICK[2:], "-o", "out.safetensors"), "export": ("-o", "out.onnx"), "evaluate": ()}[command]
    with counted_openings(*files) as opened:
        done = call(command, bad, "--data", images, *TRIGGERS, *words, "--json", "r.json", "-q")
    assert done.code in {0, 6}, done.err
    assert opened == {file.name: 1 for file in files}
    assert all(hashed[file.stat().st_size] == 1 for file in files)
    told = {file["path"]: file["sha256"] for file in json.loads(Path("r.json").read_text())["inputs"]}
    assert {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}.items() <= told.items()


def test_images_that_are_swapped_after_they_were_hashed_change_nothing(call, bad, images, monkeypatch):
    words = ("evaluate", bad, "--data", images, "--json", "-", "-q")
    before = call(*words)
    swapped(images, monkeypatch, other=b"something else, which is no archive\n" * 100)
    after = call(*words)
    assert after.code == before.code == 0
    assert after.out == before.out
