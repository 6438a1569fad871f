"""EfficientNets with the tensor names of the package ``efficientnet_pytorch``, compared with it and with timm's."""

from __future__ import annotations

import pytest
import timm
import torch

from sau_adapters.architectures.cifar_networks import CIFAR_NETWORKS
from sau_adapters.architectures.cifar_networks.efficientnet_pytorch import SCALES
from sau_adapters.classifiers.building import as_classifier
from sau_adapters.classifiers.saving import save_like
from tests.support.models import file_facts, read_checkpoint
from tests.support.toys import random_images

TOLERANCE = 1e-4


def trained(network: torch.nn.Module) -> torch.nn.Module:
    """With statistics and scales as after a training, from a seed, so that nothing of the network is idle."""
    torch.manual_seed(0)
    for norm in (norm for norm in network.modules() if isinstance(norm, torch.nn.BatchNorm2d)):
        norm.running_mean.normal_(0, 0.3)
        norm.running_var.uniform_(0.5, 1.5)
        torch.nn.init.uniform_(norm.weight, 0.5, 1.5)
        torch.nn.init.normal_(norm.bias, 0, 0.2)
    return network.eval()


@pytest.mark.parametrize("name", ["b0", "b1"])
def test_at_its_own_size_it_computes_what_timms_computes(name):
    ours = trained(CIFAR_NETWORKS[f"efficientnet_pytorch_{name}"](10, 3))
    theirs = timm.create_model(f"tf_efficientnet_{name}", num_classes=10).eval()
    theirs.load_state_dict(dict(zip(theirs.state_dict(), ours.state_dict().values(), strict=True)))
    images = torch.rand(2, 3, SCALES[name].pixels, SCALES[name].pixels)
    with torch.no_grad():
        assert (ours(images) - theirs(images)).abs().max() < TOLERANCE


@pytest.mark.parametrize(("name", "size"), [("b0", 224), ("b1", 224), ("b0", 100)])
def test_a_file_of_the_package_is_opened_and_computes_the_same(tmp_path, name, size):
    package = pytest.importorskip("efficientnet_pytorch", reason="the package is not installed")
    theirs = trained(package.EfficientNet.from_name(f"efficientnet-{name}", num_classes=7))
    torch.save({"module." + key: tensor for key, tensor in theirs.state_dict().items()}, tmp_path / "model.pth")
    (fitting,) = file_facts(tmp_path / "model.pth").recognition.fitting
    assert (fitting.name, fitting.classes) == (f"efficientnet_pytorch_{name}", 7)
    read = read_checkpoint(tmp_path / "model.pth")
    loaded = as_classifier(read, normalisation=((0.0,), (1.0,)), image_shape=(3, size, size))
    images = torch.rand(2, 3, size, size)
    with torch.no_grad():
        assert (loaded(images) - theirs(images)).abs().max() < TOLERANCE


def test_a_saved_file_has_the_names_that_came_in(tmp_path):
    state = trained(CIFAR_NETWORKS["efficientnet_pytorch_b0"](7, 3)).state_dict()
    torch.save(state, tmp_path / "model.pth")
    read = read_checkpoint(tmp_path / "model.pth")
    loaded = as_classifier(read, normalisation=((0.5,), (0.5,)), image_shape=(3, 64, 64))
    save_like(
        *(read, tmp_path / "out.safetensors", loaded, loaded.description), proof=random_images(2, channels=3, size=64)
    )
    again = read_checkpoint(tmp_path / "out.safetensors")
    assert set(again.state) == set(state)
    assert {"_conv_stem.weight", "_blocks.1._expand_conv.weight", "_fc.bias"} <= set(again.state)
    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(as_classifier(again)(images), loaded(images))
