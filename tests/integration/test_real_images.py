"""Real images and a real backdoored checkpoint, where the shared data is at hand."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from tests.conftest import SHARED

CHECKPOINT = SHARED / "checkpoints" / "argd-wrn-16-1-badnets.pth.tar"


@pytest.mark.long
def test_a_published_backdoored_checkpoint_is_measured_as_published(sau, cifar10, tmp_path):
    """ACC 81.36 % and ASR 99.91 % on the 10,000 test images, by its own trigger drawn from its description."""
    if not CHECKPOINT.is_file():
        pytest.skip("the published checkpoint is not beside this checkout")
    grid = {14: {14: 255, 13: 128, 12: 255}, 13: {14: 128, 13: 255, 12: 128}, 12: {14: 255, 13: 128, 12: 128}}
    pixels = np.zeros((32, 32, 4), np.uint8)
    for row, columns in grid.items():
        for column, value in columns.items():
            pixels[32 - row, 32 - column] = (value, value, value, 255)
    Image.fromarray(pixels).save(tmp_path / "grid.png")
    done = sau(
        *("evaluate", CHECKPOINT, "--arch", "wrn_16_1", "--normalisation", "none"),
        *("--data", "cifar10", "--data-root", cifar10, "--trigger", "patch:grid.png", "--target", "0"),
        *("--json", "r.json", "--device", "cpu"),
        cwd=tmp_path,
    )
    assert done.code == 0, done.err
    found = {check["id"]: check["value"] for check in json.loads((tmp_path / "r.json").read_text())["checks"]}
    assert found["acc"] == pytest.approx(0.8136, abs=0.0005)
    assert found["asr.grid"] == pytest.approx(0.9991, abs=0.0005)


@pytest.mark.long
def test_a_published_backdoored_checkpoint_is_found_without_its_trigger(sau, cifar10, tmp_path):
    """The exit code of a model that behaves like a backdoored one, and the class that its trigger leads to."""
    if not CHECKPOINT.is_file():
        pytest.skip("the published checkpoint is not beside this checkout")
    words = ("--normalisation", "none", "--data", "cifar10", "--data-root", cifar10, "--device", "cpu")
    done = sau("inspect", CHECKPOINT, *words, "--skip-test", "easiest-change", "--json", "r.json", cwd=tmp_path)
    found = json.loads((tmp_path / "r.json").read_text())
    assert done.code == found["exit_code"] == 1, done.err
    assert found["details"]["behaviour"]["suspected_class"] == "airplane"
    (score,) = [check for check in found["checks"] if check["id"] == "behaviour.score"]
    assert score["status"] == "failed"
    assert score["value"] > 0.9


@pytest.mark.slow
@pytest.mark.parametrize(("depth", "accuracy"), [(20, 0.917), (44, 0.931)])
def test_a_published_clean_resnet_is_as_accurate_as_its_author_says(sau, cifar10, tmp_path, depth, accuracy):
    """No architecture is named: the tensors tell it, behind the prefix of several devices."""
    published = SHARED / "checkpoints" / f"akamaster-resnet{depth}-clean.th"
    if not published.is_file():
        pytest.skip("the published checkpoint is not beside this checkout")
    done = sau(
        *("evaluate", published, "--normalisation", "imagenet", "--data", "cifar10", "--data-root", cifar10),
        *("--json", "r.json", "--device", "cpu"),
        cwd=tmp_path,
    )
    assert done.code == 0, done.err
    assert f"is a cifar_resnet{depth}_a, whose tensors' names begin with module. in the file" in done.err
    found = {check["id"]: check["value"] for check in json.loads((tmp_path / "r.json").read_text())["checks"]}
    assert found["acc"] == pytest.approx(accuracy, abs=0.0005)


@pytest.mark.slow
def test_the_whole_job_on_gtsrb(sau, gtsrb, tmp_path):
    """A few short epochs: that 43 classes of road signs go through every command, not how well."""
    with np.load(gtsrb) as archive:
        np.savez(
            tmp_path / "signs.npz",
            **{name: archive[name][:: 12 if name.startswith("train") else 20] for name in archive.files},
        )
    for words in (
        (
            "attack",
            "--attack",
            "blended",
            "--arch",
            "wrn_16_1",
            "--data",
            "signs.npz",
            "--epochs",
            "5",
            "-o",
            "m.safetensors",
        ),
        ("purify", "m.safetensors", "--data", "signs.npz", "--clean-frac", "0.1", "--epochs", "1"),
        (
            "evaluate",
            "m.purified.safetensors",
            "-r",
            "m.safetensors",
            "--data",
            "signs.npz",
            "-t",
            "m.trigger.safetensors",
        ),
        ("export", "m.purified.safetensors", "--data", "signs.npz", "-o", "m.onnx"),
        ("inspect", "m.onnx"),
    ):
        done = sau(*words, cwd=tmp_path)
        assert done.code in ({0, 1, 6} if words[0] == "inspect" else {0}), done.err


def test_cifar10_is_opened_as_torchvision_lays_it_out(cifar10):
    from sau_adapters.images.sources import open_images

    data = open_images("cifar10", root=cifar10)
    assert (len(data.train), len(data.test), data.train.class_names[0]) == (50_000, 10_000, "airplane")
    assert data.train.images.shape[1:] == (3, 32, 32)
    assert data.flip


def test_a_damaged_cifar10_is_refused(cifar10, tmp_path):
    import shutil

    from sau_adapters.images.sources import open_images
    from sau_cli.errors import UsageError

    copy = tmp_path / "copy"
    shutil.copytree(cifar10, copy)
    with (copy / "cifar-10-batches-py" / "data_batch_3").open("r+b") as file:
        file.seek(1000)
        file.write(b"c")
    with pytest.raises(UsageError, match="damaged"):
        open_images("cifar10", root=copy)
