"""A plain convolutional network that trains in seconds, for digits and drills."""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d, max_pool2d, relu


class SmallCNN(nn.Module):
    """Two pairs of 3x3 convolutions with batch norm. (N, C, H, W) to logits (N, K); H and W of 4 or more."""

    def __init__(self, classes: int, channels: int) -> None:
        super().__init__()
        widths = (channels, 32, 32, 64, 64)
        pairs = list(pairwise(widths))
        self.conv = nn.ModuleList(nn.Conv2d(before, after, 3, padding=1, bias=False) for before, after in pairs)
        self.norm = nn.ModuleList(nn.BatchNorm2d(after) for _, after in pairs)
        self.linear = nn.Linear(64 * 4, classes)

    def forward(self, x: Tensor) -> Tensor:
        for number, (conv, norm) in enumerate(zip(self.conv, self.norm, strict=True)):
            x = relu(norm(conv(x)))
            if number == 1:
                x = max_pool2d(x, 2)
        logits: Tensor = self.linear(adaptive_avg_pool2d(x, 2).flatten(1))
        return logits


def small_cnn(classes: int, channels: int) -> nn.Module:
    """The network with fresh weights."""
    return SmallCNN(classes, channels)
