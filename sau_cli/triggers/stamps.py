"""How a trigger changes pixels: one class a kind, each with tensors and settings that a file can hold.

Stamps take and return pixels (N, C, H, W), float in [0, 1]; clamping and rounding are the trigger's. Those with
a picture serve images of any size: patches at their own size, everything else scaled to the image.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from enum import StrEnum
from typing import Any, ClassVar, Self, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.functional import affine_grid, grid_sample, interpolate

from sau_cli.errors import NotEvaluable, reason_of

LARGEST_NUMBER = 2**31
LARGEST_SIDE = 4096


class Place(StrEnum):
    """From which corner a patch keeps its distance, or the middle."""

    BOTTOM_RIGHT = "bottom-right"
    BOTTOM_LEFT = "bottom-left"
    TOP_RIGHT = "top-right"
    TOP_LEFT = "top-left"
    MIDDLE = "middle"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Stamp(ABC):
    """What changes pixels. Subclasses say which fields are tensors; everything else is plain JSON.

    Raises:
        NotEvaluable: a shape or a value that no such stamp has.
    """

    kind: ClassVar[str]

    @abstractmethod
    def __call__(self, pixels: Tensor) -> Tensor:
        """Changed pixels, of the same shape."""

    def tensors(self) -> dict[str, Tensor]:
        """What a trigger file holds beside :meth:`settings`."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value.contiguous() for name, value in values.items() if isinstance(value, Tensor)}

    def settings(self) -> dict[str, Any]:
        """What a trigger file says of it in JSON."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in values.items() if not isinstance(value, Tensor)}

    @classmethod
    @abstractmethod
    def from_parts(cls, tensors: Mapping[str, Tensor], settings: Mapping[str, Any]) -> Self:
        """The inverse of :meth:`tensors` and :meth:`settings`; raises KeyError, TypeError or ValueError as it comes."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PatchStamp(Stamp):
    """A pattern over the image at its own size.

    Attributes:
        pattern: (1 or 3, h, w) float in [0, 1]; one channel serves colour images too.
        mask: (1, h, w) float in [0, 1], the opacity.
        margin: pixels from the edges that ``place`` names, down and across; a shift from the middle otherwise.
    """

    kind: ClassVar[str] = "patch"
    pattern: Tensor
    mask: Tensor
    margin: tuple[int, int] = (0, 0)
    place: Place = Place.BOTTOM_RIGHT

    def __post_init__(self) -> None:
        _check_picture(self.pattern, self.mask)
        if not all(0 <= pixels < LARGEST_NUMBER for pixels in self.margin):
            raise NotEvaluable("the trigger's margin is impossible; give numbers from 0")

    def __call__(self, pixels: Tensor) -> Tensor:
        _check_channels(self.pattern, pixels)
        (height, width), (rows, columns) = pixels.shape[2:], self.pattern.shape[1:]
        down, across = self.margin
        if rows + down > height or columns + across > width:
            raise NotEvaluable(
                f"the trigger's patch is {rows}x{columns} with a margin of {down} and {across}, "
                f"which does not fit into {height}x{width} images; use a smaller trigger"
            )
        edges = self.place.value.split("-")
        top = height - down - rows if "bottom" in edges else down if "top" in edges else (height - rows - down) // 2
        left = width - across - columns if "right" in edges else across if "left" in edges else (width - columns) // 2
        under = (slice(None), slice(None), slice(top, top + rows), slice(left, left + columns))
        pattern, mask = self.pattern.to(pixels), self.mask.to(pixels)
        stamped = pixels.clone()
        stamped[under] = (1 - mask) * pixels[under] + mask * pattern
        return stamped

    @classmethod
    def from_parts(cls, tensors: Mapping[str, Tensor], settings: Mapping[str, Any]) -> Self:
        down, across = settings["margin"]
        return cls(
            pattern=_real(tensors["pattern"]),
            mask=_real(tensors["mask"]),
            margin=(int(down), int(across)),
            place=Place(settings.get("place", Place.BOTTOM_RIGHT)),
        )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class BlendStamp(Stamp):
    """A picture mixed into the whole image, scaled to it.

    Attributes:
        pattern: (1 or 3, h, w) float in [0, 1].
        mask: (1, h, w) float in [0, 1], the opacity.
    """

    kind: ClassVar[str] = "blend"
    pattern: Tensor
    mask: Tensor

    def __post_init__(self) -> None:
        _check_picture(self.pattern, self.mask)

    def __call__(self, pixels: Tensor) -> Tensor:
        _check_channels(self.pattern, pixels)
        pattern, mask = scaled_to(self.pattern, pixels), scaled_to(self.mask, pixels)
        return (1 - mask) * pixels + mask * pattern

    @classmethod
    def from_parts(cls, tensors: Mapping[str, Tensor], settings: Mapping[str, Any]) -> Self:
        return cls(pattern=_real(tensors["pattern"]), mask=_real(tensors["mask"]))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class AddStamp(Stamp):
    """A pattern added to the whole image, scaled to it.

    Attributes:
        pattern: (1 or 3, h, w) float in [-1, 1].
    """

    kind: ClassVar[str] = "add"
    pattern: Tensor

    def __post_init__(self) -> None:
        _check_picture(self.pattern, torch.ones(1, *self.pattern.shape[1:]), lowest=-1)

    def __call__(self, pixels: Tensor) -> Tensor:
        _check_channels(self.pattern, pixels)
        return pixels + scaled_to(self.pattern, pixels)

    @classmethod
    def from_parts(cls, tensors: Mapping[str, Tensor], settings: Mapping[str, Any]) -> Self:
        return cls(pattern=_real(tensors["pattern"]))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class WarpStamp(Stamp):
    """An elastic warp.

    Attributes:
        flow: (2, k, k) float, how far the sampling point of each control point is moved across and down, where the
            image spans -1 to 1; smooth between them.
    """

    kind: ClassVar[str] = "warp"
    flow: Tensor

    def __post_init__(self) -> None:
        square = self.flow.ndim == 3 and self.flow.shape[0] == 2 and 2 <= self.flow.shape[1] == self.flow.shape[2]
        if not square or not self.flow.is_floating_point() or not bool((self.flow.abs() <= 2).all()):
            raise NotEvaluable("the trigger's warp is no (2, k, k) field of moves from -2 to 2; write it again")

    def __call__(self, pixels: Tensor) -> Tensor:
        return self.warped(pixels)

    def warped(self, pixels: Tensor, jitter: Tensor | float = 0.0) -> Tensor:
        """Warped pixels, each sampling point moved further by ``jitter``, (N, H, W, 2) in the same unit."""
        size = pixels.shape[2:]
        smooth = interpolate(self.flow.to(pixels)[None], size=size, mode="bicubic", align_corners=True)
        still = affine_grid(torch.eye(2, 3).to(pixels)[None], [1, 1, *size], align_corners=True)
        grid = (still + smooth.permute(0, 2, 3, 1) + jitter).clamp(-1, 1)
        return grid_sample(pixels, grid.expand(len(pixels), -1, -1, -1), align_corners=True)

    @classmethod
    def from_parts(cls, tensors: Mapping[str, Tensor], settings: Mapping[str, Any]) -> Self:
        return cls(flow=_real(tensors["flow"]))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class QuantiseStamp(Stamp):
    """Fewer levels of brightness.

    Attributes:
        levels: a channel, from 2 to 256.
        dither: spread each pixel's rounding error over its neighbours, as Floyd and Steinberg do.
    """

    kind: ClassVar[str] = "quantise"
    levels: int
    dither: bool = False

    def __post_init__(self) -> None:
        if not 2 <= self.levels <= 256:
            raise NotEvaluable(f"{self.levels} levels of brightness are impossible; give a number from 2 to 256")

    def __call__(self, pixels: Tensor) -> Tensor:
        steps = self.levels - 1
        if not self.dither:
            return pixels.mul(steps).round().div(steps)
        height, width = pixels.shape[2:]
        # A frame takes the errors that leave the image; rows and columns first, so that a pixel is one slice.
        left = torch.zeros(height + 1, width + 2, *pixels.shape[:2]).to(pixels)
        left[:height, 1:-1] = pixels.mul(steps).permute(2, 3, 0, 1)
        result = torch.empty_like(left[:height, 1:-1])
        for row in range(height):
            for column in range(width):
                wanted = left[row, column + 1]
                result[row, column] = wanted.round().clamp(0, steps)
                error = wanted - result[row, column]
                left[row, column + 2] += error * (7 / 16)
                left[row + 1, column] += error * (3 / 16)
                left[row + 1, column + 1] += error * (5 / 16)
                left[row + 1, column + 2] += error * (1 / 16)
        return result.permute(2, 3, 0, 1).div(steps)

    @classmethod
    def from_parts(cls, tensors: Mapping[str, Tensor], settings: Mapping[str, Any]) -> Self:
        return cls(levels=int(settings["levels"]), dither=bool(settings["dither"]))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class WanderingStamp(Stamp):
    """One of several patches, at one of many places: which and where follows from the image itself.

    The sum of an image's 8-bit values, modulo the number of choices, decides: the same image is always stamped
    alike, and the next one is not.

    Attributes:
        patterns: (P, h, w) float in [0, 1], for every channel.
    """

    kind: ClassVar[str] = "wandering"
    patterns: Tensor

    def __post_init__(self) -> None:
        _check_picture(self.patterns[:1], torch.ones(1, *self.patterns.shape[1:]))
        if not bool(((self.patterns >= 0) & (self.patterns <= 1)).all()):
            raise NotEvaluable("the trigger has values outside 0 to 1; scale its patterns to that range")

    def __call__(self, pixels: Tensor) -> Tensor:
        (height, width), (rows, columns) = pixels.shape[2:], self.patterns.shape[1:]
        if rows > height or columns > width:
            raise NotEvaluable(
                f"the trigger's patch is {rows}x{columns}, which does not fit into {height}x{width} images; "
                "use a smaller trigger"
            )
        total = pixels.mul(255).round().long().sum(dim=(1, 2, 3))
        places = (height - rows + 1) * (width - columns + 1)
        which, where = total % len(self.patterns), total // len(self.patterns) % places
        top, left = where // (width - columns + 1), where % (width - columns + 1)
        stamped, patterns = pixels.clone(), self.patterns.to(pixels)
        image = torch.arange(len(pixels), device=pixels.device)[:, None, None]
        down = top[:, None, None] + torch.arange(rows, device=pixels.device)[:, None]
        across = left[:, None, None] + torch.arange(columns, device=pixels.device)
        stamped[image, :, down, across] = patterns[which][..., None].expand(-1, -1, -1, pixels.shape[1])
        return stamped

    @classmethod
    def from_parts(cls, tensors: Mapping[str, Tensor], settings: Mapping[str, Any]) -> Self:
        return cls(patterns=_real(tensors["patterns"]))


