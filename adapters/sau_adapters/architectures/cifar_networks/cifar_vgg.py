"""VGG with batch norm and one linear layer or three, for 32x32 images, with the key names of checkpoints in the wild.

Architecture: Simonyan, Zisserman, "Very Deep Convolutional Networks for Large-Scale Image Recognition", ICLR 2015,
without the large fully connected layers.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d

CONVOLUTIONS = {11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}
"""By depth: how many convolutions each of the five stages has."""
WIDTHS = (64, 128, 256, 512, 512)


class CifarVGG(nn.Module):
    """(N, C, H, W) to logits (N, K); H and W of 32 or more.

    Args:
        hidden: whether there are two layers as wide as the last stage before the last one, as in the original.
    """

    def __init__(self, classes: int, channels: int, *, depth: int, hidden: bool = False) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for count, width in zip(CONVOLUTIONS[depth], WIDTHS, strict=True):
            for _ in range(count):
                layers += [nn.Conv2d(channels, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU()]
                channels = width
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        last = nn.Linear(WIDTHS[-1], classes)
        before = [nn.Linear(WIDTHS[-1], WIDTHS[-1]), nn.ReLU(), nn.Dropout()]
        again = [nn.Linear(WIDTHS[-1], WIDTHS[-1]), nn.ReLU(), nn.Dropout()]
        self.classifier = nn.Sequential(*before, *again, last) if hidden else last

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.classifier(adaptive_avg_pool2d(self.features(x), 1).flatten(1))
        return logits
