"""Networks that the field's checkpoints use and neither timm nor torchvision has, nearly all for small images.

Each is built by ``(classes, channels)`` and carries the state-dict names found in the wild.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch import nn

from sau_adapters.architectures.cifar_networks.cifar_densenet import DENSENETS, DenseNet
from sau_adapters.architectures.cifar_networks.cifar_dla import CifarDLA, SimpleTree, Tree
from sau_adapters.architectures.cifar_networks.cifar_dpn import DPNS, cifar_dpn
from sau_adapters.architectures.cifar_networks.cifar_efficientnet import CifarEfficientNet
from sau_adapters.architectures.cifar_networks.cifar_googlenet import CifarGoogLeNet
from sau_adapters.architectures.cifar_networks.cifar_mobilenet import CifarMobileNet, CifarMobileNetV2
from sau_adapters.architectures.cifar_networks.cifar_regnet import REGNETS, cifar_regnet
from sau_adapters.architectures.cifar_networks.cifar_resnet import BASIC, BOTTLENECK, cifar_resnet
from sau_adapters.architectures.cifar_networks.cifar_resnext import cifar_resnext29
from sau_adapters.architectures.cifar_networks.cifar_senet import cifar_senet18
from sau_adapters.architectures.cifar_networks.cifar_shufflenet import (
    GROUPED,
    SPLIT,
    CifarShuffleNetV2,
    cifar_shufflenet,
)
from sau_adapters.architectures.cifar_networks.cifar_torchvision import (
    MOBILENETS,
    SHUFFLENETS,
    cifar_torchvision_mobilenetv2,
    cifar_torchvision_shufflenetv2,
)
from sau_adapters.architectures.cifar_networks.cifar_vgg import CONVOLUTIONS, CifarVGG
from sau_adapters.architectures.cifar_networks.efficientnet_pytorch import SCALES, NamedEfficientNet
from sau_adapters.architectures.cifar_networks.lenet import (
    ACTIVATIONS,
    UNPADDED,
    EarlierMnistExample,
    LeNet5,
    MnistExample,
)
from sau_adapters.architectures.cifar_networks.narrow_resnet import NARROW_RESNETS
from sau_adapters.architectures.cifar_networks.preact_resnet import PreActResNet
from sau_adapters.architectures.cifar_networks.small_cnn import small_cnn
from sau_adapters.architectures.cifar_networks.wide_resnet import WideResNet

CIFAR_NETWORKS: dict[str, Callable[[int, int], nn.Module]] = {
    **{f"preact_resnet{depth}": partial(PreActResNet, depth=depth) for depth in (*BASIC, *BOTTLENECK)},
    **{
        f"preact_resnet{depth}_bn": partial(PreActResNet, depth=depth, final_norm=True)
        for depth in (*BASIC, *BOTTLENECK)
    },
    **{f"cifar_resnet{depth}": partial(cifar_resnet, depth=depth) for depth in (*BASIC, *BOTTLENECK)},
    **NARROW_RESNETS,
    **{f"cifar_vgg{depth}_bn": partial(CifarVGG, depth=depth) for depth in CONVOLUTIONS},
    **{f"cifar_vgg{depth}_bn_hidden": partial(CifarVGG, depth=depth, hidden=True) for depth in CONVOLUTIONS},
    **{
        f"wrn_{depth}_{width}": partial(WideResNet, depth=depth, width=width)
        for depth in (10, 16, 22, 28, 34, 40)
        for width in (1, 2, 4, 8, 10)
    },
    **{name: partial(DenseNet, blocks=blocks, growth=growth) for name, (blocks, growth) in DENSENETS.items()},
    **{
        f"cifar_resnext29_{groups}x{width}d": partial(cifar_resnext29, groups=groups, group_width=width)
        for groups, width in ((2, 64), (4, 64), (8, 64), (32, 4))
    },
    **{f"cifar_{name}": partial(cifar_regnet, design=design) for name, design in REGNETS.items()},
    **{f"cifar_dpn{depth}": partial(cifar_dpn, depth=depth) for depth in DPNS},
    **{f"cifar_shufflenet_g{groups}": partial(cifar_shufflenet, groups=groups) for groups in GROUPED},
    **{f"cifar_shufflenetv2_{size}": partial(CifarShuffleNetV2, size=size) for size in SPLIT},
    **{
        f"cifar_torchvision_mobilenetv2_{size}": partial(cifar_torchvision_mobilenetv2, size=size)
        for size in MOBILENETS
    },
    **{
        f"cifar_torchvision_shufflenetv2_{size}": partial(cifar_torchvision_shufflenetv2, size=size)
        for size in SHUFFLENETS
    },
    "cifar_dla": partial(CifarDLA, tree=Tree),
    "cifar_simple_dla": partial(CifarDLA, tree=SimpleTree),
    "cifar_senet18": cifar_senet18,
    "cifar_googlenet": CifarGoogLeNet,
    "cifar_mobilenet": CifarMobileNet,
    "cifar_mobilenetv2": CifarMobileNetV2,
    "cifar_efficientnet_b0": CifarEfficientNet,
    **{f"efficientnet_pytorch_{name}": partial(NamedEfficientNet, scale=scale) for name, scale in SCALES.items()},
    **{f"lenet5_{activation}": partial(LeNet5, activation=activation) for activation in ACTIVATIONS},
    **{
        f"lenet5_{UNPADDED}_{activation}": partial(LeNet5, activation=activation, pixels=UNPADDED)
        for activation in ACTIVATIONS
    },
    "mnist_example": MnistExample,
    "mnist_example_2018": partial(EarlierMnistExample, widths=(20, 50, 500), drops=False),
    "mnist_example_2017": partial(EarlierMnistExample, widths=(10, 20, 50), drops=True),
    "small_cnn": small_cnn,
}

PIXELS = {
    **{name: UNPADDED for name in CIFAR_NETWORKS if name.startswith((f"lenet5_{UNPADDED}_", "mnist_example"))},
    **{f"efficientnet_pytorch_{name}": scale.pixels for name, scale in SCALES.items()},
}
"""On a side, of the images that a network is made for, where these are not 32."""
