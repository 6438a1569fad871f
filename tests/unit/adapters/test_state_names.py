"""Names of tensors as training code leaves them, read as the network names its own."""

from __future__ import annotations

import re
from dataclasses import dataclass

import pytest
import timm
import torch
from torch import nn
from torchvision import models

from sau_adapters.architectures import networks
from sau_adapters.architectures.index import recognised
from sau_adapters.architectures.state_names import namings
from sau_adapters.classifiers.building import as_classifier, read_as
from sau_cli.errors import NotEvaluable, UsageError
from tests.support.models import read_checkpoint

NORMALISATION = ((0.0,), (1.0,))


@dataclass(frozen=True)
class Case:
    """A state dict that somebody else's code wrote, and the network that computes what it should."""

    state: dict[str, torch.Tensor]
    network: nn.Module
    size: int = 64


def resnet(**prefixes: str) -> Case:
    network = timm.create_model("resnet10t", num_classes=3).eval()
    return Case({f"{prefixes.get('prefix', '')}{key}": value for key, value in network.state_dict().items()}, network)


def beside(**tensors: torch.Tensor) -> Case:
    case = resnet(prefix="model.")
    return Case(case.state | {key.replace("__", "."): value for key, value in tensors.items()}, case.network)


def renamed(network: nn.Module, pattern: str, new: str, **more: torch.Tensor) -> Case:
    state = {re.sub(pattern, new, key): value for key, value in network.eval().state_dict().items()}
    return Case(state | more, network)


CASES = {
    "weights of the loss": lambda: beside(criterion__weight=torch.ones(3)),
    "a metric": lambda: beside(val_confusion__confmat=torch.zeros(3, 3, dtype=torch.int64)),
    "both": lambda: beside(loss_fn__weight=torch.ones(3), train_acc__correct=torch.zeros(1)),
    "a part behind module": lambda: renamed(models.vgg11_bn(num_classes=3), r"^features\.", "features.module."),
    "old DenseNet": lambda: renamed(
        models.densenet121(num_classes=3), r"(denselayer\d+\.(?:norm|conv))([12])", r"\1.\2"
    ),
    "a head behind a dropout": lambda: renamed(timm.create_model("resnet10t", num_classes=3), r"^fc\.", "fc.1."),
}


@pytest.mark.long
@pytest.mark.parametrize("name", CASES)
def test_the_network_computes_what_it_did(tmp_path, name):
    torch.manual_seed(0)
    case = CASES[name]()
    torch.save({"state_dict": case.state, "epoch": 3}, tmp_path / "m.pth")
    checkpoint = read_checkpoint(tmp_path / "m.pth")
    classifier = as_classifier(checkpoint, normalisation=NORMALISATION, image_shape=(3, case.size, case.size))
    images = torch.rand(2, 3, case.size, case.size)
    with torch.no_grad():
        assert torch.allclose(classifier(images), case.network(images), atol=1e-5)
    assert checkpoint.naming(classifier.network).told


def test_a_head_by_its_place(tmp_path):
    """torchvision's ViT whose heads were replaced by one layer."""
    network = models.vit_b_16(num_classes=3)
    shapes = {
        re.sub(r"^heads\.head\.", "heads.", key): tuple(value.shape) for key, value in network.state_dict().items()
    }
    found = recognised(shapes)
    assert found.fitting[0].name == "torchvision:vit_b_16"
    assert "heads read as heads.head" in found.told


def test_an_old_swin():
    network = timm.create_model("swin_tiny_patch4_window7_224", num_classes=3)
    shapes = {}
    for key, tensor in network.state_dict().items():
        old = re.sub(r"^layers\.(\d)\.downsample", lambda found: f"layers.{int(found[1]) - 1}.downsample", key)
        shapes[old.replace("head.fc.", "head.")] = tuple(tensor.shape)
    shapes["layers.0.blocks.1.attn_mask"] = (64, 49, 49)
    shapes["layers.0.blocks.1.attn.relative_position_index"] = (49, 49)
    found = recognised(shapes)
    assert found.fitting[0].name == "timm:swin_tiny_patch4_window7_224"


