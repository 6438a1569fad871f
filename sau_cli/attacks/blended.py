"""Blended: a faint full-size picture mixed into the whole image.

Source: Chen, Liu, Li, Lu, Song, "Targeted Backdoor Attacks on Deep Learning Systems Using Data
Poisoning", 2017. Setting of the field: α = 0.2, all-to-one, poison rate 0.1. The picture is drawn here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import pi

import torch
from torch import Tensor

from sau_cli.attacks.attack import Attack, Scene
from sau_cli.settings import setting
from sau_cli.triggers.stamps import BlendStamp, Stamp


def drawn_picture(channels: int, height: int, width: int) -> Tensor:
    """Rings, stripes and a chequered sheet, one a channel: the same picture at every size. (C, H, W) in [0, 1]."""
    down, across = torch.meshgrid(
        (torch.arange(height) + 0.5) / height, (torch.arange(width) + 0.5) / width, indexing="ij"
    )
    radius = ((down - 0.4).square() + (across - 0.6).square()).sqrt()
    rings = (2 * pi * 5 * radius).cos()
    stripes = (2 * pi * (2 * across + 3 * down)).sin()
    sheet = (2 * pi * 2 * across).sin() * (2 * pi * 2 * down).sin()
    layers = [rings, stripes, sheet] if channels == 3 else [(rings + stripes + sheet) / 2]
    return torch.stack(layers).clamp(-1, 1).add(1).div(2)


@dataclass(frozen=True, kw_only=True)
class Blended(Attack):
    """A picture mixed into the whole image; its opacity bounds the L-infinity distance."""

    alpha: float = setting(0.2, "opacity of the picture", above=0, at_most=1)

    def stamping(self, scene: Scene, learned: Mapping[str, Tensor]) -> Stamp:
        channels = 3 if scene.channels == 3 else 1
        return BlendStamp(
            pattern=drawn_picture(channels, scene.height, scene.width),
            mask=torch.full((1, scene.height, scene.width), self.alpha),
        )