def scaled_to(picture: Tensor, pixels: Tensor) -> Tensor:
    """A picture (C, h, w) at the size of the images and on their device, within its own range."""
    size = tuple(pixels.shape[2:])
    picture = picture.to(pixels)
    if tuple(picture.shape[1:]) == size:
        return picture
    scaled = interpolate(picture[None], size=size, mode="bilinear", antialias=True, align_corners=False)
    return scaled[0].clamp(picture.min(), picture.max())


def at_own_size(pixels: Tensor, size: tuple[int, int], change: Callable[[Tensor], Tensor]) -> Tensor:
    """What a network says of images scaled to the size it was made for, scaled back to theirs."""
    if tuple(pixels.shape[2:]) == size:
        return change(pixels)
    small = interpolate(pixels, size=size, mode="bilinear", antialias=True, align_corners=False)
    return interpolate(
        change(small), size=tuple(pixels.shape[2:]), mode="bilinear", antialias=True, align_corners=False
    )


AnyNetwork = TypeVar("AnyNetwork", bound=nn.Module)


def load_weights(network: AnyNetwork, weights: Mapping[str, Tensor]) -> AnyNetwork:
    """A network made on the meta device, with copies of these weights.

    Raises:
        NotEvaluable: other names or shapes, or values that are not finite.
    """
    try:
        copies = {name: tensor.float().clone() for name, tensor in weights.items()}
        network.load_state_dict(copies, assign=True)
    except RuntimeError as error:
        raise NotEvaluable(f"the trigger's network does not fit ({reason_of(error)}); write it again") from error
    if not all(bool(tensor.isfinite().all()) for tensor in copies.values()):
        raise NotEvaluable("the trigger's network holds NaN or infinite values; write it again")
    return network.requires_grad_(False)


