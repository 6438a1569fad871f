"""EfficientNet-B0 for 32x32 images, with the key names of checkpoints in the wild.

Architecture: Tan, Le, "EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks", ICML 2019, with a 3x3
stem of stride 1 and no convolution after the blocks. The first block has weights for an expansion that it does not use.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d, dropout, silu

from sau_adapters.architectures.cifar_networks.excitation import Excitation

STEM, SQUEEZE, DROPOUT = 32, 4, 0.2
STAGES = (
    *((1, 16, 1, 3, 1), (6, 24, 2, 3, 2), (6, 40, 2, 5, 2), (6, 80, 3, 3, 2)),
    *((6, 112, 3, 5, 1), (6, 192, 4, 5, 2), (6, 320, 1, 3, 1)),
)
"""Expansion, channels, blocks, kernel size and first stride of each."""


class ExcitedInvertedBlock(nn.Module):
    """1x1 conv, BN, swish, conv of each channel, BN, swish, excitation, 1x1 conv, BN; plus the input if it fits."""

    def __init__(self, channels_in: int, channels_out: int, expansion: int, kernel: int, stride: int) -> None:
        super().__init__()
        width = expansion * channels_in
        self.expands = expansion > 1
        self.adds_input = stride == 1 and channels_in == channels_out
        self.conv1 = nn.Conv2d(channels_in, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, kernel, stride=stride, padding=kernel // 2, groups=width, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.se = Excitation(width, channels_in // SQUEEZE, activation=silu)
        self.conv3 = nn.Conv2d(width, channels_out, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(channels_out)

    def forward(self, x: Tensor) -> Tensor:
        out = silu(self.bn1(self.conv1(x))) if self.expands else x
        out = self.se(silu(self.bn2(self.conv2(out))))
        projected: Tensor = self.bn3(self.conv3(out))
        return projected + x if self.adds_input else projected


class CifarEfficientNet(nn.Module):
    """(N, C, H, W) to logits (N, K); H and W of 16 or more."""

    def __init__(self, classes: int, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, STEM, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(STEM)
        self.layers, before = nn.Sequential(), STEM
        for expansion, width, count, kernel, first_stride in STAGES:
            for at in range(count):
                stride = first_stride if at == 0 else 1
                self.layers.append(ExcitedInvertedBlock(before, width, expansion, kernel, stride))
                before = width
        self.linear = nn.Linear(before, classes)

    def forward(self, x: Tensor) -> Tensor:
        out = self.layers(silu(self.bn1(self.conv1(x))))
        pooled = dropout(adaptive_avg_pool2d(out, 1).flatten(1), DROPOUT, training=self.training)
        logits: Tensor = self.linear(pooled)
        return logits
