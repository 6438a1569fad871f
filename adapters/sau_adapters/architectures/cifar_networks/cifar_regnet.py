"""RegNets for 32x32 images, with the key names of checkpoints in the wild.

Architecture: Radosavovic, Kosaraju, Girshick, He, Dollár, "Designing Network Design Spaces", CVPR 2020, with a 3x3
stem of 64 channels, and the first two stages at full resolution.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from sau_adapters.architectures.cifar_networks.cifar_resnet import Bottleneck
from sau_adapters.architectures.cifar_networks.excitation import Excitation
from sau_adapters.architectures.cifar_networks.staged import StagedNetwork

STEM, STRIDES, SQUEEZE = 64, (1, 1, 2, 2), 0.25


@dataclass(frozen=True, slots=True, kw_only=True)
class Design:
    """Blocks and channels of each stage, channels of a group, and whether a block weighs its channels (RegNetY)."""

    depths: tuple[int, int, int, int]
    widths: tuple[int, int, int, int]
    group_width: int
    excited: bool = False


REGNETS = {
    "regnetx_200mf": Design(depths=(1, 1, 4, 7), widths=(24, 56, 152, 368), group_width=8),
    "regnetx_400mf": Design(depths=(1, 2, 7, 12), widths=(32, 64, 160, 384), group_width=16),
    "regnety_400mf": Design(depths=(1, 2, 7, 12), widths=(32, 64, 160, 384), group_width=16, excited=True),
}


def cifar_regnet(classes: int, channels: int, *, design: Design) -> nn.Module:
    """The network with fresh weights; H and W of 4 or more."""
    before, stages = STEM, []
    for depth, width, first_stride in zip(design.depths, design.widths, STRIDES, strict=True):
        blocks = nn.Sequential()
        for at in range(depth):
            excitation = Excitation(width, round(before * SQUEEZE)) if design.excited else None
            stride, groups = first_stride if at == 0 else 1, width // design.group_width
            blocks.append(Bottleneck(before, width, stride, width=width, groups=groups, excitation=excitation))
            before = width
        stages.append(blocks)
    stem = nn.Conv2d(channels, STEM, 3, padding=1, bias=False)
    return StagedNetwork(stem, stages, nn.Linear(before, classes))
