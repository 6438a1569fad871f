"""An attack of your own: a stripe along an edge, for ``sau attack --attack examples/own_attack.py:Stripe``.

    sau attack --attack examples/own_attack.py:Stripe --arch small_cnn --data digits -o bad.safetensors
    sau attack --attack examples/own_attack.py:Stripe --help

Every field made by ``setting`` is a flag, here ``--thickness`` and ``--brightness``. ``stamping`` says how an image is
stamped, in terms of the stamps that every trigger file can hold (``sau_cli.triggers.stamps``). What is poisoned, and
whether the attack takes part in training, are methods too: ``sau_cli.attacks.attack`` has them.

About 15 seconds on 2 cores. Expected: an ASR above 90 % in the table.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from sau_cli.attacks.attack import Attack, Scene
from sau_cli.settings import setting
from sau_cli.triggers.stamps import PatchStamp, Place, Stamp


@dataclass(frozen=True, kw_only=True)
class Stripe(Attack):
    """A bright stripe along the top."""

    thickness: int = setting(1, "rows of the stripe", at_least=1, at_most=4096)
    brightness: float = setting(1.0, "of the stripe", above=0, at_most=1)

    def stamping(self, scene: Scene, learned: Mapping[str, Tensor]) -> Stamp:
        shape = (1, self.thickness, scene.width)
        return PatchStamp(pattern=torch.full(shape, self.brightness), mask=torch.ones(shape), place=Place.TOP_LEFT)
