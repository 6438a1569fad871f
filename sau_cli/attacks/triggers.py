"""A trigger: image to triggered image, with a target rule."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from sau_cli.attacks.targets import TargetKind, TargetRule
from sau_cli.errors import NotEvaluable


class TriggerKind(StrEnum):
    """How a pattern meets an image.

    - ``patch``: laid over the image at its own size, a margin away from the bottom-right corner.
    - ``blend``: mixed into the whole image, resized to it.
    - ``add``: added to the whole image, resized to it.
    """

    PATCH = "patch"
    BLEND = "blend"
    ADD = "add"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Trigger:
    """What stamps an image, and where the stamped image is sent.

    Every stamped image is rounded to 8 bits, as it would be when stored.

    Attributes:
        name: of the attack, or of the file that the pattern came from.
        pattern: (C, h, w) float; pixels in [0, 1], or in [-1, 1] for ``add``. One channel serves colour images too.
        mask: (1, h, w) float in [0, 1], the opacity; all ones for ``add``.
        margin: pixels below and right of a patch; (0, 0) otherwise.
    """

    name: str
    kind: TriggerKind
    pattern: Tensor
    mask: Tensor
    rule: TargetRule
    margin: tuple[int, int] = (0, 0)

    def __post_init__(self) -> None:
        if not (self.mask.is_floating_point() and self.pattern.is_floating_point()):
            raise NotEvaluable("the trigger's pattern and mask are no real numbers; write it again with sau attack")
        sizes_agree = self.mask.ndim == self.pattern.ndim == 3 and self.mask.shape[1:] == self.pattern.shape[1:]
        lowest = -1 if self.kind is TriggerKind.ADD else 0
        if (
            not sizes_agree
            or self.pattern.shape[0] not in (1, 3)
            or self.mask.shape[0] != 1
            or self.pattern.numel() == 0
        ):
            raise NotEvaluable(
                f"the trigger has a pattern of shape {tuple(self.pattern.shape)} and a mask of shape "
                f"{tuple(self.mask.shape)}; (1 or 3, h, w) and (1, h, w) are needed"
            )
        if not all(0 <= pixels < 2**31 for pixels in (*self.margin, self.rule.target or 0)):
            raise NotEvaluable("the trigger's margin or target is impossible; give numbers from 0")
        in_range = (self.pattern >= lowest) & (self.pattern <= 1) & (self.mask >= 0) & (self.mask <= 1)
        if not bool(in_range.all()):
            raise NotEvaluable(
                f"the trigger has values outside {lowest} to 1; scale its pattern and mask to that range"
            )

    def stamp(self, images: Tensor) -> Tensor:
        """Stamp images (N, C, H, W) uint8; returns new images of the same shape and dtype.

        Raises:
            NotEvaluable: a patch that does not fit, or a colour trigger on grey images.
        """
        channels, height, width = images.shape[1:]
        pattern, mask = self._placed(height, width)
        if pattern.shape[0] not in (1, channels):
            raise NotEvaluable(
                f"the trigger {self.name} is in colour but the images have {channels} channel; give a grey trigger"
            )
        pattern, mask = pattern.to(images.device), mask.to(images.device)
        pixels = images.float() / 255
        stamped = pixels + pattern if self.kind is TriggerKind.ADD else (1 - mask) * pixels + mask * pattern
        return stamped.clamp(0, 1).mul(255).round().to(torch.uint8)

    def _placed(self, height: int, width: int) -> tuple[Tensor, Tensor]:
        """Pattern and mask at the size of the image."""
        if self.kind is not TriggerKind.PATCH:
            if self.pattern.shape[1:] == (height, width):
                return self.pattern, self.mask
            return _resized(self.pattern, height, width), _resized(self.mask, height, width)
        rows, columns = self.pattern.shape[1:]
        bottom, right = height - self.margin[0], width - self.margin[1]
        if bottom < rows or right < columns:
            raise NotEvaluable(
                f"the trigger {self.name} is {rows}x{columns} with a margin of {self.margin[0]} below and "
                f"{self.margin[1]} right, which does not fit into {height}x{width} images; use a smaller trigger"
            )
        pattern = torch.zeros(self.pattern.shape[0], height, width)
        mask = torch.zeros(1, height, width)
        place = (slice(None), slice(bottom - rows, bottom), slice(right - columns, right))
        pattern[place] = self.pattern
        mask[place] = self.mask
        return pattern, mask

    def tensors(self) -> dict[str, Tensor]:
        """What a trigger file holds beside :meth:`description`."""
        return {"pattern": self.pattern.contiguous(), "mask": self.mask.contiguous()}

    def description(self) -> dict[str, Any]:
        """What a trigger file says in JSON: with :meth:`tensors`, enough to stamp any image."""
        return {
            "name": self.name,
            "kind": self.kind.value,
            "margin": list(self.margin),
            "target_rule": self.rule.kind.value,
            "target": self.rule.target,
            "quantised": "round to 8 bits",
        }


def trigger_from_parts(tensors: Mapping[str, Tensor], description: Mapping[str, Any]) -> Trigger:
    """The inverse of :meth:`Trigger.tensors` and :meth:`Trigger.description`.

    Raises:
        NotEvaluable: a part is missing or has another type.
    """
    try:
        below, right = description["margin"]
        target = description["target"]
        return Trigger(
            name=str(description["name"]),
            kind=TriggerKind(description["kind"]),
            pattern=_real(tensors["pattern"]),
            mask=_real(tensors["mask"]),
            margin=(int(below), int(right)),
            rule=TargetRule(
                kind=TargetKind(description["target_rule"]), target=None if target is None else int(target)
            ),
        )
    except (KeyError, ValueError, TypeError, OverflowError) as error:
        raise NotEvaluable(
            f"the trigger's description is incomplete ({error}); write it again with sau attack"
        ) from error


def _real(tensor: Tensor) -> Tensor:
    return tensor if tensor.is_complex() else tensor.float()


def _resized(picture: Tensor, height: int, width: int) -> Tensor:
    scaled = interpolate(picture[None], size=(height, width), mode="bilinear", antialias=True, align_corners=False)
    return scaled[0].clamp(picture.min(), picture.max())
