"""A trigger: image to triggered image, with a target rule."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from sau_cli.attacks.stamps import ChainStamp, Stamp, stamp_from_parts
from sau_cli.attacks.targets import TargetKind, TargetRule
from sau_cli.errors import NotEvaluable

AT_A_TIME = 1024
"""Images that are stamped at a time: a stamp with a network inside needs memory for each."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Trigger:
    """What stamps an image, and where the stamped image is sent.

    Every stamped image is rounded to 8 bits, as it would be when stored.

    Attributes:
        name: of the attack, or of the file that the pattern came from.
    """

    name: str
    stamping: Stamp
    rule: TargetRule

    def __post_init__(self) -> None:
        if not 0 <= (self.rule.target or 0) < 2**31:
            raise NotEvaluable("the trigger's target is impossible; give numbers from 0")

    def stamp(self, images: Tensor) -> Tensor:
        """Stamp images (N, C, H, W) uint8; returns new images of the same shape and dtype.

        Raises:
            NotEvaluable: a patch that does not fit, or a colour trigger on grey images.
        """
        with torch.no_grad():
            parts = [self.stamping(part.float() / 255) for part in images.split(AT_A_TIME)]
        return torch.cat([part.clamp(0, 1).mul(255).round().to(torch.uint8) for part in parts])

    def stamp_pixels(self, pixels: Tensor) -> Tensor:
        """The same on pixels, float in [0, 1], that are 8-bit values over 255; so is the result."""
        with torch.no_grad():
            return self.stamping(pixels).clamp(0, 1).mul(255).round().div(255)

    def parts(self) -> tuple[Trigger, ...]:
        """Triggers that stamp a part of this each, with its name and rule; none where it is made of one piece."""
        if not isinstance(self.stamping, ChainStamp):
            return ()
        return tuple(replace(self, stamping=part) for part in self.stamping.parts)

    def tensors(self) -> dict[str, Tensor]:
        """What a trigger file holds beside :meth:`description`."""
        return self.stamping.tensors()

    def description(self) -> dict[str, Any]:
        """What a trigger file says in JSON: with :meth:`tensors`, enough to stamp any image."""
        return {
            "name": self.name,
            "kind": self.stamping.kind,
            "target_rule": self.rule.kind.value,
            "target": self.rule.target,
            "quantised": "round to 8 bits",
            **self.stamping.settings(),
        }


def trigger_from_parts(tensors: Mapping[str, Tensor], description: Mapping[str, Any]) -> Trigger:
    """The inverse of :meth:`Trigger.tensors` and :meth:`Trigger.description`.

    Raises:
        NotEvaluable: a part is missing or has another type.
    """
    try:
        target = description["target"]
        return Trigger(
            name=str(description["name"]),
            stamping=stamp_from_parts(tensors, description),
            rule=TargetRule(
                kind=TargetKind(description["target_rule"]), target=None if target is None else int(target)
            ),
        )
    except (KeyError, ValueError, TypeError, OverflowError, AttributeError, IndexError, RuntimeError) as error:
        raise NotEvaluable(
            f"the trigger's description is incomplete ({error}); write it again with sau attack"
        ) from error
