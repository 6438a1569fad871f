"""A stamp that hides bits in each image by an encoder; :mod:`sau_cli.attacks.ssba` learns it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from sau_cli.resuming import with_prefix
from sau_cli.triggers.stamps import Stamp, at_own_size, checked_size, load_weights

COARSE = 8
"""The bits are laid out on a grid of so many cells a side before they are spread over the image."""
WIDTH, GAIN = 32, 8.0
"""Channels within the networks, and how much of the bits shows at the start."""


class Encoder(nn.Module):
    """Pixels and bits to what is added, in [-1, 1]: (N, C, H, W) and (N, B) to (N, C, H, W)."""

    def __init__(self, channels: int, bits: int) -> None:
        super().__init__()
        self.planes = nn.Linear(bits, 4 * COARSE * COARSE)
        self.first = nn.Conv2d(channels + 4, WIDTH, 3, padding=1)
        self.second = nn.Conv2d(WIDTH, WIDTH, 3, padding=1)
        self.out = nn.Conv2d(WIDTH + 4, channels, 3, padding=1)

    def forward(self, pixels: Tensor, bits: Tensor) -> Tensor:
        planes = self.planes(2 * bits - 1).reshape(-1, 4, COARSE, COARSE)
        planes = interpolate(planes, size=pixels.shape[2:], mode="nearest").expand(len(pixels), -1, -1, -1)
        seen = self.second(self.first(torch.cat([pixels - 0.5, planes], dim=1)).relu()).relu()
        added: Tensor = torch.tanh(GAIN * self.out(torch.cat([seen, planes], dim=1)))
        return added


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class EncoderStamp(Stamp):
    """What an encoder adds to hide its bits.

    Attributes:
        weights: of an :class:`Encoder`.
        bits: (B,) float, 0 or 1.
        size: height and width of the images that it was made for.
        strength: the most that is added, on pixels in [0, 1].
    """

    kind: ClassVar[str] = "encoder"
    weights: Mapping[str, Tensor]
    bits: Tensor
    size: tuple[int, int]
    strength: float

    def __post_init__(self) -> None:
        self._encoder()

    def _encoder(self) -> Encoder:
        channels = self.weights["out.weight"].shape[0]
        with torch.device("meta"):
            encoder = Encoder(channels, len(self.bits))
        return load_weights(encoder, self.weights)

    def __call__(self, pixels: Tensor) -> Tensor:
        encoder, bits = self._encoder().to(pixels), self.bits.to(pixels)[None]
        return pixels + self.strength * at_own_size(pixels, self.size, lambda small: encoder(small, bits))

    def tensors(self) -> dict[str, Tensor]:
        return {"bits": self.bits, **{f"weights.{name}": tensor for name, tensor in self.weights.items()}}

    def settings(self) -> dict[str, Any]:
        return {"size": list(self.size), "strength": self.strength}

    @classmethod
    def from_parts(cls, tensors: Mapping[str, Tensor], settings: Mapping[str, Any]) -> Self:
        strength = float(settings["strength"])
        if not 0 < strength <= 1:
            raise ValueError(f"strength {strength:g}")
        return cls(
            weights=with_prefix(tensors, "weights."),
            bits=tensors["bits"].float(),
            size=checked_size(settings["size"]),
            strength=strength,
        )
