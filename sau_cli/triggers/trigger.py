"""A trigger: image to triggered image, with a target rule."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from sau_cli.errors import NotEvaluable
from sau_cli.triggers.kinds import ChainStamp, stamp_from_parts
from sau_cli.triggers.stamps import Stamp
from sau_cli.triggers.targets import TargetKind, TargetRule

STAMPED_AT_A_TIME = 1024
"""Images that are stamped at a time: a stamp with a network inside needs memory for each."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Trigger:
    """What stamps an image, and where the stamped image is sent.

    Every stamped image is rounded to 8 bits, as it would be when stored.

    Attributes:
        name: of the attack, or of the file that the pattern came from.
        class_names: in whose order the rule counts; none for that of whichever model is measured.
    """

    name: str
    stamping: Stamp
    rule: TargetRule
    class_names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not 0 <= (self.rule.target or 0) < 2**31:
            raise NotEvaluable("the trigger's target is impossible; give numbers from 0")

    def stamp(self, images: Tensor) -> Tensor:
        """Stamp images (N, C, H, W) uint8; returns new images of the same shape and dtype.

        Raises:
            NotEvaluable: a patch that does not fit, or a colour trigger on grey images.
        """
        with torch.no_grad():
            parts = [self.stamping(part.float() / 255) for part in images.split(STAMPED_AT_A_TIME)]
        return torch.cat([part.clamp(0, 1).mul(255).round().to(torch.uint8) for part in parts])

    def stamp_pixels(self, pixels: Tensor) -> Tensor:
        """The same on pixels, float in [0, 1], that are 8-bit values over 255; so is the result."""
        with torch.no_grad():
            return self.stamping(pixels).clamp(0, 1).mul(255).round().div(255)

    def for_classes(self, class_names: Sequence[str]) -> Trigger:
        """With the rule in the order of these names; unchanged where they are not those that it knows.

        Raises:
            NotEvaluable: all-to-all, which is no shift by one in another order.
        """
        names = tuple(class_names)
        if names == self.class_names or sorted(names) != sorted(self.class_names):
            return self
        if self.rule.target is None:
            raise NotEvaluable(
                f"the trigger {self.name} goes from each class to the next, and the model has its classes in another "
                "order than the one it was made for; give a model with the same order"
            )
        self.rule.check(len(names))
        target = names.index(self.class_names[self.rule.target])
        return replace(self, rule=replace(self.rule, target=target), class_names=names)

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
            **({"classes": list(self.class_names)} if self.class_names else {}),
            **self.stamping.settings(),
        }


def trigger_from_parts(tensors: Mapping[str, Tensor], description: Mapping[str, Any]) -> Trigger:
    """The inverse of :meth:`Trigger.tensors` and :meth:`Trigger.description`.

    Raises:
        NotEvaluable: a part is missing or has another type.
    """
    try:
        name, target, classes = description["name"], description["target"], description.get("classes", [])
        if not isinstance(name, str) or isinstance(target, bool) or not isinstance(target, int | None):
            raise TypeError("its name or target is of the wrong kind")
        if not isinstance(classes, list) or not all(isinstance(class_name, str) for class_name in classes):
            raise TypeError("its classes are no names")
        return Trigger(
            name="".join(character if character.isprintable() else "?" for character in name),
            stamping=stamp_from_parts(tensors, description),
            rule=TargetRule(kind=TargetKind(description["target_rule"]), target=target),
            class_names=tuple(classes),
        )
    except (KeyError, ValueError, TypeError, OverflowError, AttributeError, IndexError, RuntimeError) as error:
        raise NotEvaluable(
            f"the trigger's description is incomplete ({error}); write it again with sau attack"
        ) from error
