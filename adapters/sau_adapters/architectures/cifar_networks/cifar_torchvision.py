"""Torchvision's MobileNetV2 and ShuffleNetV2 at the strides that 32x32 images need.

Published checkpoints for CIFAR have exactly the tensors of torchvision's networks and compute something else: a stem of
stride 1, and one halving less after it. The tensors cannot tell, so a file without a description fits both.
"""

from __future__ import annotations

from typing import cast

from torch import nn
from torchvision import models

MOBILENETS = {"x0_5": 0.5, "x0_75": 0.75, "x1_0": 1.0, "x1_4": 1.4}
"""By size: how many times wider than the original."""
SHUFFLENETS = ("x0_5", "x1_0", "x1_5", "x2_0")


def cifar_torchvision_mobilenetv2(classes: int, channels: int, *, size: str) -> nn.Module:
    """(N, C, H, W) to logits (N, K), with fresh weights; H and W of 8 or more."""
    network = models.mobilenet_v2(num_classes=classes, width_mult=MOBILENETS[size])
    stem, *blocks = cast("nn.Sequential", network.features)
    stem = cast("nn.Sequential", stem)
    stem[0] = of_stride_1(cast("nn.Conv2d", stem[0]), channels)
    convolutions = [part for block in blocks for part in block.modules() if isinstance(part, nn.Conv2d)]
    first_halving = next(convolution for convolution in convolutions if convolution.stride != (1, 1))
    first_halving.stride = (1, 1)
    made: nn.Module = network
    return made


def cifar_torchvision_shufflenetv2(classes: int, channels: int, *, size: str) -> nn.Module:
    """(N, C, H, W) to logits (N, K), with fresh weights; H and W of 8 or more."""
    network = models.get_model(f"shufflenet_v2_{size}", weights=None, num_classes=classes)
    stem = cast("nn.Sequential", network.conv1)
    stem[0] = of_stride_1(cast("nn.Conv2d", stem[0]), channels)
    network.maxpool = nn.Identity()
    made: nn.Module = network
    return made


def of_stride_1(stem: nn.Conv2d, channels: int) -> nn.Conv2d:
    """A 3x3 stem as wide as this one, for images of so many channels."""
    return nn.Conv2d(channels, stem.out_channels, 3, padding=1, bias=False)
