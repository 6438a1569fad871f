"""What is drawn for each image of a batch: uniform random numbers, by what they decide."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from sau_cli.unlearning.recipes import Recipe

OF_A_PATCH = 3
"""How large it is, how far down, and how far across."""
OF_A_WAVE = 4
"""Its direction, frequency, phase and height."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class StartDraws:
    """Where a perturbation that several images may share begins; all in [0, 1).

    Attributes:
        kind: (N, 1): a warp, a wave or blobs, by the recipe's shares.
        wave: (N, 4): direction, frequency, phase and height.
        grid: (N, G): at each point of the grid of blobs or of a warp, one after another.
    """

    kind: Tensor
    wave: Tensor
    grid: Tensor

    def __len__(self) -> int:
        return len(self.kind)

    def of(self, at: Tensor) -> StartDraws:
        """Those of the images ``at`` (n,), which may name one several times."""
        return StartDraws(kind=self.kind[at], wave=self.wave[at], grid=self.grid[at])

    def to(self, like: Tensor) -> StartDraws:
        """The same numbers in the type of another tensor."""
        return StartDraws(kind=self.kind.to(like.dtype), wave=self.wave.to(like.dtype), grid=self.grid.to(like.dtype))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Draws:
    """All that is drawn for N images; in [0, 1).

    Attributes:
        kind: (N,): in a square or within the ball, by the recipe's share.
        side: (N,): how large the square is.
        down, across: (N,): where it is.
        colour: (N, C): what it begins as.
        start: where what is no square begins.
    """

    kind: Tensor
    side: Tensor
    down: Tensor
    across: Tensor
    colour: Tensor
    start: StartDraws

    @property
    def cut_off(self) -> Tensor:
        """How fine the steps within the ball may be, (N,): the number that decides a square's side, for images in none.

        A group takes that of its first image, whichever kind this is.
        """
        return self.side


def draws_needed(channels: int, recipe: Recipe) -> int:
    """How many numbers :func:`read_draws` takes for an image of so many channels."""
    return 1 + OF_A_PATCH + channels + draws_for_starts(channels, recipe)


def draws_for_starts(channels: int, recipe: Recipe) -> int:
    """Of those, how many the :class:`StartDraws` are; they come last. Blobs need a grid a channel, and a warp two."""
    return 1 + OF_A_WAVE + max(channels, 2) * recipe.coarse_points**2


def read_draws(numbers: Tensor, channels: int, recipe: Recipe) -> Draws:
    """The numbers (N, D) in [0, 1), with D by :func:`draws_needed`, by what they decide."""
    grids = max(channels, 2) * recipe.coarse_points**2
    kind, patch, colour, start_kind, wave, grid = numbers.split([1, OF_A_PATCH, channels, 1, OF_A_WAVE, grids], dim=1)
    side, down, across = patch.unbind(dim=1)
    return Draws(
        kind=kind[:, 0],
        side=side,
        down=down,
        across=across,
        colour=colour,
        start=StartDraws(kind=start_kind, wave=wave, grid=grid),
    )