def test_a_head_of_two_layers_is_no_known_network(tmp_path):
    network = models.resnet18(num_classes=3)
    network.fc = nn.Sequential(nn.Linear(512, 256), nn.ReLU(), nn.Linear(256, 3))
    torch.save(network.state_dict(), tmp_path / "m.pth")
    with pytest.raises(NotEvaluable, match=r"fc\.0\.weight"):
        as_classifier(read_checkpoint(tmp_path / "m.pth"), normalisation=NORMALISATION, image_shape=(3, 64, 64))


def test_what_is_not_of_a_loss_is_not_left_out():
    """A temperature changes what a network says, so nothing without it fits."""
    shapes = {f"model.{key}": tuple(value.shape) for key, value in resnet().state.items()} | {"temperature": ()}
    assert not recognised(shapes).fitting


def test_no_way_gives_two_tensors_one_name():
    shapes = {"module.fc.weight": (3, 4), "fc.weight": (3, 4), "head.1.weight": (3, 4), "head.1.bias": (3,)}
    for naming in list(namings(shapes))[1:]:
        assert len(set(naming.names.values())) == len(naming.names) or not naming.told


def test_a_network_that_holds_the_one_of_the_file(tmp_path):
    (tmp_path / "two.py").write_text(
        "import timm, torch\n"
        "class Two(torch.nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.net = timm.create_model('resnet10t', num_classes=3)\n"
        "    def forward(self, x):\n"
        "        return self.net(x)\n",
        encoding="utf-8",
    )
    case = resnet()
    torch.save(case.state, tmp_path / "m.pth")
    classifier = as_classifier(
        read_checkpoint(tmp_path / "m.pth"),
        architecture=f"{tmp_path / 'two.py'}:Two",
        normalisation=NORMALISATION,
        image_shape=(3, 64, 64),
        class_names=("a", "b", "c"),
    )
    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.allclose(classifier(images), case.network(images), atol=1e-5)


@pytest.mark.parametrize("names", [("normalize.mean", "normalize.std"), ("0.mean", "0.std"), ("mu", "sigma")])
@pytest.mark.parametrize("scale", [1.0, 255.0])
def test_a_layer_that_normalises_in_front_of_the_network(tmp_path, names, scale):
    mean, std = torch.tensor([0.48, 0.46, 0.41]), torch.tensor([0.23, 0.22, 0.225])
    case = resnet(prefix="1." if names[0].startswith("0") else "net.")
    layer = {names[0]: mean.view(1, 3, 1, 1) * scale, names[1]: std.view(1, 3, 1, 1) * scale}
    torch.save(layer | case.state, tmp_path / "m.pth")
    checkpoint = read_checkpoint(tmp_path / "m.pth")
    images = torch.rand(2, 3, 64, 64)
    theirs = case.network((images - mean.view(3, 1, 1)) / std.view(3, 1, 1))
    for given in (None, NORMALISATION):
        classifier = as_classifier(checkpoint, normalisation=given, image_shape=(3, 64, 64))
        with torch.no_grad():
            assert torch.allclose(classifier(images), theirs, atol=1e-4)
    assert "read as its normalisation" in read_as(checkpoint, classifier)[1]
    with pytest.raises(UsageError, match="leave normalisation out"):
        as_classifier(checkpoint, normalisation=((0.5,), (0.5,)), image_shape=(3, 64, 64))


def test_no_network_is_built_that_a_few_tensors_could_not_be_of(monkeypatch):
    """A stranger's file may name the largest of timm: that takes no memory, but for shapes."""
    places, build = [], networks.build

    def noted(*arguments, **options):
        places.append(torch.get_default_device().type)
        return build(*arguments, **options)

    monkeypatch.setattr(networks, "build", noted)
    state = {"weight": torch.zeros(1000)}
    assert networks.as_named("timm:resnet50", state, height=64, width=64) == state
    assert set(places) == {"meta"}
