"""PreAct-ResNet18 for 32x32 images, with the key names of checkpoints in the wild.

Architecture: He, Zhang, Ren, Sun, "Identity Mappings in Deep Residual Networks", ECCV 2016, in the
form that backdoor benchmarks train: 3x3 stem, no final norm. 11,171,146 parameters at 10 classes.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d, relu


class PreActBlock(nn.Module):
    """BN, ReLU, conv, BN, ReLU, conv, plus the shortcut; a convolved shortcut takes the pre-activated input."""

    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(channels_in)
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels_out)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, padding=1, bias=False)
        self.shortcut: nn.Sequential | None = None
        if stride != 1 or channels_in != channels_out:
            self.shortcut = nn.Sequential(nn.Conv2d(channels_in, channels_out, 1, stride=stride, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        activated = relu(self.bn1(x))
        passed = x if self.shortcut is None else self.shortcut(activated)
        out = self.conv1(activated)
        out = self.conv2(relu(self.bn2(out)))
        summed: Tensor = out + passed
        return summed


class PreActResNet18(nn.Module):
    """(N, C, H, W) to logits (N, K); H and W of 8 or more."""

    def __init__(self, classes: int, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, 64, 3, padding=1, bias=False)
        self.layer1 = nn.Sequential(PreActBlock(64, 64, 1), PreActBlock(64, 64, 1))
        self.layer2 = nn.Sequential(PreActBlock(64, 128, 2), PreActBlock(128, 128, 1))
        self.layer3 = nn.Sequential(PreActBlock(128, 256, 2), PreActBlock(256, 256, 1))
        self.layer4 = nn.Sequential(PreActBlock(256, 512, 2), PreActBlock(512, 512, 1))
        self.linear = nn.Linear(512, classes)

    def forward(self, x: Tensor) -> Tensor:
        out = self.layer4(self.layer3(self.layer2(self.layer1(self.conv1(x)))))
        logits: Tensor = self.linear(adaptive_avg_pool2d(out, 1).flatten(1))
        return logits


def preact_resnet18(classes: int, channels: int) -> nn.Module:
    """The network with fresh weights."""
    return PreActResNet18(classes, channels)
