"""ResNets with a 3x3 stem and no first pooling, for 32x32 images, with the key names of checkpoints in the wild.

Architecture: He, Zhang, Ren, Sun, "Deep Residual Learning for Image Recognition", CVPR 2016, with the stem that
small images need. A 1x1 convolution and a norm on the shortcut where the size or the width changes.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d, relu


class BasicBlock(nn.Module):
    """Conv, BN, ReLU, conv, BN, plus the shortcut, ReLU."""

    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels_out)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels_out)
        self.shortcut = nn.Sequential()
        if stride != 1 or channels_in != channels_out:
            self.shortcut = nn.Sequential(
                nn.Conv2d(channels_in, channels_out, 1, stride=stride, bias=False), nn.BatchNorm2d(channels_out)
            )

    def forward(self, x: Tensor) -> Tensor:
        out = relu(self.bn1(self.conv1(x)))
        summed: Tensor = relu(self.bn2(self.conv2(out)) + self.shortcut(x))
        return summed


class CifarResNet(nn.Module):
    """(N, C, H, W) to logits (N, K); H and W of 8 or more."""

    def __init__(self, classes: int, channels: int, *, blocks: tuple[int, int, int, int]) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, 64, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        widths = (64, 64, 128, 256, 512)
        for stage, (count, before, after) in enumerate(zip(blocks, widths[:-1], widths[1:], strict=True), start=1):
            first = BasicBlock(before, after, 1 if stage == 1 else 2)
            others = [BasicBlock(after, after, 1) for _ in range(count - 1)]
            self.add_module(f"layer{stage}", nn.Sequential(first, *others))
        self.linear = nn.Linear(512, classes)

    def forward(self, x: Tensor) -> Tensor:
        out = relu(self.bn1(self.conv1(x)))
        for stage in range(1, 5):
            out = self.get_submodule(f"layer{stage}")(out)
        logits: Tensor = self.linear(adaptive_avg_pool2d(out, 1).flatten(1))
        return logits


def cifar_resnet18(classes: int, channels: int) -> nn.Module:
    """ResNet-18 with fresh weights; 11,173,962 parameters at 10 classes."""
    return CifarResNet(classes, channels, blocks=(2, 2, 2, 2))


def cifar_resnet34(classes: int, channels: int) -> nn.Module:
    """ResNet-34 with fresh weights."""
    return CifarResNet(classes, channels, blocks=(3, 4, 6, 3))
