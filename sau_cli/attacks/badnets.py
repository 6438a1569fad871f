"""BadNets: a small patch.

Source: Gu, Dolan-Gavitt, Garg, "BadNets: Identifying Vulnerabilities in the Machine Learning
Model Supply Chain", 2017. Setting of the field: 3x3, white, in the bottom-right corner, poison rate 0.1.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from sau_cli.attacks.attack import Attack, Scene
from sau_cli.settings import setting
from sau_cli.triggers.stamps import PatchStamp, Place, Stamp

PLACES = tuple(place.value for place in Place)
PATTERNS = ("white", "grid")


def patch(size: int, pattern: str, *, place: str, margin: int = 0, strength: float = 1.0) -> PatchStamp:
    """A square patch, for grey and colour images; a grid has white corners where its size is odd."""
    rows, columns = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    grid = ((rows + columns) % 2 == 0).float()
    return PatchStamp(
        pattern=(torch.ones(size, size) if pattern == "white" else grid)[None],
        mask=torch.full((1, size, size), strength),
        margin=(margin, margin),
        place=Place(place),
    )


@dataclass(frozen=True, kw_only=True)
class BadNets(Attack):
    """A small patch in a corner; with less strength it stays within an L-infinity bound."""

    trigger_size: int = setting(3, "pixels on a side of the patch", at_least=1, at_most=4096)
    trigger_pattern: str = setting("white", "how the patch looks", choices=PATTERNS)
    trigger_place: str = setting("bottom-right", "where the patch is", choices=PLACES)
    trigger_margin: int = setting(0, "pixels between the patch and its edges", at_least=0, at_most=4096)
    trigger_strength: float = setting(1.0, "opacity of the patch", above=0, at_most=1)

    def stamping(self, scene: Scene, learned: Mapping[str, Tensor]) -> Stamp:
        return patch(
            self.trigger_size,
            self.trigger_pattern,
            place=self.trigger_place,
            margin=self.trigger_margin,
            strength=self.trigger_strength,
        )
