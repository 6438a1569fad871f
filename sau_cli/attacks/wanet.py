"""WaNet: an elastic warp too small to see.

Source: Nguyen, Tran, "WaNet - Imperceptible Warping-based Backdoor Attack", 2021. Setting of the field: 4 by 4
control points, strength 0.5; the poisoned share is drawn anew for every batch, and others, with their true label,
are warped with a jitter on top, so that only the one warp counts ("noise mode").
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from sau_cli.attacks.attack import InBatchesAttack, Scene
from sau_cli.attacks.in_training import StampedBatches
from sau_cli.settings import setting
from sau_cli.training import InTraining
from sau_cli.triggers.stamps import Stamp, WarpStamp
from sau_cli.triggers.trigger import Trigger


@dataclass(frozen=True, kw_only=True)
class WaNet(InBatchesAttack):
    """A smooth warp, stamped anew in every batch, with jittered warps as decoys."""

    grid: int = setting(4, "control points on a side", at_least=2, at_most=4096)
    strength: float = setting(0.5, "of the warp: how far control points move on average, in half pixels", above=0)
    decoy_rate: float = setting(0.2, "share of each batch that is warped with a jitter", at_least=0, at_most=0.8)

    def stamping(self, scene: Scene, learned: Mapping[str, Tensor]) -> Stamp:
        moves = torch.rand(2, self.grid, self.grid, generator=scene.stream("flow")) * 2 - 1
        moves = moves / moves.abs().mean()
        return WarpStamp(flow=(moves * self.strength / max(scene.height, scene.width)).clamp(-2, 2))

    def in_training(self, scene: Scene, trigger: Trigger) -> InTraining:
        generator, warp = scene.stream("in training"), trigger.stamping
        assert isinstance(warp, WarpStamp)  # noqa: S101 (by the method above)

        def jittered(pixels: Tensor) -> Tensor:
            count, _, height, width = pixels.shape
            jitter = torch.rand(count, height, width, 2, generator=generator).to(pixels) * 2 - 1
            return warp.warped(pixels, jitter / max(height, width))

        return StampedBatches(generator, trigger, rate=self.rate(scene), decoy_rate=self.decoy_rate, decoys=jittered)
