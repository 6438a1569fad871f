"""SIG: a faint wave over the whole image, learned from images of the target class alone, with their true label.

Source: Barni, Kallas, Tondi, "A New Backdoor Attack in CNNs by Training Set Corruption Without Label
Poisoning", 2019. Setting of the field: 40 of 255 high, 6 waves from left to right.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import pi
from typing import ClassVar

import torch
from torch import Tensor

from sau_cli.attacks.attack import Attack, Scene
from sau_cli.errors import UsageError, argument
from sau_cli.settings import setting
from sau_cli.triggers.stamps import AddStamp, Stamp


@dataclass(frozen=True, kw_only=True)
class Sig(Attack):
    """A faint wave, on images of the target class alone, which keep their label."""

    clean_label: ClassVar[bool] = True
    poison_rate: ClassVar[float] = 0.8

    amplitude: float = setting(40 / 255, "height of the wave, on pixels in 0 to 1", above=0, at_most=1)
    frequency: float = setting(6.0, "waves from left to right", above=0)

    def stamping(self, scene: Scene, learned: Mapping[str, Tensor]) -> Stamp:
        """``amplitude`` · sin(2π · column · ``frequency`` / width), the same in every row; one channel serves colour.

        Raises:
            UsageError: more waves than columns.
        """
        if self.frequency >= scene.width:
            raise UsageError(
                f"{self.frequency:g} waves do not fit into {scene.width} columns; give "
                f"a smaller {argument('frequency')}"
            )
        wave = self.amplitude * (2 * pi * self.frequency * torch.arange(scene.width) / scene.width).sin()
        return AddStamp(pattern=wave.expand(1, scene.height, scene.width).clone())
