"""ResNets with a 3x3 stem and no first pooling, for 32x32 images, with the key names of checkpoints in the wild.

Architecture: He, Zhang, Ren, Sun, "Deep Residual Learning for Image Recognition", CVPR 2016, with the stem that
small images need. A 1x1 convolution and a norm on the shortcut where the size or the width changes; in a bottleneck
the 3x3 convolution has the stride.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.functional import relu

from sau_adapters.architectures.cifar_networks.staged import StagedNetwork


def shortcut(channels_in: int, channels_out: int, stride: int) -> nn.Sequential:
    """A 1x1 convolution and a norm, where the size or the width changes; else nothing."""
    if stride == 1 and channels_in == channels_out:
        return nn.Sequential()
    conv = nn.Conv2d(channels_in, channels_out, 1, stride=stride, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(channels_out))


class BasicBlock(nn.Module):
    """Conv, BN, ReLU, conv, BN, plus the shortcut, ReLU."""

    shortcut_name = "shortcut"

    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels_out)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels_out)
        self.add_module(self.shortcut_name, shortcut(channels_in, channels_out, stride))

    def forward(self, x: Tensor) -> Tensor:
        out = relu(self.bn1(self.conv1(x)))
        summed: Tensor = relu(self.bn2(self.conv2(out)) + getattr(self, self.shortcut_name)(x))
        return summed


class Bottleneck(nn.Module):
    """1x1 conv, BN, ReLU, 3x3 conv in groups, BN, ReLU, 1x1 conv, BN, plus the shortcut, ReLU.

    Args:
        width: channels of the 3x3 convolution.
        excitation: what weighs the channels after it, under the name ``se``; nothing by default.
    """

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        stride: int,
        *,
        width: int,
        groups: int = 1,
        excitation: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride=stride, padding=1, groups=groups, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.se = nn.Identity() if excitation is None else excitation
        self.conv3 = nn.Conv2d(width, channels_out, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(channels_out)
        self.shortcut = shortcut(channels_in, channels_out, stride)

    def forward(self, x: Tensor) -> Tensor:
        out = relu(self.bn1(self.conv1(x)))
        out = self.se(relu(self.bn2(self.conv2(out))))
        summed: Tensor = relu(self.bn3(self.conv3(out)) + self.shortcut(x))
        return summed


WIDTHS, EXPANSION = (64, 128, 256, 512), 4
"""Of the four stages; and how many times wider a bottleneck's output is than its inside."""
BASIC = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3)}
BOTTLENECK = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
"""By depth: how many blocks each stage has, of the one kind and of the other."""


def cifar_resnet(classes: int, channels: int, *, depth: int) -> nn.Module:
    """A ResNet with fresh weights; ResNet-18 has 11,173,962 parameters at 10 classes. H and W of 8 or more."""
    before, stages = WIDTHS[0], []
    wide = depth in BOTTLENECK
    for number, (width, count) in enumerate(zip(WIDTHS, (BOTTLENECK if wide else BASIC)[depth], strict=True)):
        after, blocks = width * (EXPANSION if wide else 1), nn.Sequential()
        for at in range(count):
            stride = 2 if at == 0 and number > 0 else 1
            blocks.append(Bottleneck(before, after, stride, width=width) if wide else BasicBlock(before, after, stride))
            before = after
        stages.append(blocks)
    stem = nn.Conv2d(channels, WIDTHS[0], 3, padding=1, bias=False)
    return StagedNetwork(stem, stages, nn.Linear(before, classes))
