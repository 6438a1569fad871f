"""Networks for small images that the field's checkpoints use and neither timm nor torchvision has.

Each is built by ``(classes, channels)`` and carries the state-dict names found in the wild.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from sau_adapters.cifar_networks.preact_resnet import preact_resnet18
from sau_adapters.cifar_networks.small_cnn import small_cnn
from sau_adapters.cifar_networks.wide_resnet import wrn_16_1

CIFAR_NETWORKS: dict[str, Callable[[int, int], nn.Module]] = {
    "preact_resnet18": preact_resnet18,
    "wrn_16_1": wrn_16_1,
    "small_cnn": small_cnn,
}
