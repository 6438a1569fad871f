"""Where a search begins that several images share: as blobs or a wave, and at the best of several proposals."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from sau_cli.unlearning.draws import StartDraws
from sau_cli.unlearning.frequencies import cut_offs
from sau_cli.unlearning.recipes import Recipe


def blobs(grid: Tensor, shape: tuple[int, int, int], recipe: Recipe) -> Tensor:
    """Smooth random regions of -1 and 1, as a picture that is mixed in has them; (N, G) to (N, C, H, W).

    Args:
        grid: G numbers in [0, 1) an image, the recipe's ``coarse_points``² a channel or more.
        shape: C, H and W.
    """
    points = recipe.coarse_points
    coarse = grid[:, : shape[0] * points**2].reshape(len(grid), shape[0], points, points) - 0.5
    return interpolate(coarse, size=shape[1:], mode="bilinear").sign()


def waves(draws: Tensor, shape: tuple[int, int, int], recipe: Recipe) -> Tensor:
    """A sine of random direction, frequency, phase and height, all colours alike; (N, 4) to (N, C, H, W) in [-1, 1].

    Frequencies are drawn by :func:`~sau_cli.unlearning.frequencies.cut_offs`; heights go from the recipe's
    ``lowest_wave`` to 1. No blob is near one of them, and coarser patterns are left to blobs.
    """
    channels, height, width = shape
    turned, fine, phase, tall = draws.unbind(dim=1)
    frequency = cut_offs(fine, min(height, width), fewest_cycles=recipe.fewest_cycles)
    angle = torch.pi * turned
    rows, columns = torch.arange(height, device=draws.device)[:, None], torch.arange(width, device=draws.device)
    down, across = (part[:, None, None] for part in (frequency * angle.sin(), frequency * angle.cos()))
    turns = down * rows + across * columns + phase[:, None, None]
    tallness = recipe.lowest_wave + tall[:, None, None] * (1 - recipe.lowest_wave)
    return (tallness * torch.sin(2 * torch.pi * turns))[:, None].expand(-1, channels, -1, -1)


def best_proposals(
    images: Tensor,
    draws: StartDraws,
    recipe: Recipe,
    groups: Sequence[int],
    *,
    begun: Callable[[Tensor, StartDraws], Tensor],
    received: Callable[[Tensor], Tensor],
) -> Tensor:
    """Which image of each group, (G,), has drawn the start that sends the group's images to one class most.

    Each of the first ``recipe.proposals`` images proposes a start, and the first ``recipe.witnesses`` bear it, no more
    at a time than there are images. A trigger sends all images to one class, and few starts are near it: what
    perturbations of a group find depends on where they begin.

    Args:
        images: (N, C, H, W) float in [0, 1].
        draws: of the N images.
        groups: sizes, one after another, N in all.
        begun: images (n, C, H, W) and n draws to the images perturbed as the search would begin.
        received: (n, C, H, W) to logits (n, K).
    """
    chosen = []
    for group in torch.arange(len(images), device=images.device).split(list(groups)):
        proposed, seen = group[: recipe.proposals], images[group[: recipe.witnesses]]
        before, gains = received(seen).softmax(dim=1), []
        for some in proposed.split(max(1, len(images) // len(seen))):
            borne = begun(seen.repeat(len(some), 1, 1, 1), draws.of(some.repeat_interleave(len(seen))))
            after = received(borne).softmax(dim=1)
            gains.append((after.unflatten(0, (len(some), len(seen))) - before).mean(dim=1).amax(dim=1))
        chosen.append(proposed[torch.cat(gains).argmax()])
    return torch.stack(chosen)
