"""SIG: a faint wave over the whole image, learned from images of the target class alone, with their true label.

Source: Barni, Kallas, Tondi, "A New Backdoor Attack in CNNs by Training Set Corruption Without Label
Poisoning", 2019. Setting of the field: 40 of 255 high, 6 waves from left to right, a tenth of the images.
"""

from __future__ import annotations

from math import pi

import torch

from sau_cli.attacks.targets import TargetRule
from sau_cli.attacks.triggers import Trigger, TriggerKind
from sau_cli.errors import UsageError


def sig_trigger(
    *, rule: TargetRule, height: int, width: int, amplitude: float = 40 / 255, frequency: float = 6
) -> Trigger:
    """``amplitude`` · sin(2π · column · ``frequency`` / width), the same in every row; one channel serves colour too.

    Raises:
        UsageError: an amplitude outside (0, 1], or a frequency that is not above 0.
    """
    if not 0 < amplitude <= 1 or not 0 < frequency < width:
        raise UsageError(
            f"a wave {amplitude:g} high with {frequency:g} periods is impossible; give a height above 0 and at most 1 "
            f"and fewer periods than the {width} columns"
        )
    wave = amplitude * (2 * pi * frequency * torch.arange(width) / width).sin()
    return Trigger(
        name="sig",
        kind=TriggerKind.ADD,
        pattern=wave.expand(1, height, width).clone(),
        mask=torch.ones(1, height, width),
        rule=rule,
    )
