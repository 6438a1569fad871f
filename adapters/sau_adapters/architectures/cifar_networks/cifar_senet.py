"""SENet-18 for 32x32 images, with the key names of checkpoints in the wild.

Architecture: Hu, Shen, Sun, "Squeeze-and-Excitation Networks", CVPR 2018, on pre-activated blocks.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d, relu

from sau_adapters.architectures.cifar_networks.cifar_resnet import BASIC, WIDTHS
from sau_adapters.architectures.cifar_networks.preact_resnet import PreActBlock
from sau_adapters.architectures.cifar_networks.staged import StagedNetwork

SQUEEZE = 16
DEPTH = 18


class ExcitedPreActBlock(PreActBlock):
    """A pre-activated block whose channels are weighed before the shortcut is added."""

    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__(channels_in, channels_out, stride)
        self.fc1 = nn.Conv2d(channels_out, channels_out // SQUEEZE, 1)
        self.fc2 = nn.Conv2d(channels_out // SQUEEZE, channels_out, 1)

    def forward(self, x: Tensor) -> Tensor:
        activated = relu(self.bn1(x))
        passed = x if self.shortcut is None else self.shortcut(activated)
        out = self.conv1(activated)
        out = self.conv2(relu(self.bn2(out)))
        weights = self.fc2(relu(self.fc1(adaptive_avg_pool2d(out, 1))))
        summed: Tensor = out * torch.sigmoid(weights) + passed
        return summed


def cifar_senet18(classes: int, channels: int) -> nn.Module:
    """The network with fresh weights; H and W of 8 or more."""
    before, stages = WIDTHS[0], []
    for number, (width, count) in enumerate(zip(WIDTHS, BASIC[DEPTH], strict=True)):
        blocks = nn.Sequential()
        for at in range(count):
            blocks.append(ExcitedPreActBlock(before, width, 2 if at == 0 and number > 0 else 1))
            before = width
        stages.append(blocks)
    stem = nn.Conv2d(channels, WIDTHS[0], 3, padding=1, bias=False)
    return StagedNetwork(stem, stages, nn.Linear(before, classes))
