"""MobileNets for 32x32 images, with the key names of checkpoints in the wild.

Architectures: Howard et al., "MobileNets", 2017; Sandler et al., "MobileNetV2: Inverted Residuals and Linear
Bottlenecks", CVPR 2018. Both with a 3x3 stem of stride 1; the second with ReLU, one halving less, and a convolved
shortcut where a block keeps the size and changes the width.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d, relu

from sau_adapters.architectures.cifar_networks.cifar_resnet import shortcut

STEM = 32
SEPARABLE = (
    *((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *[(512, 1)] * 5),
    *((1024, 2), (1024, 1)),
)
"""Channels and stride of each block of the first."""
INVERTED = ((1, 16, 1, 1), (6, 24, 2, 1), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
"""Expansion, channels, blocks and first stride of each stage of the second."""
LAST = 1280


class SeparableBlock(nn.Module):
    """3x3 conv of each channel, BN, ReLU, 1x1 conv, BN, ReLU."""

    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels_in, 3, stride=stride, padding=1, groups=channels_in, bias=False)
        self.bn1 = nn.BatchNorm2d(channels_in)
        self.conv2 = nn.Conv2d(channels_in, channels_out, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels_out)

    def forward(self, x: Tensor) -> Tensor:
        out = relu(self.bn1(self.conv1(x)))
        return relu(self.bn2(self.conv2(out)))


class InvertedBlock(nn.Module):
    """1x1 conv, BN, ReLU, 3x3 conv of each channel, BN, ReLU, 1x1 conv, BN; plus the shortcut at stride 1."""

    def __init__(self, channels_in: int, channels_out: int, expansion: int, stride: int) -> None:
        super().__init__()
        width = expansion * channels_in
        self.conv1 = nn.Conv2d(channels_in, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride=stride, padding=1, groups=width, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, channels_out, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(channels_out)
        self.shortcut = shortcut(channels_in, channels_out, stride) if stride == 1 else None

    def forward(self, x: Tensor) -> Tensor:
        out = relu(self.bn1(self.conv1(x)))
        out = relu(self.bn2(self.conv2(out)))
        projected: Tensor = self.bn3(self.conv3(out))
        return projected if self.shortcut is None else projected + self.shortcut(x)


class CifarMobileNet(nn.Module):
    """(N, C, H, W) to logits (N, K); H and W of 16 or more."""

    def __init__(self, classes: int, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, STEM, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(STEM)
        self.layers, before = nn.Sequential(), STEM
        for width, stride in SEPARABLE:
            self.layers.append(SeparableBlock(before, width, stride))
            before = width
        self.linear = nn.Linear(before, classes)

    def forward(self, x: Tensor) -> Tensor:
        out = self.layers(relu(self.bn1(self.conv1(x))))
        logits: Tensor = self.linear(adaptive_avg_pool2d(out, 1).flatten(1))
        return logits


class CifarMobileNetV2(nn.Module):
    """(N, C, H, W) to logits (N, K); H and W of 8 or more."""

    def __init__(self, classes: int, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, STEM, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(STEM)
        self.layers, before = nn.Sequential(), STEM
        for expansion, width, count, first_stride in INVERTED:
            for at in range(count):
                self.layers.append(InvertedBlock(before, width, expansion, first_stride if at == 0 else 1))
                before = width
        self.conv2 = nn.Conv2d(before, LAST, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(LAST)
        self.linear = nn.Linear(LAST, classes)

    def forward(self, x: Tensor) -> Tensor:
        out = self.layers(relu(self.bn1(self.conv1(x))))
        out = relu(self.bn2(self.conv2(out)))
        logits: Tensor = self.linear(adaptive_avg_pool2d(out, 1).flatten(1))
        return logits
