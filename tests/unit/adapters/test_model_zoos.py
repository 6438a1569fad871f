"""Names of zoos, by a cache that holds what the zoo's own code would have put there. Nothing is fetched."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file
from torchvision import models

from sau_adapters.classifiers.building import as_classifier
from sau_adapters.zoos.names import weights_of
from sau_cli.commands.outputs import purified_name
from sau_cli.errors import UsageError
from tests.support.models import file_facts, read_checkpoint


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("torch.hub.get_dir", lambda: str(tmp_path))
    return tmp_path


def cached(cache: Path, repository: str, **files) -> None:
    """In the layout of the hub's cache: a snapshot of links to blobs."""
    home = cache / f"models--{repository.replace('/', '--')}"
    snapshot = home / "snapshots" / "abc"
    for folder in (snapshot, home / "blobs", home / "refs"):
        folder.mkdir(parents=True)
    (home / "refs" / "main").write_text("abc")
    for number, (name, content) in enumerate(files.items()):
        blob = home / "blobs" / str(number)
        if isinstance(content, bytes):
            blob.write_bytes(content)
        else:
            save_file(content, blob)
        (snapshot / name).symlink_to(Path("../../blobs") / str(number))


def test_timm_by_name(cache):
    network = timm.create_model("test_resnet")
    cached(cache, "timm/test_resnet.r160_in1k", **{"model.safetensors": network.state_dict()})
    classifier = as_classifier(read_checkpoint(Path("timm:test_resnet")))
    spec = classifier.description.input
    assert (classifier.description.architecture, classifier.description.classes) == ("timm:test_resnet", 1000)
    assert (spec.channels, spec.height) == (3, network.pretrained_cfg["input_size"][1])
    assert spec.mean == pytest.approx(network.pretrained_cfg["mean"])
    assert torch.equal(classifier.network.conv1[0].weight, network.conv1[0].weight)
    assert file_facts(Path("timm:test_resnet.r160_in1k")).description == classifier.description


def test_the_hub_by_name(cache):
    config = {"architecture": "test_resnet", "num_classes": 3, "label_names": ["a", "b", "c"]}
    config["pretrained_cfg"] = {"input_size": [3, 64, 64], "mean": [0.5] * 3, "std": [0.5] * 3}
    weights = timm.create_model("test_resnet", num_classes=3).state_dict()
    files = {"model.safetensors": weights, "config.json": json.dumps(config).encode()}
    cached(cache, "org/mine", **files)
    classifier = as_classifier(read_checkpoint(Path("hf-hub:org/mine")))
    assert classifier.description.class_names == ("a", "b", "c")


def test_torchvision_by_name(cache):
    network = models.shufflenet_v2_x0_5()
    (cache / "checkpoints").mkdir()
    file = models.ShuffleNet_V2_X0_5_Weights.DEFAULT.url.rpartition("/")[2]
    torch.save(network.state_dict(), cache / "checkpoints" / file)
    classifier = as_classifier(read_checkpoint(Path("torchvision:shufflenet_v2_x0_5")))
    assert (classifier.description.classes, classifier.description.input.height) == (1000, 224)
    assert classifier.description.class_names[0] == "tench"


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("timm:test_resnet", "nothing is fetched; get it with: hf download timm/test_resnet"),
        ("timm:no_such_network", "timm has no model"),
        ("hf-hub:org/absent", "hf download org/absent"),
        ("hf-hub:a/b/c", "no name of a model"),
        ("torchvision:resnet18", "nothing is fetched"),
        ("torchvision:no_such_network", "torchvision has no classifier"),
    ],
)
def test_what_is_not_there(cache, name, sentence):
    with pytest.raises(UsageError, match=sentence):
        weights_of(Path(name))


def test_a_file_goes_before_a_zoo(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("timm:resnet18").write_bytes(b"x")
    assert weights_of(Path("timm:resnet18")) == Path("timm:resnet18")


def test_a_purified_model_of_a_zoo_goes_into_the_working_folder():
    assert purified_name(Path("hf-hub:org/net.v2")) == Path("net.v2.purified.safetensors")
    assert purified_name(Path("timm:resnet18")) == Path("resnet18.purified.safetensors")
