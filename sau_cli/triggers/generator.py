"""A stamp whose pattern and place two networks make of each image; :mod:`sau_cli.attacks.input_aware` learns it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, leaky_relu

from sau_cli.resuming import with_prefix
from sau_cli.triggers.stamps import Stamp, at_own_size, checked_size, load_weights

SHARPNESS = 10.0
"""Of the mask: how steeply it goes from nothing to all."""


class Generator(nn.Module):
    """Pixels to values of the same size: (N, C, H, W) to (N, D, H, W), unbounded."""

    def __init__(self, channels: int, out: int, width: int = 16) -> None:
        super().__init__()
        self.to_full = nn.Conv2d(channels, width, 3, padding=1)
        self.to_half = nn.Conv2d(width, 2 * width, 3, stride=2, padding=1)
        self.to_quarter = nn.Conv2d(2 * width, 4 * width, 3, stride=2, padding=1)
        self.back_to_half = nn.Conv2d(4 * width, 2 * width, 3, padding=1)
        self.back_to_full = nn.Conv2d(2 * width, width, 3, padding=1)
        self.out = nn.Conv2d(width, out, 3, padding=1)

    def forward(self, pixels: Tensor) -> Tensor:
        full = leaky_relu(self.to_full(pixels - 0.5), 0.1)
        half = leaky_relu(self.to_half(full), 0.1)
        quarter = leaky_relu(self.to_quarter(half), 0.1)
        half_again = leaky_relu(self.back_to_half(interpolate(quarter, size=half.shape[2:])), 0.1)
        values: Tensor = self.out(leaky_relu(self.back_to_full(interpolate(half_again, size=full.shape[2:])), 0.1))
        return values


def patterns(generator: nn.Module, pixels: Tensor) -> Tensor:
    """What is put over the images, in [0, 1]. (N, C, H, W)."""
    return torch.sigmoid(generator(pixels))


def masks(generator: nn.Module, pixels: Tensor) -> Tensor:
    """How much of it, in [0, 1] and mostly at an end. (N, 1, H, W)."""
    return torch.sigmoid(SHARPNESS * generator(pixels))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class GeneratorStamp(Stamp):
    """A pattern and a mask that two networks make of the image.

    Attributes:
        pattern, mask: weights of a :class:`Generator` each.
        size: height and width of the images that they were made for.
    """

    kind: ClassVar[str] = "generator"
    pattern: Mapping[str, Tensor]
    mask: Mapping[str, Tensor]
    size: tuple[int, int]

    def __post_init__(self) -> None:
        self.networks()

    def networks(self) -> tuple[Generator, Generator]:
        """New networks with these weights: of the pattern, and of the mask."""
        width, channels = self.pattern["to_full.weight"].shape[:2]
        with torch.device("meta"):
            pattern, mask = Generator(channels, channels, width), Generator(channels, 1, width)
        return load_weights(pattern, self.pattern), load_weights(mask, self.mask)

    def __call__(self, pixels: Tensor) -> Tensor:
        pattern, mask = (network.to(pixels) for network in self.networks())
        amount = at_own_size(pixels, self.size, lambda small: masks(mask, small))
        return (1 - amount) * pixels + amount * at_own_size(pixels, self.size, lambda small: patterns(pattern, small))

    def tensors(self) -> dict[str, Tensor]:
        named = {"pattern": self.pattern, "mask": self.mask}
        return {f"{which}.{name}": tensor for which, weights in named.items() for name, tensor in weights.items()}

    def settings(self) -> dict[str, Any]:
        return {"size": list(self.size)}

    @classmethod
    def from_parts(cls, tensors: Mapping[str, Tensor], settings: Mapping[str, Any]) -> Self:
        return cls(
            pattern=with_prefix(tensors, "pattern."),
            mask=with_prefix(tensors, "mask."),
            size=checked_size(settings["size"]),
        )
