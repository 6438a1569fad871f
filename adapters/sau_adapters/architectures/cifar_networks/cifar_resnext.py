"""ResNeXt-29 for 32x32 images, with the key names of checkpoints in the wild.

Architecture: Xie, Girshick, Dollár, Tu, He, "Aggregated Residual Transformations for Deep Neural Networks", CVPR 2017,
in the form that the field's repositories for CIFAR share: a 1x1 stem and outputs twice as wide as the groups.
"""

from __future__ import annotations

from torch import nn

from sau_adapters.architectures.cifar_networks.cifar_resnet import Bottleneck
from sau_adapters.architectures.cifar_networks.staged import StagedNetwork

STEM, STAGES, BLOCKS, EXPANSION = 64, 3, 3, 2


def cifar_resnext29(classes: int, channels: int, *, groups: int, group_width: int) -> nn.Module:
    """The network with fresh weights; H and W of 4 or more."""
    before, stages = STEM, []
    for number in range(STAGES):
        width, blocks = groups * group_width * 2**number, nn.Sequential()
        for at in range(BLOCKS):
            stride = 2 if at == 0 and number > 0 else 1
            blocks.append(Bottleneck(before, EXPANSION * width, stride, width=width, groups=groups))
            before = EXPANSION * width
        stages.append(blocks)
    stem = nn.Conv2d(channels, STEM, 1, bias=False)
    return StagedNetwork(stem, stages, nn.Linear(before, classes))
