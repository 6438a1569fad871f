"""Blended: a faint full-size picture mixed into the whole image.

Source: Chen, Liu, Li, Lu, Song, "Targeted Backdoor Attacks on Deep Learning Systems Using Data
Poisoning", 2017. Setting of the field: α = 0.2, all-to-one, poison rate 0.1. The picture is drawn here.
"""

from __future__ import annotations

from math import pi

import torch
from torch import Tensor

from sau_cli.attacks.targets import TargetRule
from sau_cli.attacks.triggers import Trigger, TriggerKind
from sau_cli.errors import UsageError


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


def blended_trigger(*, rule: TargetRule, channels: int, height: int, width: int, alpha: float = 0.2) -> Trigger:
    """The drawn picture at opacity ``alpha``.

    Raises:
        UsageError: an alpha outside (0, 1].
    """
    if not 0 < alpha <= 1:
        raise UsageError(f"an opacity of {alpha:g} is impossible; give a number above 0 and at most 1, such as 0.2")
    return Trigger(
        name="blended",
        kind=TriggerKind.BLEND,
        pattern=drawn_picture(3 if channels == 3 else 1, height, width),
        mask=torch.full((1, height, width), alpha),
        rule=rule,
    )
