"""Changes that all images may share, by kind: what the numbers that a search moves mean in pixels.

A change is told by a row of free numbers, so that a search may move many at once. Each kind has a budget that no row
exceeds: what tells a backdoor is how far a class gets with little.

Source: Wang et al., "Neural Cleanse", S&P 2019 (a mask and a pattern); Gu et al., "BadNets", 2017 (squares); Chen et
al., "Targeted Backdoor Attacks", 2017, and Zeng et al., "Rethinking the Backdoor Attacks' Triggers", ICCV 2021 (smooth
additions); Nguyen and Tran, "WaNet", ICLR 2021 (warps).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from enum import StrEnum
from math import ceil, prod
from typing import assert_never

import torch
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample, interpolate

Shape = tuple[int, int, int]
"""Channels, height and width of an image."""
SHARP, FAINT = 3.0, 0.5
"""Free numbers of patterns, as deviations: near black and white, and near grey."""
BISECTIONS = 24
"""Halvings of an interval of 100: to a hundred-thousandth."""


class ChangeKind(StrEnum):
    """``square``: the pixels of one square take on a pattern. ``spot``: those of a square half as wide. ``mask``: any
    few pixels do. ``smooth``: a smooth picture is added everywhere. ``warp``: the image is bent.
    """

    SQUARE = "square"
    MASK = "mask"
    SMOOTH = "smooth"
    WARP = "warp"
    SPOT = "spot"


SEARCHED = (ChangeKind.SQUARE, ChangeKind.MASK, ChangeKind.SMOOTH, ChangeKind.SPOT)
"""The kinds that purification and the residual test go through; their order is kept in states of interrupted runs."""
SPOT_SIDE = 0.09375
"""Of an image's shorter side: 3 pixels of 32, as the triggers of many papers have."""
SPOTS_ALONG, LARGE_SPOTS_ALONG = 16, 6
"""Places along a side where a spot may be. A network for large images has a trigger in more than one place."""
CELLS_ALONG = 32
"""Of a mask's cells along the shorter side of a large image, of which a search could not move every pixel by itself."""
LARGE = 128 * 128
"""Pixels of an image from which on a search is kept short."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Change(ABC):
    """A kind of change, for images of one shape.

    Attributes:
        shape: C, H and W.
    """

    shape: Shape

    @property
    @abstractmethod
    def numbers(self) -> int:
        """Free numbers of a change, P."""

    @property
    def starts(self) -> int:
        """How many beginnings there are that a search tells apart, S."""
        return 4

    @abstractmethod
    def proposals(self, count: int, stream: torch.Generator) -> Tensor:
        """Rows of free numbers to begin from, on the CPU: ``count`` for each beginning, (S, count, P)."""

    @abstractmethod
    def changed(self, images: Tensor, free: Tensor) -> Tensor:
        """Images (N, C, H, W) in [0, 1], each with the change of its own row (N, P), in [0, 1]."""

    def allowed(self, free: Tensor) -> Tensor:
        """Rows (A, P) brought back within the budget; those that are within it stay as they are."""
        return free

    def loosened(self, factor: float) -> Change:
        """The same kind with a budget that is so many times as large."""
        return self

    @abstractmethod
    def mask(self, free: Tensor) -> Tensor:
        """How much rows (A, P) change each pixel: (A, H, W), at least 0."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SquarePattern(Change):
    """x̃ = p inside of a square, x elsewhere. The square stays where it begins; there are beginnings all over the image.

    The free numbers are the square's first row and column, which no step moves, and p.

    A search looks at them all, and goes on where they lead furthest: a network that flattens its features has a trigger
    in one place only.

    Attributes:
        side: of the square, as a share of the image's shorter side; 3 pixels at the least.
        along: beginnings along each side of the image; None for side by side.
    """

    side: float = 0.1875
    along: int | None = None

    @property
    def pixels(self) -> int:
        """Of a side."""
        return min(max(3, round(self.side * min(self.shape[1:]))), *self.shape[1:])

    @property
    def numbers(self) -> int:
        return 2 + self.shape[0] * self.pixels**2

    @property
    def corners(self) -> Tensor:
        """The first row and column of every beginning, (S, 2): even, and side by side rather overlapping than apart."""
        along = []
        for extent in self.shape[1:]:
            room = extent - self.pixels
            count = ceil(room / self.pixels) + 1 if self.along is None else min(self.along, room + 1)
            along.append(torch.linspace(0, room, count).round())
        return torch.cartesian_prod(*along).reshape(-1, 2)

    @property
    def starts(self) -> int:
        return len(self.corners)

    def proposals(self, count: int, stream: torch.Generator) -> Tensor:
        """In every place: the pure colours, black and white among them, then sharp and faint noise in turns.

        Triggers are often of pure colours, and a search from noise does not always come to one.
        """
        channels = self.shape[0]
        free = torch.randn(self.starts, count, channels, self.pixels, self.pixels, generator=stream)
        free[:, ::2] *= SHARP
        free[:, 1::2] *= FAINT
        pure = torch.cartesian_prod(*[torch.tensor([-SHARP, SHARP])] * min(channels, 3)).reshape(-1, min(channels, 3))
        for place, colour in enumerate(pure[: count - 1] if channels <= 3 else ()):
            free[:, place] = colour[:, None, None]
        corners = self.corners[:, None].expand(-1, count, -1)
        return torch.cat([corners, free.flatten(2)], dim=2)

    def covered(self, free: Tensor) -> tuple[Tensor, Tensor]:
        """The rows and the columns of each square, (A, side) int64 both; no square lies beyond the image."""
        room = torch.tensor(self.shape[1:], device=free.device) - self.pixels
        corners = torch.minimum(free[:, :2].detach().round().long().clamp_min(0), room)
        along = torch.arange(self.pixels, device=free.device)
        return corners[:, :1] + along, corners[:, 1:] + along

    def mask(self, free: Tensor) -> Tensor:
        mask = free.new_zeros(len(free), *self.shape[1:])
        rows, columns = self.covered(free)
        mask[torch.arange(len(free))[:, None, None], rows[:, :, None], columns[:, None, :]] = 1
        return mask

    def changed(self, images: Tensor, free: Tensor) -> Tensor:
        pattern = free[:, 2:].sigmoid().reshape(-1, self.shape[0], self.pixels, self.pixels)
        number = torch.arange(len(free), device=free.device)[:, None, None, None]
        channel = torch.arange(self.shape[0], device=free.device)[:, None, None]
        rows, columns = self.covered(free)
        return images.index_put((number, channel, rows[:, None, :, None], columns[:, None, None, :]), pattern)


