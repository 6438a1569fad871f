"""GoogLeNet with batch norm for 32x32 images, with the key names of checkpoints in the wild.

Architecture: Szegedy et al., "Going Deeper with Convolutions", CVPR 2015, with one 3x3 convolution before the inception
modules, two 3x3 convolutions for each 5x5, and no auxiliary heads.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d, max_pool2d

STEM = 192
MODULES = {
    "a3": (64, 96, 128, 16, 32, 32),
    "b3": (128, 128, 192, 32, 96, 64),
    "a4": (192, 96, 208, 16, 48, 64),
    "b4": (160, 112, 224, 24, 64, 64),
    "c4": (128, 128, 256, 24, 64, 64),
    "d4": (112, 144, 288, 32, 64, 64),
    "e4": (256, 160, 320, 32, 128, 128),
    "a5": (256, 160, 320, 32, 128, 128),
    "b5": (384, 192, 384, 48, 128, 128),
}
"""Channels of each module: of the 1x1 branch; of the 3x3 branch, reduced and out; of the 5x5 branch, reduced and out;
of the pooled branch."""
POOLED_BEFORE = ("a4", "a5")


def convolved(channels_in: int, channels_out: int, size: int) -> list[nn.Module]:
    """Conv with bias, BN, ReLU; the resolution stays."""
    conv = nn.Conv2d(channels_in, channels_out, size, padding=size // 2)
    return [conv, nn.BatchNorm2d(channels_out), nn.ReLU()]


class Inception(nn.Module):
    """Four branches beside one another, called ``b1`` to ``b4``."""

    def __init__(self, channels_in: int, widths: tuple[int, int, int, int, int, int]) -> None:
        super().__init__()
        one, three_reduced, three, five_reduced, five, pooled = widths
        self.b1 = nn.Sequential(*convolved(channels_in, one, 1))
        self.b2 = nn.Sequential(*convolved(channels_in, three_reduced, 1), *convolved(three_reduced, three, 3))
        self.b3 = nn.Sequential(
            *convolved(channels_in, five_reduced, 1), *convolved(five_reduced, five, 3), *convolved(five, five, 3)
        )
        self.b4 = nn.Sequential(nn.MaxPool2d(3, stride=1, padding=1), *convolved(channels_in, pooled, 1))
        self.channels_out = one + three + five + pooled

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.b1(x), self.b2(x), self.b3(x), self.b4(x)], dim=1)


class CifarGoogLeNet(nn.Module):
    """(N, C, H, W) to logits (N, K); H and W of 4 or more."""

    def __init__(self, classes: int, channels: int) -> None:
        super().__init__()
        self.pre_layers = nn.Sequential(*convolved(channels, STEM, 3))
        before = STEM
        for name, widths in MODULES.items():
            module = Inception(before, widths)
            self.add_module(name, module)
            before = module.channels_out
        self.linear = nn.Linear(before, classes)

    def forward(self, x: Tensor) -> Tensor:
        out = self.pre_layers(x)
        for name in MODULES:
            if name in POOLED_BEFORE:
                out = max_pool2d(out, 3, stride=2, padding=1)
            out = self.get_submodule(name)(out)
        logits: Tensor = self.linear(adaptive_avg_pool2d(out, 1).flatten(1))
        return logits
