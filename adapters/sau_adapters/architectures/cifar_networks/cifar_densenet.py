"""DenseNets for 32x32 images, with the key names of checkpoints in the wild.

Architecture: Huang, Liu, van der Maaten, Weinberger, "Densely Connected Convolutional Networks", CVPR 2017, with a 3x3
stem. What a block adds stands before what it was given, not after it as in torchvision's.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d, avg_pool2d, relu

BOTTLENECK, REDUCTION = 4, 2
DENSENETS = {
    "cifar_densenet121": ((6, 12, 24, 16), 32),
    "cifar_densenet169": ((6, 12, 32, 32), 32),
    "cifar_densenet201": ((6, 12, 48, 32), 32),
    "cifar_densenet161": ((6, 12, 36, 24), 48),
    "cifar_densenet": ((6, 12, 24, 16), 12),
}
"""Blocks of each stage, and channels that each block adds."""


class DenseBlock(nn.Module):
    """BN, ReLU, 1x1 conv, BN, ReLU, 3x3 conv; the result before the input."""

    def __init__(self, channels_in: int, growth: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(channels_in)
        self.conv1 = nn.Conv2d(channels_in, BOTTLENECK * growth, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(BOTTLENECK * growth)
        self.conv2 = nn.Conv2d(BOTTLENECK * growth, growth, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        out = self.conv1(relu(self.bn1(x)))
        out = self.conv2(relu(self.bn2(out)))
        return torch.cat([out, x], dim=1)


class Transition(nn.Module):
    """BN, ReLU, 1x1 conv, the mean of every 2x2 pixels."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.bn = nn.BatchNorm2d(channels_in)
        self.conv = nn.Conv2d(channels_in, channels_out, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return avg_pool2d(self.conv(relu(self.bn(x))), 2)


class DenseNet(nn.Module):
    """(N, C, H, W) to logits (N, K); H and W of 8 or more."""

    def __init__(self, classes: int, channels: int, *, blocks: tuple[int, ...], growth: int) -> None:
        super().__init__()
        width = 2 * growth
        self.conv1 = nn.Conv2d(channels, width, 3, padding=1, bias=False)
        self.part_names: list[str] = []
        for number, count in enumerate(blocks, start=1):
            dense = nn.Sequential()
            for _ in range(count):
                dense.append(DenseBlock(width, growth))
                width += growth
            self._add(f"dense{number}", dense)
            if number < len(blocks):
                self._add(f"trans{number}", Transition(width, width // REDUCTION))
                width //= REDUCTION
        self.bn = nn.BatchNorm2d(width)
        self.linear = nn.Linear(width, classes)

    def _add(self, name: str, part: nn.Module) -> None:
        self.part_names.append(name)
        self.add_module(name, part)

    def forward(self, x: Tensor) -> Tensor:
        out = self.conv1(x)
        for name in self.part_names:
            out = self.get_submodule(name)(out)
        logits: Tensor = self.linear(adaptive_avg_pool2d(relu(self.bn(out)), 1).flatten(1))
        return logits
