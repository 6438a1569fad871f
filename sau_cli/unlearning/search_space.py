"""What a perturbation may be: a box for every pixel, a place to start, and the length of a step."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sau_cli.unlearning.recipes import Recipe

SMALLEST_PATCH, LARGEST_PATCH = 2, 0.25
"""Pixels on a side, and the share of an image's height."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SearchSpace:
    """Where the perturbations δ of a batch may go.

    Attributes:
        low, high: (N, C, H, W), the bounds of δ, on pixels in [0, 1].
        start: (N, C, H, W), where the search begins; within the bounds.
        step: (N, 1, 1, 1), the length of a signed-gradient step.
        patched: (N,) bool, the images of which only a square may change.
    """

    low: Tensor
    high: Tensor
    start: Tensor
    step: Tensor
    patched: Tensor

    def of(self, at: Tensor) -> SearchSpace:
        """That of the images ``at`` (n,) alone."""
        return SearchSpace(
            low=self.low[at],
            high=self.high[at],
            start=self.start[at],
            step=self.step[at],
            patched=self.patched[at],
        )

    def moved(self, delta: Tensor, direction: Tensor, at: Tensor) -> Tensor:
        """δ of the images ``at`` (n,), one step further in a direction of signs, and within the bounds."""
        return torch.clamp(delta + self.step[at] * direction, self.low[at], self.high[at])


def ball(images: Tensor, *, epsilon: float, step: float, clip: bool) -> SearchSpace:
    """The L∞ ball of radius ε, from its corner +ε; with ``clip``, as much of it as keeps pixels within [0, 1].

    Source: Wei et al.; the authors' code starts at +ε and does not clip.
    """
    high = torch.full_like(images, epsilon)
    low = -high
    if clip:
        low, high = torch.maximum(low, -images), torch.minimum(high, 1 - images)
    return SearchSpace(
        low=low,
        high=high,
        start=high.clone(),
        step=images.new_full((len(images), 1, 1, 1), step),
        patched=torch.zeros(len(images), dtype=torch.bool, device=images.device),
    )


def patches(images: Tensor, draws: Tensor) -> SearchSpace:
    """A square of each image, whose pixels may take any value in [0, 1]; the rest stays as it is.

    Sides go from 2 pixels to a quarter of the image; the search begins with a square of one colour, and a
    step is half of the range. Triggers like BadNets' lie outside any small ball, and inside this.

    Args:
        images: (N, C, H, W) float in [0, 1].
        draws: (N, 3 + C) in [0, 1): how large, how far down, how far across, and the colour.
    """
    height, width = images.shape[2:]
    largest = max(SMALLEST_PATCH, round(LARGEST_PATCH * min(height, width)))
    side = SMALLEST_PATCH + (draws[:, 0] * (largest + 1 - SMALLEST_PATCH)).floor()
    side = side.clamp(max=min(height, width))
    inside = []
    for draw, extent in ((draws[:, 1], height), (draws[:, 2], width)):
        first = (draw * (extent + 1 - side)).floor()
        places = torch.arange(extent, device=draws.device)
        inside.append((places >= first[:, None]) & (places < (first + side)[:, None]))
    mask = inside[0][:, None, :, None] & inside[1][:, None, None, :]
    return SearchSpace(
        low=-images * mask,
        high=(1 - images) * mask,
        start=(draws[:, 3:, None, None].to(images.dtype) - images) * mask,
        step=images.new_full((len(images), 1, 1, 1), 0.5),
        patched=torch.ones(len(images), dtype=torch.bool, device=images.device),
    )


def mixed(first: SearchSpace, second: SearchSpace, takes_second: Tensor) -> SearchSpace:
    """The second space for the images that ``takes_second`` (N,) names, the first for the others."""
    which = takes_second[:, None, None, None]
    return SearchSpace(
        low=torch.where(which, second.low, first.low),
        high=torch.where(which, second.high, first.high),
        start=torch.where(which, second.start, first.start),
        step=torch.where(which, second.step, first.step),
        patched=torch.where(takes_second, second.patched, first.patched),
    )


def drawn_space(images: Tensor, draws: Tensor, recipe: Recipe) -> SearchSpace:
    """The recipe's space: a ball for most images, a patch for a share of them.

    Args:
        images: (N, C, H, W) float in [0, 1].
        draws: (N, 4 + C) in [0, 1): which kind, and what :func:`patches` takes.
    """
    everywhere = ball(images, epsilon=recipe.epsilon, step=recipe.step, clip=recipe.clip)
    patched = draws[:, 0] < recipe.patch_share
    return mixed(everywhere, patches(images, draws[:, 1:]), patched) if patched.any() else everywhere