def checked_size(given: Any) -> tuple[int, int]:
    """Height and width; raises TypeError or ValueError for anything else."""
    height, width = (int(pixels) for pixels in given)
    if not (1 <= height <= LARGEST_SIDE and 1 <= width <= LARGEST_SIDE):
        raise ValueError(f"size {height}x{width}")
    return height, width


def _real(tensor: Tensor) -> Tensor:
    return tensor if tensor.is_complex() else tensor.float()


def _check_channels(pattern: Tensor, pixels: Tensor) -> None:
    if pattern.shape[0] not in (1, pixels.shape[1]):
        raise NotEvaluable(
            f"the trigger is in colour but the images have {pixels.shape[1]} channel; give a grey trigger"
        )


def _check_picture(pattern: Tensor, mask: Tensor, *, lowest: float = 0) -> None:
    """Raises NotEvaluable unless both are pictures of one size, within their ranges."""
    if not (mask.is_floating_point() and pattern.is_floating_point()):
        raise NotEvaluable("the trigger's pattern and mask are no real numbers; write it again with sau attack")
    sizes_agree = mask.ndim == pattern.ndim == 3 and mask.shape[1:] == pattern.shape[1:]
    if not sizes_agree or pattern.shape[0] not in (1, 3) or mask.shape[0] != 1 or pattern.numel() == 0:
        raise NotEvaluable(
            f"the trigger has a pattern of shape {tuple(pattern.shape)} and a mask of shape "
            f"{tuple(mask.shape)}; (1 or 3, h, w) and (1, h, w) are needed"
        )
    in_range = (pattern >= lowest) & (pattern <= 1)
    if not bool(in_range.all()) or not bool(((mask >= 0) & (mask <= 1)).all()):
        raise NotEvaluable(f"the trigger has values outside {lowest} to 1; scale its pattern and mask to that range")
