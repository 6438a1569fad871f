"""Squeeze and excitation: a weight for each channel, from the means of all channels.

Architecture: Hu, Shen, Sun, "Squeeze-and-Excitation Networks", CVPR 2018.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d, relu


class Excitation(nn.Module):
    """(N, C, H, W) to the same, by two 1x1 convolutions of the means that are called ``se1`` and ``se2``."""

    def __init__(self, width: int, squeezed: int, *, activation: Callable[[Tensor], Tensor] = relu) -> None:
        super().__init__()
        self.se1 = nn.Conv2d(width, squeezed, 1)
        self.se2 = nn.Conv2d(squeezed, width, 1)
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        weights = self.se2(self.activation(self.se1(adaptive_avg_pool2d(x, 1))))
        return x * torch.sigmoid(weights)
