"""Our own networks: each takes two images of its size, and is told by its tensors behind any prefix."""

from __future__ import annotations

import pytest
import torch

from sau_adapters.architectures.cifar_networks import CIFAR_NETWORKS, PIXELS
from sau_adapters.architectures.cifar_networks.lenet import ACTIVATIONS
from sau_adapters.architectures.index import recognised

LARGE = 1202
"""Layers of a network that takes seconds even without memory: one form of it stands for all."""
NAMES = [name for name in CIFAR_NETWORKS if str(LARGE) not in name] + [f"cifar_resnet{LARGE}_a"]
FAMILIES = (
    *(
        "preact_resnet34",
        "preact_resnet50",
        "preact_resnet18_bn",
        "cifar_resnet18",
        "cifar_resnet50",
        "cifar_vgg11_bn",
        "cifar_vgg11_bn_hidden",
    ),
    *("cifar_resnet20_a", "cifar_resnet32_b", "cifar_resnet44_b_fc", "wrn_16_1", "cifar_densenet"),
    *("cifar_resnext29_32x4d", "cifar_regnetx_200mf", "cifar_regnety_400mf", "cifar_dpn26", "cifar_shufflenet_g2"),
    *("cifar_shufflenet_g3", "cifar_shufflenetv2_x0_5", "cifar_shufflenetv2_x1_5", "cifar_dla", "cifar_simple_dla"),
    *("cifar_senet18", "cifar_googlenet", "cifar_mobilenet", "cifar_mobilenetv2", "cifar_efficientnet_b0"),
    *("cifar_torchvision_mobilenetv2_x0_5", "cifar_torchvision_shufflenetv2_x0_5"),
    *(
        "lenet5_relu",
        "lenet5_28_tanh",
        "mnist_example",
        "mnist_example_2018",
        "mnist_example_2017",
        "small_cnn",
        "efficientnet_pytorch_b0",
    ),
)
TWINS = {
    "cifar_torchvision_mobilenetv2_x1_0": "torchvision:mobilenet_v2",
    **{
        f"cifar_torchvision_shufflenetv2_{size}": f"torchvision:shufflenet_v2_{size}"
        for size in ("x0_5", "x1_0", "x1_5", "x2_0")
    },
}
"""Networks whose tensors are those of another that computes something else."""
PARAMETERS = {
    "cifar_torchvision_mobilenetv2_x1_0": 2_236_682,
    "cifar_torchvision_shufflenetv2_x0_5": 352_042,
    "cifar_resnet20_a": 269_722,
    "cifar_resnet32_a": 464_154,
    "cifar_resnet44_a": 658_586,
    "cifar_resnet56_a": 853_018,
    "cifar_resnet110_a": 1_727_962,
    "cifar_resnet1202_a": 19_421_274,
    "cifar_resnet20_b_fc": 272_474,
    "cifar_resnet56_b_fc": 855_770,
    "cifar_vgg16_bn_hidden": 15_253_578,
    "cifar_resnet50": 23_520_842,
    "cifar_resnet101": 42_512_970,
    "cifar_resnet152": 58_156_618,
    "cifar_densenet121": 6_956_298,
    "cifar_densenet": 1_000_618,
    "cifar_resnext29_2x64d": 9_128_778,
    "cifar_resnext29_32x4d": 4_774_218,
    "cifar_regnetx_200mf": 2_321_946,
    "cifar_regnety_400mf": 5_714_362,
    "cifar_dpn26": 11_574_842,
    "cifar_dpn92": 34_236_634,
    "cifar_shufflenet_g2": 887_582,
    "cifar_shufflenetv2_x0_5": 352_042,
    "cifar_dla": 16_291_386,
    "cifar_simple_dla": 15_142_970,
    "cifar_senet18": 11_260_354,
    "cifar_googlenet": 6_166_250,
    "cifar_mobilenet": 3_217_226,
    "cifar_mobilenetv2": 2_296_922,
    "lenet5_relu": 62_006,
}
"""As their authors count them, for 10 classes and 3 channels."""


@pytest.mark.long
@pytest.mark.parametrize("name", NAMES)
def test_the_tensors_tell_the_network_behind_a_prefix(name):
    with torch.device("meta"):
        network = CIFAR_NETWORKS[name](10, 3)
    found = recognised({f"module.{key}": tuple(tensor.shape) for key, tensor in network.state_dict().items()})
    alike = {name}
    if name.startswith("lenet5_"):  # the activation is in no tensor
        alike = {f"{name.rpartition('_')[0]}_{activation}" for activation in ACTIVATIONS}
    if name in TWINS:
        alike |= {TWINS[name]}
    assert found.prefix == ("module.",)
    assert {architecture.name for architecture in found.fitting} == alike
    assert {(architecture.classes, architecture.channels) for architecture in found.fitting} == {(10, 3)}
    parameters = sum(parameter.numel() for parameter in network.parameters())
    assert parameters == PARAMETERS.get(name, parameters)


def test_a_network_whose_size_is_checked_is_in_the_table():
    assert set(PARAMETERS) <= set(NAMES)
    assert set(PIXELS) <= set(NAMES)


@pytest.mark.parametrize("name", FAMILIES)
def test_two_images_of_its_size_have_logits_of_their_own(name):
    torch.manual_seed(0)
    network = CIFAR_NETWORKS[name](7, 3)
    size = PIXELS.get(name, 32)
    images = torch.rand(2, 3, size, size)
    for norm in (norm for norm in network.modules() if isinstance(norm, torch.nn.BatchNorm2d)):
        norm.momentum = 1.0  # fresh statistics let nothing of the images through a deep network
    with torch.no_grad():
        network(images)
    network.eval()
    with torch.no_grad():
        logits = network(images)
        alone = network(images[:1])
    assert logits.shape == (2, 7)
    assert bool(torch.isfinite(logits).all())
    assert not torch.equal(logits[0], logits[1])
    assert torch.allclose(alone, logits[:1], atol=1e-4)
