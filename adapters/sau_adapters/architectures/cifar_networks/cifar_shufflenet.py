"""ShuffleNets for 32x32 images, with the key names of checkpoints in the wild.

Architectures: Zhang, Zhou, Lin, Sun, "ShuffleNet", CVPR 2018, with a 1x1 stem; Ma, Zhang, Zheng, Sun, "ShuffleNet V2",
ECCV 2018, with a 3x3 stem. Neither stem halves the resolution.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d, avg_pool2d, relu

from sau_adapters.architectures.cifar_networks.staged import StagedNetwork

STEM, SQUEEZE = 24, 4
BLOCKS = (4, 8, 4)
"""Of each stage, in both."""
GROUPED = {2: (200, 400, 800), 3: (240, 480, 960)}
"""By groups: channels of each stage of the first."""
SPLIT = {
    "x0_5": (48, 96, 192, 1024),
    "x1_0": (116, 232, 464, 1024),
    "x1_5": (176, 352, 704, 1024),
    "x2_0": (224, 488, 976, 2048),
}
"""By size: channels of each stage of the second, and of its last convolution."""


def shuffled(x: Tensor, groups: int) -> Tensor:
    """The channels of each group dealt out in turn: (N, C, H, W) to the same."""
    apart: Tensor = x.unflatten(1, (groups, -1))
    return apart.transpose(1, 2).flatten(1, 2)


class GroupedBlock(nn.Module):
    """1x1 conv in groups, BN, ReLU, shuffle, 3x3 conv of each channel, BN, ReLU, 1x1 conv in groups, BN; then ReLU.

    At stride 1 the input is added before the last ReLU; at stride 2 its means are put after the result.
    """

    def __init__(self, channels_in: int, channels_out: int, stride: int, groups: int) -> None:
        super().__init__()
        self.stride = stride
        convolved = channels_out - channels_in if stride == 2 else channels_out
        width = convolved // SQUEEZE
        self.first_groups = 1 if channels_in == STEM else groups
        self.conv1 = nn.Conv2d(channels_in, width, 1, groups=self.first_groups, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride=stride, padding=1, groups=width, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, convolved, 1, groups=groups, bias=False)
        self.bn3 = nn.BatchNorm2d(convolved)

    def forward(self, x: Tensor) -> Tensor:
        out = shuffled(relu(self.bn1(self.conv1(x))), self.first_groups)
        out = relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        if self.stride == 1:
            return relu(out + x)
        return relu(torch.cat([out, avg_pool2d(x, 3, stride=2, padding=1)], dim=1))


def cifar_shufflenet(classes: int, channels: int, *, groups: int) -> nn.Module:
    """The first ShuffleNet with fresh weights; H and W of 8 or more."""
    before, stages = STEM, []
    for width, count in zip(GROUPED[groups], BLOCKS, strict=True):
        blocks = nn.Sequential()
        for at in range(count):
            blocks.append(GroupedBlock(before, width, 2 if at == 0 else 1, groups))
            before = width
        stages.append(blocks)
    stem = nn.Conv2d(channels, STEM, 1, bias=False)
    return StagedNetwork(stem, stages, nn.Linear(before, classes))


class SplitBlock(nn.Module):
    """The first half of the channels as they are; of the second 1x1, 3x3 and 1x1 convolutions; shuffle."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        half = channels // 2
        self.conv1 = nn.Conv2d(half, half, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(half)
        self.conv2 = nn.Conv2d(half, half, 3, padding=1, groups=half, bias=False)
        self.bn2 = nn.BatchNorm2d(half)
        self.conv3 = nn.Conv2d(half, half, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(half)

    def forward(self, x: Tensor) -> Tensor:
        kept, out = x.chunk(2, dim=1)
        out = relu(self.bn1(self.conv1(out)))
        out = self.bn2(self.conv2(out))
        out = relu(self.bn3(self.conv3(out)))
        return shuffled(torch.cat([kept, out], dim=1), 2)


class HalvingBlock(nn.Module):
    """Half the resolution: 3x3 and 1x1 convolutions beside 1x1, 3x3 and 1x1, both of all channels; shuffle."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        half = channels_out // 2
        self.conv1 = nn.Conv2d(channels_in, channels_in, 3, stride=2, padding=1, groups=channels_in, bias=False)
        self.bn1 = nn.BatchNorm2d(channels_in)
        self.conv2 = nn.Conv2d(channels_in, half, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(half)
        self.conv3 = nn.Conv2d(channels_in, half, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(half)
        self.conv4 = nn.Conv2d(half, half, 3, stride=2, padding=1, groups=half, bias=False)
        self.bn4 = nn.BatchNorm2d(half)
        self.conv5 = nn.Conv2d(half, half, 1, bias=False)
        self.bn5 = nn.BatchNorm2d(half)

    def forward(self, x: Tensor) -> Tensor:
        left = self.bn1(self.conv1(x))
        left = relu(self.bn2(self.conv2(left)))
        right = relu(self.bn3(self.conv3(x)))
        right = self.bn4(self.conv4(right))
        right = relu(self.bn5(self.conv5(right)))
        return shuffled(torch.cat([left, right], dim=1), 2)


class CifarShuffleNetV2(nn.Module):
    """(N, C, H, W) to logits (N, K); H and W of 8 or more."""

    def __init__(self, classes: int, channels: int, *, size: str) -> None:
        super().__init__()
        *widths, last = SPLIT[size]
        self.conv1 = nn.Conv2d(channels, STEM, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(STEM)
        before = STEM
        for number, (width, count) in enumerate(zip(widths, BLOCKS, strict=True), start=1):
            stage = nn.Sequential(HalvingBlock(before, width), *(SplitBlock(width) for _ in range(count - 1)))
            self.add_module(f"layer{number}", stage)
            before = width
        self.conv2 = nn.Conv2d(before, last, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(last)
        self.linear = nn.Linear(last, classes)

    def forward(self, x: Tensor) -> Tensor:
        out = relu(self.bn1(self.conv1(x)))
        for number in range(1, len(BLOCKS) + 1):
            out = self.get_submodule(f"layer{number}")(out)
        out = relu(self.bn2(self.conv2(out)))
        logits: Tensor = self.linear(adaptive_avg_pool2d(out, 1).flatten(1))
        return logits
