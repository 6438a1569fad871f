"""EfficientNets B0 to B8 with the key names of the package ``efficientnet_pytorch``, whose checkpoints are widespread.

Architecture: Tan, Le, "EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks", ICML 2019. As in that
package, borders are those that TensorFlow gives images of the network's own size, whatever the size of the images is:
at that size the network computes what timm's ``tf_efficientnet_b0`` and so on compute, at others not always.
Without drop connect, which only acts in training.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d, dropout, pad, silu

STEM, HEAD, SQUEEZE = 32, 1280, 4
DIVISOR, LEAST_KEPT = 8, 0.9
"""Widths are multiples of this, and rounding keeps at least this share of them."""
EPS, MOMENTUM = 1e-3, 0.01
STAGES = (
    *((1, 16, 1, 3, 1), (6, 24, 2, 3, 2), (6, 40, 2, 5, 2), (6, 80, 3, 3, 2)),
    *((6, 112, 3, 5, 1), (6, 192, 4, 5, 2), (6, 320, 1, 3, 1)),
)
"""Of B0: expansion, channels, blocks, kernel size and first stride of each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """How many times wider and deeper than B0, for which images (pixels on a side), with which dropout."""

    width: float
    depth: float
    pixels: int
    dropout: float

    def channels(self, of_b0: int) -> int:
        """A width of B0, scaled and rounded."""
        wanted = of_b0 * self.width
        rounded = max(DIVISOR, int(wanted + DIVISOR / 2) // DIVISOR * DIVISOR)
        return rounded if rounded >= LEAST_KEPT * wanted else rounded + DIVISOR


SCALES = {
    "b0": Scale(width=1.0, depth=1.0, pixels=224, dropout=0.2),
    "b1": Scale(width=1.0, depth=1.1, pixels=240, dropout=0.2),
    "b2": Scale(width=1.1, depth=1.2, pixels=260, dropout=0.3),
    "b3": Scale(width=1.2, depth=1.4, pixels=300, dropout=0.3),
    "b4": Scale(width=1.4, depth=1.8, pixels=380, dropout=0.4),
    "b5": Scale(width=1.6, depth=2.2, pixels=456, dropout=0.4),
    "b6": Scale(width=1.8, depth=2.6, pixels=528, dropout=0.5),
    "b7": Scale(width=2.0, depth=3.1, pixels=600, dropout=0.5),
    "b8": Scale(width=2.2, depth=3.6, pixels=672, dropout=0.5),
}


class BorderedConv(nn.Conv2d):
    """A convolution of images with TensorFlow's border for one size: the odd pixel of it on the right and below.

    Args:
        pixels: on a side, of the images whose border it is.
    """

    def __init__(self, before: int, after: int, kernel: int, *, stride: int, pixels: int, groups: int = 1) -> None:
        super().__init__(before, after, kernel, stride=stride, groups=groups, bias=False)
        border = max((math.ceil(pixels / stride) - 1) * stride + kernel - pixels, 0)
        self.border = (border // 2, border - border // 2) * 2

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(pad(x, self.border))


class Block(nn.Module):
    """1x1 conv, BN, swish, conv of each channel, BN, swish, excitation, 1x1 conv, BN; plus the input if it fits."""

    def __init__(self, before: int, after: int, expansion: int, kernel: int, stride: int, pixels: int) -> None:
        super().__init__()
        width, squeezed = before * expansion, before // SQUEEZE
        self.adds_input = stride == 1 and before == after
        self._expand_conv = nn.Conv2d(before, width, 1, bias=False) if expansion > 1 else None
        self._bn0 = norm(width) if expansion > 1 else None
        self._depthwise_conv = BorderedConv(width, width, kernel, stride=stride, pixels=pixels, groups=width)
        self._bn1 = norm(width)
        self._se_reduce = nn.Conv2d(width, squeezed, 1)
        self._se_expand = nn.Conv2d(squeezed, width, 1)
        self._project_conv = nn.Conv2d(width, after, 1, bias=False)
        self._bn2 = norm(after)

    def forward(self, x: Tensor) -> Tensor:
        out = x
        if self._expand_conv is not None and self._bn0 is not None:
            out = silu(self._bn0(self._expand_conv(out)))
        out = silu(self._bn1(self._depthwise_conv(out)))
        weights = self._se_expand(silu(self._se_reduce(adaptive_avg_pool2d(out, 1))))
        projected: Tensor = self._bn2(self._project_conv(out * torch.sigmoid(weights)))
        return projected + x if self.adds_input else projected


class NamedEfficientNet(nn.Module):
    """(N, C, H, W) to logits (N, K); H and W of 32 or more."""

    def __init__(self, classes: int, channels: int, *, scale: Scale) -> None:
        super().__init__()
        before, pixels = scale.channels(STEM), scale.pixels
        self._conv_stem = BorderedConv(channels, before, 3, stride=2, pixels=pixels)
        self._bn0 = norm(before)
        pixels = math.ceil(pixels / 2)
        self._blocks = nn.ModuleList()
        for expansion, width, count, kernel, first_stride in STAGES:
            for at in range(math.ceil(scale.depth * count)):
                after, stride = scale.channels(width), first_stride if at == 0 else 1
                self._blocks.append(Block(before, after, expansion, kernel, stride, pixels))
                before, pixels = after, math.ceil(pixels / stride)
        self._conv_head = nn.Conv2d(before, scale.channels(HEAD), 1, bias=False)
        self._bn1 = norm(scale.channels(HEAD))
        self._fc = nn.Linear(scale.channels(HEAD), classes)
        self.dropout = scale.dropout

    def forward(self, x: Tensor) -> Tensor:
        out = silu(self._bn0(self._conv_stem(x)))
        for block in self._blocks:
            out = block(out)
        out = silu(self._bn1(self._conv_head(out)))
        pooled = dropout(adaptive_avg_pool2d(out, 1).flatten(1), self.dropout, training=self.training)
        logits: Tensor = self._fc(pooled)
        return logits


def norm(width: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(width, eps=EPS, momentum=MOMENTUM)
