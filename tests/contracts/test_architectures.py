"""What every architecture must do, ours and a sample of the zoos: build, run, save, load, fit its description."""

from __future__ import annotations

import json

import pytest
import timm
import torch
from safetensors.torch import load_file

from sau_adapters.architectures.cifar_networks import CIFAR_NETWORKS
from sau_adapters.architectures.index import known_architectures, recognised
from sau_adapters.architectures.networks import build, canonical_name, load_state, told_sizes
from sau_adapters.classifiers.building import as_classifier
from sau_adapters.classifiers.saving import save_classifier
from sau_cli.classifier import Classifier
from sau_cli.description import Description
from sau_cli.errors import NotEvaluable, UsageError
from sau_cli.predictions import predicted_logits
from tests.support.models import read_checkpoint
from tests.support.toys import names, random_images, spec

OURS = ["preact_resnet18", "cifar_resnet18", "cifar_vgg19_bn", "wrn_16_1", "wrn_10_2", "small_cnn"]
ZOO = ["timm:resnet18", "timm:mobilenetv3_small_050", "timm:convnext_atto", "torchvision:squeezenet1_1"]


@pytest.mark.parametrize("name", [*OURS, *ZOO])
def test_round_trip_through_a_file(tmp_path, name):
    classes, size = 7, 64
    torch.manual_seed(0)
    network = build(canonical_name(name), classes=classes, spec=spec(channels=3, size=size))
    description = Description(
        architecture=canonical_name(name),
        class_names=names(classes),
        input=spec(channels=3, size=size, mean=0.4, std=0.2),
    )
    classifier = Classifier(network, description)
    path = tmp_path / "model.safetensors"
    save_classifier(path, classifier, description, force=False)
    again = as_classifier(read_checkpoint(path))
    assert again.description == description
    images = random_images(4, classes=classes, channels=3, size=size).images
    assert torch.equal(predicted_logits(again, images), predicted_logits(classifier, images))
    state = load_file(path)
    assert set(state) == set(network.state_dict())
    # torchvision's take nothing but 3 channels, so no weight tells them
    channels = None if name.startswith("torchvision:") else 3
    assert told_sizes(canonical_name(name), state, height=size, width=size) == (classes, channels)
    found = recognised({key: tuple(tensor.shape) for key, tensor in state.items()})
    assert canonical_name(name) in [architecture.name for architecture in found.fitting]
    assert {(architecture.classes, architecture.channels) for architecture in found.fitting} == {(classes, 3)}


def test_every_network_of_ours_is_in_the_index():
    assert set(CIFAR_NETWORKS) <= set(known_architectures())
    assert len(known_architectures()) > 1000, "run python -m sau_adapters.architectures.build_index"


def test_timm_loads_what_we_write(tmp_path):
    network = build("timm:resnet18", classes=10, spec=spec(channels=3, size=32))
    description = Description(architecture="timm:resnet18", class_names=names(10), input=spec(channels=3, size=32))
    path = tmp_path / "model.safetensors"
    save_classifier(path, Classifier(network, description), description, force=False)
    loaded = timm.create_model("resnet18", num_classes=10, checkpoint_path=str(path))
    for name, tensor in loaded.state_dict().items():
        assert torch.equal(tensor, network.state_dict()[name])


@pytest.mark.parametrize(("name", "parameters"), [("cifar_resnet18", 11_173_962), ("cifar_vgg19_bn", 20_040_522)])
def test_sizes_of_the_fields_networks(name, parameters):
    assert sum(parameter.numel() for parameter in CIFAR_NETWORKS[name](10, 3).parameters()) == parameters


def test_our_networks_have_the_names_and_sizes_of_checkpoints_in_the_wild():
    preact = CIFAR_NETWORKS["preact_resnet18"](10, 3)
    assert sum(parameter.numel() for parameter in preact.parameters()) == 11_171_146
    state = preact.state_dict()
    assert len(state) == 102
    assert {"conv1.weight", "layer1.0.bn1.weight", "layer4.1.conv2.weight", "layer2.0.shortcut.0.weight"} <= set(state)
    assert {"linear.weight", "linear.bias"} <= set(state)
    assert "layer1.0.shortcut.0.weight" not in state


@pytest.mark.parametrize(
    ("given", "canonical"),
    [
        ("small_cnn", "small_cnn"),
        ("resnet18", "timm:resnet18"),
        ("timm:resnet18", "timm:resnet18"),
        ("torchvision:resnet18", "torchvision:resnet18"),
        ("shufflenet_v2_x0_5", "torchvision:shufflenet_v2_x0_5"),
        ("mine.py:Mine", "mine.py:Mine"),
    ],
)
def test_names(given, canonical):
    assert canonical_name(given) == canonical


@pytest.mark.parametrize("name", ["resnet1818", "timm:small_cnn", "torchvision:nothing", "hub:resnet18", ""])
def test_unknown_names_are_refused(name):
    with pytest.raises(UsageError):
        canonical_name(name)


def test_weights_are_never_matched_by_position():
    network = CIFAR_NETWORKS["small_cnn"](10, 1)
    renamed = {f"other.{name}": tensor for name, tensor in network.state_dict().items()}
    with pytest.raises(NotEvaluable, match="22 tensors are missing .* 22 have no place"):
        load_state(network, renamed, architecture="small_cnn")
    wrong = dict(CIFAR_NETWORKS["small_cnn"](9, 1).state_dict())
    with pytest.raises(NotEvaluable, match=r"2 have another shape \(first 'linear.weight': \(9, 256\)"):
        load_state(network, wrong, architecture="small_cnn")


def test_a_grey_network_of_torchvision_is_refused():
    with pytest.raises(UsageError, match="use timm:resnet18"):
        build("torchvision:resnet18", classes=10, spec=spec(channels=1))


def test_metadata_is_plain_json(tmp_path):
    from safetensors import safe_open

    description = Description(architecture="small_cnn", class_names=("café", "naïve"), input=spec())
    path = tmp_path / "m.safetensors"
    save_classifier(path, Classifier(CIFAR_NETWORKS["small_cnn"](2, 1), description), description, force=False)
    with safe_open(path, framework="numpy") as file:
        metadata = file.metadata()
    assert metadata["sau.schema"] == "1"
    assert json.loads(metadata["sau.classes"]) == ["café", "naïve"]
    assert as_classifier(read_checkpoint(path)).description == description
