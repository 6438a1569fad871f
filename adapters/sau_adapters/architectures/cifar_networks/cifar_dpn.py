"""Dual path networks for 32x32 images, with the key names of checkpoints in the wild.

Architecture: Chen, Li, Xiao, Jin, Yan, Feng, "Dual Path Networks", NeurIPS 2017, with a 3x3 stem of 64 channels.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import relu

from sau_adapters.architectures.cifar_networks.staged import StagedNetwork

STEM, GROUPS = 64, 32
INNER, SUMMED, GROWTH = (96, 192, 384, 768), (256, 512, 1024, 2048), (16, 32, 24, 128)
"""Of each stage: channels of the 3x3 convolution, channels that are summed, and channels that each block adds."""
DPNS = {26: (2, 2, 2, 2), 92: (3, 4, 20, 3)}
"""By depth: how many blocks each stage has."""


class DualPathBlock(nn.Module):
    """A bottleneck whose first channels are summed with the shortcut's, and whose last are put after them; ReLU."""

    def __init__(
        self, channels_in: int, inner: int, summed: int, growth: int, stride: int, *, convolved_shortcut: bool
    ) -> None:
        super().__init__()
        self.summed = summed
        self.conv1 = nn.Conv2d(channels_in, inner, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(inner)
        self.conv2 = nn.Conv2d(inner, inner, 3, stride=stride, padding=1, groups=GROUPS, bias=False)
        self.bn2 = nn.BatchNorm2d(inner)
        self.conv3 = nn.Conv2d(inner, summed + growth, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(summed + growth)
        self.shortcut = nn.Sequential()
        if convolved_shortcut:
            self.shortcut = nn.Sequential(
                nn.Conv2d(channels_in, summed + growth, 1, stride=stride, bias=False), nn.BatchNorm2d(summed + growth)
            )

    def forward(self, x: Tensor) -> Tensor:
        out = relu(self.bn1(self.conv1(x)))
        out = relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        passed, at = self.shortcut(x), self.summed
        return relu(torch.cat([passed[:, :at] + out[:, :at], passed[:, at:], out[:, at:]], dim=1))


def cifar_dpn(classes: int, channels: int, *, depth: int) -> nn.Module:
    """The network with fresh weights; H and W of 8 or more."""
    before, stages = STEM, []
    for number, (count, inner, summed, growth) in enumerate(zip(DPNS[depth], INNER, SUMMED, GROWTH, strict=True)):
        blocks = nn.Sequential()
        for at in range(count):
            stride = 2 if at == 0 and number > 0 else 1
            blocks.append(DualPathBlock(before, inner, summed, growth, stride, convolved_shortcut=at == 0))
            before = summed + (at + 2) * growth
        stages.append(blocks)
    stem = nn.Conv2d(channels, STEM, 3, padding=1, bias=False)
    return StagedNetwork(stem, stages, nn.Linear(before, classes))
