"""Networks of deep layer aggregation for 32x32 images, with the key names of checkpoints in the wild.

Architecture: Yu, Wang, Shelhamer, Darrell, "Deep Layer Aggregation", CVPR 2018, and a simpler form of it that the
field's repositories for CIFAR train as well.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d, relu

from sau_adapters.architectures.cifar_networks.cifar_resnet import BasicBlock

STEM = (16, 16, 32)
"""Channels of the three convolutions before the trees."""
TREES = ((64, 1, 1), (128, 2, 2), (256, 2, 2), (512, 1, 2))
"""Channels, levels and stride of each tree."""


class Root(nn.Module):
    """What several nodes made, together: 1x1 conv, BN, ReLU."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels_in, channels_out, 1, bias=False)
        self.bn = nn.BatchNorm2d(channels_out)

    def forward(self, *nodes: Tensor) -> Tensor:
        return relu(self.bn(self.conv(torch.cat(nodes, dim=1))))


class Tree(nn.Module):
    """Two blocks one after another, and a root over both; above level 1, after smaller trees and beside one block more.

    The root of a higher level takes what that block makes of the input, each smaller tree's result, and the two.
    """

    def __init__(self, channels_in: int, channels_out: int, levels: int, stride: int) -> None:
        super().__init__()
        self.prev_root: BasicBlock | None = None
        self.subtree_names = [f"level_{level}" for level in reversed(range(1, levels))]
        nodes = 2
        if levels > 1:
            self.prev_root = BasicBlock(channels_in, channels_out, stride)
            nodes += 1 + len(self.subtree_names)
        for level, name in zip(reversed(range(1, levels)), self.subtree_names, strict=True):
            self.add_module(name, Tree(channels_in, channels_out, level, stride))
            channels_in, stride = channels_out, 1
        self.left_node = BasicBlock(channels_in, channels_out, stride)
        self.right_node = BasicBlock(channels_out, channels_out, 1)
        self.root = Root(nodes * channels_out, channels_out)

    def forward(self, x: Tensor) -> Tensor:
        nodes = [] if self.prev_root is None else [self.prev_root(x)]
        for name in self.subtree_names:
            x = self.get_submodule(name)(x)
            nodes.append(x)
        left = self.left_node(x)
        joined: Tensor = self.root(*nodes, left, self.right_node(left))
        return joined


class SimpleTree(nn.Module):
    """Two blocks one after another, or two trees of a level less, and a root over both."""

    def __init__(self, channels_in: int, channels_out: int, levels: int, stride: int) -> None:
        super().__init__()
        self.root = Root(2 * channels_out, channels_out)
        self.left_tree: nn.Module
        self.right_tree: nn.Module
        if levels == 1:
            self.left_tree = BasicBlock(channels_in, channels_out, stride)
            self.right_tree = BasicBlock(channels_out, channels_out, 1)
        else:
            self.left_tree = SimpleTree(channels_in, channels_out, levels - 1, stride)
            self.right_tree = SimpleTree(channels_out, channels_out, levels - 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        left = self.left_tree(x)
        joined: Tensor = self.root(left, self.right_tree(left))
        return joined


class CifarDLA(nn.Module):
    """(N, C, H, W) to logits (N, K); H and W of 8 or more."""

    def __init__(self, classes: int, channels: int, *, tree: Callable[[int, int, int, int], nn.Module]) -> None:
        super().__init__()
        self.part_names: list[str] = []
        for number, width in enumerate(STEM):
            conv = nn.Conv2d(channels, width, 3, padding=1, bias=False)
            self._add(f"layer{number}" if number else "base", nn.Sequential(conv, nn.BatchNorm2d(width), nn.ReLU()))
            channels = width
        for number, (width, levels, stride) in enumerate(TREES, start=len(STEM)):
            self._add(f"layer{number}", tree(channels, width, levels, stride))
            channels = width
        self.linear = nn.Linear(channels, classes)

    def _add(self, name: str, part: nn.Module) -> None:
        self.part_names.append(name)
        self.add_module(name, part)

    def forward(self, x: Tensor) -> Tensor:
        for name in self.part_names:
            x = self.get_submodule(name)(x)
        logits: Tensor = self.linear(adaptive_avg_pool2d(x, 1).flatten(1))
        return logits