@dataclass(frozen=True, slots=True, kw_only=True)
class MaskedPattern(Change):
    """x̃ = (1 - m)·x + m·p, with one m and one p a cell; the mean of m over the cells is within the budget.

    Attributes:
        budget: the largest mean of m.
        cell: pixels of a cell's side; 1 for one m a pixel.

    Source: Wang et al., Neural Cleanse, equation 2; sigmoids keep m and p in range.
    """

    budget: float = 0.03
    cell: int = 1

    def loosened(self, factor: float) -> MaskedPattern:
        """A trigger in several places that count together has no slope within a small budget."""
        return replace(self, budget=min(1.0, factor * self.budget))

    @property
    def cells(self) -> tuple[int, int]:
        """Down and across; the last ones may be cut."""
        return ceil(self.shape[1] / self.cell), ceil(self.shape[2] / self.cell)

    @property
    def numbers(self) -> int:
        return (1 + self.shape[0]) * prod(self.cells)

    def proposals(self, count: int, stream: torch.Generator) -> Tensor:
        drawn = FAINT * torch.randn(self.starts, count, self.numbers, generator=stream)
        drawn[..., prod(self.cells) :] *= SHARP
        return drawn

    def allowed(self, free: Tensor) -> Tensor:
        """The mask's numbers fall by the same until its mean is the budget."""
        split = prod(self.cells)
        numbers, budget = free[:, :split], self.budget
        low, high = torch.zeros_like(numbers[:, :1]), torch.full_like(numbers[:, :1], 100.0)
        for _ in range(BISECTIONS):
            middle = (low + high) / 2
            above = (numbers - middle).sigmoid().mean(dim=1, keepdim=True) > budget
            low, high = torch.where(above, middle, low), torch.where(above, high, middle)
        over = numbers.sigmoid().mean(dim=1, keepdim=True) > budget
        return torch.cat([torch.where(over, numbers - high, numbers), free[:, split:]], dim=1)

    def in_pixels(self, cells: Tensor) -> Tensor:
        """(A, n, rows, columns) of cells to (A, n, H, W)."""
        if self.cell == 1:
            return cells
        _, height, width = self.shape
        return interpolate(cells, scale_factor=self.cell, mode="nearest")[..., :height, :width]

    def mask(self, free: Tensor) -> Tensor:
        rows, columns = self.cells
        return self.in_pixels(free[:, : rows * columns].sigmoid().reshape(-1, 1, rows, columns))[:, 0]

    def changed(self, images: Tensor, free: Tensor) -> Tensor:
        rows, columns = self.cells
        pattern = free[:, rows * columns :].sigmoid().reshape(-1, self.shape[0], rows, columns)
        return images + self.mask(free)[:, None] * (self.in_pixels(pattern) - images)


