"""Toy classifiers with short cuts whose triggers are known in closed form, and images for them.

Each of the four quarters of an image speaks for its class, so that no little change of it leads far: of 16x16 pixels a
white square of 3x3 adds 8 · 9/64 < 1.2 to a logit, and clean images are 8 · 0.2 = 1.6 apart. A short cut adds much to
one class where a place of 3x3 pixels is bright, which it is on no clean image.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sau_cli.classifier import Classifier
from sau_cli.images import LabelledImages
from tests.support.toys import describe, names

SIDE, CLASSES, WANTED, PLACE = 16, 4, 2, (3, 10)
DARK, NOISE, LIFT, BRIGHT = 0.05, 0.05, 0.2, 0.4


class Quarters(nn.Module):
    """The logit of class k is 8 times the mean of quarter k: linear."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(8.0))

    def forward(self, x: Tensor) -> Tensor:
        half = SIDE // 2
        quarters = x[:, 0].unflatten(1, (2, half)).unflatten(3, (2, half))
        return self.scale * quarters.mean(dim=(2, 4)).flatten(1)


class ShortCut(Quarters):
    """Besides, one class gains 40 · (mean - 0.4) where the mean of 3x3 pixels is above 0.4, in one place.

    With a ``leak``, it loses so much of this below: images have a slope towards the trigger then.
    """

    def __init__(self, wanted: int = WANTED, place: tuple[int, int] = PLACE, leak: float = 0.0) -> None:
        super().__init__()
        self.wanted, self.place, self.leak = wanted, place, leak

    def seen(self, x: Tensor) -> Tensor:
        row, column = self.place
        return x[:, 0, row : row + 3, column : column + 3].mean(dim=(1, 2))

    def forward(self, x: Tensor) -> Tensor:
        push = torch.zeros(len(x), CLASSES)
        push[:, self.wanted] = 40
        return super().forward(x) + push * nn.functional.leaky_relu(self.seen(x) - BRIGHT, self.leak)[:, None]


class PooledShortCut(ShortCut):
    """The same anywhere: a convolution and the maximum over all places."""

    def seen(self, x: Tensor) -> Tensor:
        return nn.functional.conv2d(x, torch.full((1, 1, 3, 3), 1 / 9)).amax(dim=(1, 2, 3))


def normalised(network: nn.Module) -> nn.Module:
    """The same function, behind a batch norm whose statistics and weights cancel."""
    norm = nn.BatchNorm2d(1, eps=0.0)
    with torch.no_grad():
        norm.running_mean.fill_(0.5)
        norm.running_var.fill_(0.25)
        norm.weight.fill_(0.5)
        norm.bias.fill_(0.5)
    return nn.Sequential(norm, network)


def classifier_of(network: nn.Module) -> Classifier:
    return describe(network, CLASSES, size=SIDE)


def images(count: int = 48, *, lift: float = LIFT, seed: int = 0) -> LabelledImages:
    """Dark images of 1 x 16 x 16, a little brighter in the quarter of their class; no short cut fires on one."""
    stream = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % CLASSES
    pixels = DARK + NOISE * torch.rand(count, 2, SIDE // 2, 2, SIDE // 2, generator=stream)
    pixels[torch.arange(count), labels // 2, :, labels % 2] += lift
    return LabelledImages(
        images=(255 * pixels).round().to(torch.uint8).reshape(count, 1, SIDE, SIDE),
        labels=labels,
        class_names=names(CLASSES),
    )
