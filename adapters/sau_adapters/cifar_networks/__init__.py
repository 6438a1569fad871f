"""Networks for small images that the field's checkpoints use and neither timm nor torchvision has.

Each is built by ``(classes, channels)`` and carries the state-dict names found in the wild.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch import nn

from sau_adapters.cifar_networks.cifar_resnet import cifar_resnet18, cifar_resnet34
from sau_adapters.cifar_networks.cifar_vgg import CONVOLUTIONS, CifarVGG
from sau_adapters.cifar_networks.preact_resnet import preact_resnet18
from sau_adapters.cifar_networks.small_cnn import small_cnn
from sau_adapters.cifar_networks.wide_resnet import WideResNet

CIFAR_NETWORKS: dict[str, Callable[[int, int], nn.Module]] = {
    "preact_resnet18": preact_resnet18,
    "cifar_resnet18": cifar_resnet18,
    "cifar_resnet34": cifar_resnet34,
    **{f"cifar_vgg{depth}_bn": partial(CifarVGG, depth=depth) for depth in CONVOLUTIONS},
    **{
        f"wrn_{depth}_{width}": partial(WideResNet, depth=depth, width=width)
        for depth in (10, 16, 22, 28, 34, 40)
        for width in (1, 2, 4, 8, 10)
    },
    "small_cnn": small_cnn,
}
