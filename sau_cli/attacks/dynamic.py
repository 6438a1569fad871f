"""A patch that is never the same: the image decides which one it gets, and where.

Source: Salem, Wen, Backes, Ma, Zhang, "Dynamic Backdoor Attacks Against Machine Learning Models", 2022 (their
random backdoor, with many patterns at many places).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from sau_cli.attacks.attack import Attack, Scene
from sau_cli.settings import setting
from sau_cli.triggers.stamps import Stamp, WanderingStamp


@dataclass(frozen=True, kw_only=True)
class Dynamic(Attack):
    """One of several patches, at a place that differs from image to image."""

    trigger_size: int = setting(5, "pixels on a side of the patches", at_least=1, at_most=4096)
    patterns: int = setting(4, "different patches, of random black and white", at_least=1, at_most=1000)

    def stamping(self, scene: Scene, learned: Mapping[str, Tensor]) -> Stamp:
        shape = (self.patterns, self.trigger_size, self.trigger_size)
        return WanderingStamp(patterns=torch.randint(0, 2, shape, generator=scene.stream("patterns")).float())
