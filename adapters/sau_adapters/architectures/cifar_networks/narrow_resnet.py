"""The ResNets of 6n + 2 layers that are made for 32x32 images, with the key names of checkpoints in the wild.

Architecture: He, Zhang, Ren, Sun, "Deep Residual Learning for Image Recognition", CVPR 2016, section 4.2: three stages
of n blocks, 16, 32 and 64 channels wide. Their shortcuts come in two forms, and these with two sets of names:

- A, without weights: every second pixel, and as many channels of zeros before as after the channels that are there.
- B, a 1x1 convolution and a norm, called ``shortcut`` beside a head called ``linear``, or ``downsample`` beside ``fc``.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch import Tensor, nn
from torch.nn.functional import pad

from sau_adapters.architectures.cifar_networks.cifar_resnet import BasicBlock
from sau_adapters.architectures.cifar_networks.staged import StagedNetwork

DEPTHS = (20, 32, 44, 56, 110, 1202)
WIDTHS = (16, 32, 64)


class PaddedShortcut(nn.Module):
    """Form A: (N, C, H, W) to (N, C + 2 more, H / stride, W / stride), without weights."""

    def __init__(self, more: int, stride: int) -> None:
        super().__init__()
        self.more, self.stride = more, stride

    def forward(self, x: Tensor) -> Tensor:
        return pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.more, self.more))


class PaddedBlock(BasicBlock):
    """A basic block whose shortcut has form A."""

    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__(channels_in, channels_out, stride)
        self.shortcut = PaddedShortcut((channels_out - channels_in) // 2, stride)


class DownsampleBlock(BasicBlock):
    """A basic block whose shortcut has form B and is called ``downsample``."""

    shortcut_name = "downsample"


def narrow_resnet(
    classes: int, channels: int, *, depth: int, block: Callable[[int, int, int], nn.Module], head_name: str
) -> nn.Module:
    """The network of 6n + 2 layers with fresh weights; H and W of 4 or more."""
    before, stages = WIDTHS[0], []
    for number, width in enumerate(WIDTHS):
        blocks = nn.Sequential()
        for at in range((depth - 2) // 6):
            blocks.append(block(before, width, 2 if at == 0 and number > 0 else 1))
            before = width
        stages.append(blocks)
    stem = nn.Conv2d(channels, WIDTHS[0], 3, padding=1, bias=False)
    return StagedNetwork(stem, stages, nn.Linear(before, classes), head_name=head_name)


NARROW_RESNETS = {
    f"cifar_resnet{depth}_{form}": partial(narrow_resnet, depth=depth, block=block, head_name=head)
    for depth in DEPTHS
    for form, block, head in (
        ("a", PaddedBlock, "linear"),
        ("b", BasicBlock, "linear"),
        ("b_fc", DownsampleBlock, "fc"),
    )
}
