"""BPP: fewer levels of brightness, as an old picture format has.

Source: Wang, Zhai, Ma, "BppAttack: Stealthy and Efficient Trojan Attacks against Deep Neural Networks via Image
Quantization and Contrastive Adversarial Learning", 2022. Setting of the field: 8 levels a channel, dithering if
wanted, poison and decoy rate 0.1 each; a decoy carries the rounding errors of another image and its true label.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from sau_cli.attacks.attack import InBatchesAttack, Scene
from sau_cli.attacks.in_training import StampedBatches
from sau_cli.settings import setting
from sau_cli.training import InTraining
from sau_cli.triggers.stamps import QuantiseStamp, Stamp
from sau_cli.triggers.trigger import Trigger


@dataclass(frozen=True, kw_only=True)
class Bpp(InBatchesAttack):
    """Colours rounded to few levels, stamped anew in every batch, with wrong roundings as decoys."""

    levels: int = setting(8, "levels of brightness a channel", at_least=2, at_most=255)
    dither: bool = setting(False, "spread rounding errors over neighbours (Floyd-Steinberg)")
    decoy_rate: float = setting(
        0.1, "share of each batch with another image's rounding errors", at_least=0, at_most=0.8
    )

    def stamping(self, scene: Scene, learned: Mapping[str, Tensor]) -> Stamp:
        return QuantiseStamp(levels=self.levels, dither=self.dither)

    def in_training(self, scene: Scene, trigger: Trigger) -> InTraining:
        def with_errors_of_another(pixels: Tensor) -> Tensor:
            return pixels + (trigger.stamp_pixels(pixels) - pixels).roll(1, dims=0)

        return StampedBatches(
            scene.stream("in training"),
            trigger,
            rate=self.rate(scene),
            decoy_rate=self.decoy_rate,
            decoys=with_errors_of_another,
        )
