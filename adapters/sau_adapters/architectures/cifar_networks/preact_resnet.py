"""PreAct-ResNets for 32x32 images, with the key names of checkpoints in the wild.

Architecture: He, Zhang, Ren, Sun, "Identity Mappings in Deep Residual Networks", ECCV 2016, with a 3x3 stem, in two
forms: without a final norm, as backdoor benchmarks train it, and with one called ``bn``, as adversarial training does.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d, relu

from sau_adapters.architectures.cifar_networks.cifar_resnet import BASIC, BOTTLENECK, EXPANSION, WIDTHS


def plain_shortcut(channels_in: int, channels_out: int, stride: int) -> nn.Sequential | None:
    """A 1x1 convolution where the size or the width changes; else None."""
    if stride == 1 and channels_in == channels_out:
        return None
    return nn.Sequential(nn.Conv2d(channels_in, channels_out, 1, stride=stride, bias=False))


class PreActBlock(nn.Module):
    """BN, ReLU, conv, BN, ReLU, conv, plus the shortcut; a convolved shortcut takes the pre-activated input."""

    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(channels_in)
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels_out)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, padding=1, bias=False)
        self.shortcut = plain_shortcut(channels_in, channels_out, stride)

    def forward(self, x: Tensor) -> Tensor:
        activated = relu(self.bn1(x))
        passed = x if self.shortcut is None else self.shortcut(activated)
        out = self.conv1(activated)
        out = self.conv2(relu(self.bn2(out)))
        summed: Tensor = out + passed
        return summed


class PreActBottleneck(nn.Module):
    """BN, ReLU, 1x1 conv, BN, ReLU, 3x3 conv, BN, ReLU, 1x1 conv, plus the shortcut, as in :class:`PreActBlock`."""

    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__()
        width = channels_out // EXPANSION
        self.bn1 = nn.BatchNorm2d(channels_in)
        self.conv1 = nn.Conv2d(channels_in, width, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride=stride, padding=1, bias=False)
        self.bn3 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, channels_out, 1, bias=False)
        self.shortcut = plain_shortcut(channels_in, channels_out, stride)

    def forward(self, x: Tensor) -> Tensor:
        activated = relu(self.bn1(x))
        passed = x if self.shortcut is None else self.shortcut(activated)
        out = self.conv1(activated)
        out = self.conv2(relu(self.bn2(out)))
        out = self.conv3(relu(self.bn3(out)))
        summed: Tensor = out + passed
        return summed


class PreActResNet(nn.Module):
    """(N, C, H, W) to logits (N, K); H and W of 8 or more. At depth 18, 11,171,146 parameters at 10 classes."""

    def __init__(self, classes: int, channels: int, *, depth: int, final_norm: bool = False) -> None:
        super().__init__()
        block, expansion = (PreActBottleneck, EXPANSION) if depth in BOTTLENECK else (PreActBlock, 1)
        self.conv1 = nn.Conv2d(channels, WIDTHS[0], 3, padding=1, bias=False)
        before = WIDTHS[0]
        self.stage_names = []
        for number, (width, count) in enumerate(zip(WIDTHS, (BASIC | BOTTLENECK)[depth], strict=True)):
            blocks = nn.Sequential()
            for at in range(count):
                blocks.append(block(before, width * expansion, 2 if at == 0 and number > 0 else 1))
                before = width * expansion
            self.stage_names.append(f"layer{number + 1}")
            self.add_module(self.stage_names[-1], blocks)
        self.bn = nn.BatchNorm2d(before) if final_norm else None
        self.linear = nn.Linear(before, classes)

    def forward(self, x: Tensor) -> Tensor:
        out = self.conv1(x)
        for name in self.stage_names:
            out = self.get_submodule(name)(out)
        if self.bn is not None:
            out = relu(self.bn(out))
        logits: Tensor = self.linear(adaptive_avg_pool2d(out, 1).flatten(1))
        return logits
