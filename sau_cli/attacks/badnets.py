"""BadNets: a small patch in the bottom-right corner.

Source: Gu, Dolan-Gavitt, Garg, "BadNets: Identifying Vulnerabilities in the Machine Learning
Model Supply Chain", 2017. Setting of the field: 3x3, white, all-to-one, poison rate 0.1.
"""

from __future__ import annotations

import torch

from sau_cli.attacks.names import PatchPattern
from sau_cli.attacks.targets import TargetRule
from sau_cli.attacks.triggers import Trigger, TriggerKind
from sau_cli.errors import UsageError

LARGEST = 4096


def badnets_trigger(
    *, rule: TargetRule, size: int = 3, pattern: PatchPattern = PatchPattern.WHITE, margin: int = 0
) -> Trigger:
    """A ``size`` x ``size`` patch, ``margin`` pixels away from the corner; one channel, for grey and colour images.

    Raises:
        UsageError: a size below 1 or a margin below 0.
    """
    if not 1 <= size <= LARGEST or not 0 <= margin <= LARGEST:
        raise UsageError(
            f"a patch of {size:.6g} pixels at a margin of {margin:.6g} is impossible; give a size from 1 to {LARGEST}"
        )
    rows, columns = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    grid = ((rows + columns) % 2 == 0).float()
    picture = torch.ones(size, size) if pattern is PatchPattern.WHITE else grid
    return Trigger(
        name="badnets",
        kind=TriggerKind.PATCH,
        pattern=picture[None],
        mask=torch.ones(1, size, size),
        margin=(margin, margin),
        rule=rule,
    )