@dataclass(frozen=True, slots=True, kw_only=True)
class SmoothAddition(Change):
    """x̃ = x + picture, cut to [0, 1], of a picture drawn on a coarse grid that stays within ``height``.

    Attributes:
        points: of the grid, on a side.
        height: of the picture, on pixels in [0, 1].
    """

    points: int = 8
    height: float = 0.1

    @property
    def numbers(self) -> int:
        return self.shape[0] * self.points**2

    def proposals(self, count: int, stream: torch.Generator) -> Tensor:
        return torch.randn(self.starts, count, self.numbers, generator=stream)

    def added(self, free: Tensor) -> Tensor:
        """What is added: (A, C, H, W)."""
        coarse = free.reshape(-1, self.shape[0], self.points, self.points).tanh() * self.height
        return interpolate(coarse, size=self.shape[1:], mode="bilinear", align_corners=True)

    def mask(self, free: Tensor) -> Tensor:
        return self.added(free).abs().amax(dim=1)

    def changed(self, images: Tensor, free: Tensor) -> Tensor:
        return _cut(images + self.added(free))


@dataclass(frozen=True, slots=True, kw_only=True)
class Warp(Change):
    """Images sampled elsewhere, by a smooth flow through the points of a coarse grid.

    Attributes:
        points: of the grid, on a side.
        reach: how far a point moves at most, in half sides of the image.
    """

    points: int = 4
    reach: float = 0.0625

    @property
    def numbers(self) -> int:
        return 2 * self.points**2

    def proposals(self, count: int, stream: torch.Generator) -> Tensor:
        return torch.randn(self.starts, count, self.numbers, generator=stream)

    def flow(self, free: Tensor) -> Tensor:
        """How far from itself each pixel looks, (A, H, W, 2), across and down."""
        coarse = free.reshape(-1, 2, self.points, self.points).tanh() * self.reach
        return interpolate(coarse, size=self.shape[1:], mode="bicubic", align_corners=True).movedim(1, 3)

    def mask(self, free: Tensor) -> Tensor:
        return self.flow(free).square().sum(dim=3).sqrt()

    def changed(self, images: Tensor, free: Tensor) -> Tensor:
        still = torch.eye(2, 3, device=images.device, dtype=images.dtype).expand(len(images), 2, 3)
        places = affine_grid(still, list(images.shape), align_corners=True) + self.flow(free).to(images.dtype)
        return grid_sample(images, places, mode="bilinear", padding_mode="border", align_corners=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fainter(Change):
    """x̃ = x + share·(x' - x), where x' is the image with another change.

    Attributes:
        change: that other one.
        share: of it that is left, in (0, 1].
    """

    change: Change
    share: float

    @property
    def numbers(self) -> int:
        return self.change.numbers

    @property
    def starts(self) -> int:
        return self.change.starts

    def proposals(self, count: int, stream: torch.Generator) -> Tensor:
        return self.change.proposals(count, stream)

    def changed(self, images: Tensor, free: Tensor) -> Tensor:
        return images + self.share * (self.change.changed(images, free) - images)

    def allowed(self, free: Tensor) -> Tensor:
        return self.change.allowed(free)

    def mask(self, free: Tensor) -> Tensor:
        return self.share * self.change.mask(free)


def _cut(pixels: Tensor) -> Tensor:
    """Cut to [0, 1], with the slope of uncut ones: a search could never leave black or white otherwise."""
    return pixels + (pixels.clamp(0, 1) - pixels).detach()


def change_of(kind: ChangeKind, shape: Shape) -> Change:
    """The kind by its name, for images of this shape."""
    large = shape[1] * shape[2] >= LARGE
    match kind:
        case ChangeKind.SQUARE:
            return SquarePattern(shape=shape)
        case ChangeKind.MASK:
            return MaskedPattern(shape=shape, cell=round(min(shape[1:]) / CELLS_ALONG) if large else 1)
        case ChangeKind.SMOOTH:
            return SmoothAddition(shape=shape)
        case ChangeKind.WARP:
            return Warp(shape=shape)
        case ChangeKind.SPOT:
            return SquarePattern(shape=shape, side=SPOT_SIDE, along=LARGE_SPOTS_ALONG if large else SPOTS_ALONG)
        case _ as never:
            assert_never(never)


def searched_for(shape: Shape) -> dict[ChangeKind, Change]:
    """The kinds that are gone through for images of this shape: of tiny ones a square is a spot already."""
    changes = {kind: change_of(kind, shape) for kind in SEARCHED}
    square, spot = changes[ChangeKind.SQUARE], changes[ChangeKind.SPOT]
    if isinstance(square, SquarePattern) and isinstance(spot, SquarePattern) and spot.pixels >= square.pixels:
        del changes[ChangeKind.SPOT]
    return changes
