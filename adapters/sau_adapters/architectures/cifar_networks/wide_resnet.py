"""WideResNets (WRN-16-1 and its family) for 32x32 images, with the key names of checkpoints in the wild.

Architecture: Zagoruyko, Komodakis, "Wide Residual Networks", BMVC 2016. Pre-activation blocks; the
1x1 shortcut takes the BN-ReLU'd input where widths differ; a final BN and ReLU.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d, relu


class WideBlock(nn.Module):
    """BN, ReLU, conv, BN, ReLU, conv, plus the shortcut."""

    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(channels_in)
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels_out)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, padding=1, bias=False)
        self.convShortcut: nn.Conv2d | None = None
        if channels_in != channels_out:
            self.convShortcut = nn.Conv2d(channels_in, channels_out, 1, stride=stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        activated = relu(self.bn1(x))
        passed = x if self.convShortcut is None else self.convShortcut(activated)
        out = self.conv1(activated)
        out = self.conv2(relu(self.bn2(out)))
        summed: Tensor = out + passed
        return summed


class WideStage(nn.Module):
    """Blocks of one width; the first may halve the resolution."""

    def __init__(self, blocks: int, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__()
        first = WideBlock(channels_in, channels_out, stride)
        others = [WideBlock(channels_out, channels_out, 1) for _ in range(blocks - 1)]
        self.layer = nn.Sequential(first, *others)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layer(x)
        return out


class WideResNet(nn.Module):
    """(N, C, H, W) to logits (N, K); depth 6n + 4, H and W of 4 or more."""

    def __init__(self, classes: int, channels: int, *, depth: int, width: int) -> None:
        super().__init__()
        blocks = (depth - 4) // 6
        self.conv1 = nn.Conv2d(channels, 16, 3, padding=1, bias=False)
        self.block1 = WideStage(blocks, 16, 16 * width, 1)
        self.block2 = WideStage(blocks, 16 * width, 32 * width, 2)
        self.block3 = WideStage(blocks, 32 * width, 64 * width, 2)
        self.bn1 = nn.BatchNorm2d(64 * width)
        self.fc = nn.Linear(64 * width, classes)

    def forward(self, x: Tensor) -> Tensor:
        out = relu(self.bn1(self.block3(self.block2(self.block1(self.conv1(x))))))
        logits: Tensor = self.fc(adaptive_avg_pool2d(out, 1).flatten(1))
        return logits
