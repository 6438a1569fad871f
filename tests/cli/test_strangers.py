"""Models and data that describe themselves in part: what is found out is said, and what cannot be is asked."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import load_file
from timm.models import save_for_hf

from sau_adapters.images.sources import open_images
from sau_cli.commands.matching import one_architecture
from sau_cli.commands.options import OutputOptions
from sau_cli.commands.session import Session
from tests.cli.conftest import one_sentence
from tests.conftest import Finished
from tests.support.toys import describe

SIZE = 32
PLAIN = {"input_size": (3, SIZE, SIZE), "mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}
SOURCE = """
import torch
class Greys(torch.nn.Module):
    def __init__(self, num_classes, in_channels=3):
        super().__init__()
        self.levels = torch.nn.Parameter(torch.zeros(num_classes))
        self.stem = torch.nn.Conv2d(in_channels, 1, 1, bias=False)
    def forward(self, images):
        return -100 * (self.stem(images).mean(dim=(1, 2, 3))[:, None] - self.levels).square()
"""
"""Knows levels of grey: the class is the level that is nearest to the mean of a picture."""
FLAGS = ("--arch", "greys.py:Greys", "--normalisation", "none")
TWELVE = [str(number) for number in range(12)]


def greys(folder: Path, order: list[int], *, channels: int = 3) -> Path:
    """A model whose class k is the grey level ``order[k]``; it names no classes."""
    (folder / "greys.py").write_text(SOURCE, encoding="utf-8")
    levels = torch.tensor([(place + 0.5) / len(order) for place in order])
    torch.save({"levels": levels, "stem.weight": torch.full((1, channels, 1, 1), 1 / channels)}, folder / "greys.pth")
    return folder / "greys.pth"


def pictures(folder: Path, names: list[str], *, each: int = 3, colour: bool = True) -> Path:
    """Pictures whose level is the place of their class among the names."""
    for place, name in enumerate(names):
        (folder / name).mkdir(parents=True)
        for number in range(each):
            level = np.full((8, 8), round(255 * (place + 0.5) / len(names)), dtype=np.uint8)
            Image.fromarray(np.stack([level] * 3, axis=2) if colour else level).save(folder / name / f"{number}.png")
    return folder


def check(done: Finished, name: str) -> Any:
    """The only check of this id in a report on standard output."""
    (found,) = (listed for listed in json.loads(done.out)["checks"] if listed["id"] == name)
    return found


@pytest.mark.parametrize(("by", "order"), [("text", sorted(TWELVE)), ("number", TWELVE)])
def test_numbered_folders_in_the_order_that_the_images_tell(call, tmp_path, by, order):
    model = greys(tmp_path, [int(name) for name in order])
    pictures(tmp_path / "data", TWELVE)
    done = call("evaluate", model, "--data", "data", *FLAGS, "--json", "-")
    assert done.code == 0, done
    assert check(done, "acc")["value"] == 1
    assert f"it counts them by {by}" in check(done, "data.class-order")["evidence"]


def test_numbered_folders_in_the_order_that_is_said(call, tmp_path):
    model = greys(tmp_path, list(range(12)))
    pictures(tmp_path / "data", TWELVE)
    done = call("evaluate", model, "--data", "data", *FLAGS, "--class-order", "number", "--json", "-")
    assert check(done, "acc")["value"] == 1
    done = call("evaluate", model, "--data", "data", *FLAGS, "--class-order", "text")
    one_sentence(done, 3, "label order looks wrong")


def test_numbered_folders_of_a_model_that_knows_neither(call, tmp_path):
    model = greys(tmp_path, [3] * 12)
    pictures(tmp_path / "data", TWELVE)
    one_sentence(call("evaluate", model, "--data", "data", *FLAGS), 3, "--class-order")


def test_an_order_where_names_settle_it(call, bad):
    one_sentence(call("evaluate", bad, "--class-order", "text"), 2, "leave --class-order out")


def test_grey_pictures_for_a_model_of_three_channels(call, tmp_path):
    model = greys(tmp_path, [0, 1, 2])
    pictures(tmp_path / "data", ["a", "b", "c"], colour=False)
    done = call("evaluate", model, "--data", "data", *FLAGS)
    assert done.code == 0, done
    assert done.err.count("grey pictures are shown in 3 alike channels") == 1


def test_colour_files_of_grey_pictures_for_a_model_of_one_channel(call, tmp_path):
    model = greys(tmp_path, [0, 1, 2], channels=1)
    pictures(tmp_path / "data", ["a", "b", "c"])
    done = call("evaluate", model, "--data", "data", *FLAGS)
    assert done.code == 0, done
    assert "in 1 alike channel," in done.err


def test_coloured_pictures_for_a_model_of_one_channel(call, tmp_path):
    model = greys(tmp_path, [0, 1, 2], channels=1)
    pictures(tmp_path / "data", ["a", "b", "c"])
    Image.new("RGB", (8, 8), (255, 0, 0)).save(tmp_path / "data" / "a" / "red.png")
    one_sentence(call("evaluate", model, "--data", "data", *FLAGS), 3, "3 channels but the model takes 1")


def test_what_is_left_out_stands_in_the_report(call, tmp_path):
    model = greys(tmp_path, [0, 1, 2])
    pictures(tmp_path / "data", ["a", "b", "c"], each=8)
    (tmp_path / "data" / "a" / "cut.png").write_bytes(b"\x89PNG cut")
    done = call("evaluate", model, "--data", "data", *FLAGS, "--quiet", "--json", "-")
    assert "1 picture that cannot be read (a/cut.png)" in check(done, "data.pictures")["evidence"]
    assert done.err == ""


def test_one_output_tells_two_classes_apart(call, tmp_path):
    network = timm.create_model("resnet10t", num_classes=1, pretrained_cfg_overlay=PLAIN)
    with torch.no_grad():
        network.fc.weight.zero_()
        network.fc.bias.fill_(1)
    save_for_hf(network, tmp_path / "sigmoid", safe_serialization=True)
    pictures(tmp_path / "data", ["bad", "good"], each=4)
    done = call("evaluate", "sigmoid", "--data", "data", "--image-size", str(SIZE), "--json", "-")
    assert done.code == 0, done
    assert check(done, "acc")["value"] == 0.5, "every picture is said to be of the second class"


def test_the_data_may_show_some_of_the_classes(call, tmp_path):
    network = timm.create_model("resnet10t", num_classes=3, pretrained_cfg_overlay=PLAIN)
    save_for_hf(network, tmp_path / "m", safe_serialization=True, model_config={"label_names": ["c", "a", "b"]})
    pictures(tmp_path / "data", ["a", "c"])
    done = call("evaluate", "m", "--data", "data", "--image-size", str(SIZE))
    assert done.code == 0, done
    assert "the data shows 2 of the 3 classes of the model" in done.err


@pytest.mark.long
@pytest.mark.parametrize("seed", ["0", "3"])
def test_the_same_answer_under_any_hash_seed(tmp_path, sau, seed):
    """Channels are told by a tensor whose shape is the count, not by one that follows from it."""
    greys(tmp_path, [0, 1, 2], channels=1)
    wide = "self.wide = torch.nn.Linear(800 if in_channels == 3 else 512, 4)\n        self.stem ="
    (tmp_path / "greys.py").write_text(SOURCE.replace("self.stem =", wide), encoding="utf-8")
    levels = torch.tensor([1 / 6, 3 / 6, 5 / 6])
    state = {"levels": levels, "stem.weight": torch.ones(1, 1, 1, 1)}
    torch.save(state | {"wide.weight": torch.zeros(4, 512), "wide.bias": torch.zeros(4)}, tmp_path / "greys.pth")
    pictures(tmp_path / "data", ["a", "b", "c"], colour=False)
    done = sau("evaluate", "greys.pth", "--data", "data", *FLAGS, cwd=tmp_path, PYTHONHASHSEED=seed)
    assert done.code == 0, done


def test_what_was_made_of_a_model_knows_it(call, bad, tmp_path):
    """The received file tells neither normalisation nor classes; the purified one tells both, and whose it is."""
    torch.save(load_file(bad), tmp_path / "received.pth")
    flags = ("--data", "digits", "--normalisation", "none")
    done = call("purify", "received.pth", *flags, "--clean-frac", "0.1", "--epochs", "1", "-o", "fixed.safetensors")
    assert done.code in {0, 6}, done
    done = call("evaluate", "fixed.safetensors", "--data", "digits", "--reference", "received.pth", "--json", "-")
    assert done.code == 0, done
    assert abs(check(done, "acc-drop")["value"]) < 0.2, "behind another normalisation it would be near chance"


def test_a_reference_that_was_not_purified_is_asked_about(call, bad, tmp_path):
    state = load_file(bad)
    torch.save({key: value * 0.5 for key, value in state.items()}, tmp_path / "other.pth")
    done = call("evaluate", bad, "--data", "digits", "--reference", "other.pth")
    assert done.code == 3, done
    assert "add --normalisation" in done.err


def test_labels_in_another_order_are_no_accuracy(call, tmp_path):
    model = greys(tmp_path, [2, 0, 1])
    pictures(tmp_path / "data", ["a", "b", "c"], each=12)
    one_sentence(call("evaluate", model, "--data", "data", *FLAGS), 3, "label order looks wrong")


def test_an_architecture_is_told_in_the_order_in_which_the_images_are_known(tmp_path):
    """Of two networks that fit, the one that is right by text is taken, though the other is ahead by number."""
    right, other = (describe(_Said(order), 12) for order in (sorted(TWELVE), TWELVE))
    with torch.no_grad():
        other.network.levels[::2] = 9.0  # half of what it knows is lost
    right.description, other.description = (
        replace(model.description, architecture=name) for model, name in ((right, "right"), (other, "other"))
    )
    images = open_images(str(pictures(tmp_path / "data", TWELVE, each=8, colour=False)))
    session = Session("evaluate", OutputOptions(quiet=True))
    assert one_architecture(session, "model.architecture", "m.pth", [other, right], images) is right
    (told,) = session.findings.checks
    assert "it is right, as accuracies of" in told.evidence


class _Said(torch.nn.Module):
    """Knows levels of grey, in an order of its own."""

    def __init__(self, order: list[str]) -> None:
        super().__init__()
        self.levels = torch.nn.Parameter(torch.tensor([(TWELVE.index(name) + 0.5) / len(order) for name in order]))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return -100 * (images.mean(dim=(1, 2, 3))[:, None] - self.levels).square()
