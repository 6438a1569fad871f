"""What a perturbation may be: a box for every pixel, a place to start, and the length of a step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample, interpolate

from sau_cli.unlearning.recipes import Recipe

SMALLEST_PATCH, LARGEST_PATCH = 2, 0.25
"""Pixels on a side, and the share of an image's height."""
COARSE = 4
"""Random blobs are drawn, and warps are searched for, on a grid of so many points on a side."""
REACH = 1 / 32
"""How far a point of a warp may move, in half sides of the image: half a pixel of 32."""
WITNESSES = 4
"""Images of a group that tell how good a start is."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SearchSpace:
    """Where the perturbations δ of a batch may go.

    Attributes:
        low, high: (N, C, H, W), the bounds of δ, on pixels in [0, 1].
        start: (N, C, H, W), where the search begins; within the bounds.
        step: (N, 1, 1, 1), the length of a signed-gradient step.
        patched: (N,) bool, the images of which only a square may change.
        warped: (N,) bool, the images that are bent: their δ is no addition but :func:`bent`'s; None where none is.
        together: (N,) int64 below N, or None: images with the same number take the same steps, those that most of
            them need.
        cut_off: (N,), or None: in cycles a pixel; whatever of the gradient is finer than this counts for nothing, the
            same for all that go together.
    """

    low: Tensor
    high: Tensor
    start: Tensor
    step: Tensor
    patched: Tensor
    warped: Tensor | None = None
    together: Tensor | None = None
    cut_off: Tensor | None = None

    def of(self, at: Tensor) -> SearchSpace:
        """That of the images ``at`` (n,) alone, with the numbers that they had."""
        return SearchSpace(**{name: None if tensor is None else tensor[at] for name, tensor in self.tensors().items()})  # type: ignore[arg-type]

    def tensors(self) -> dict[str, Tensor | None]:
        """All of it by name."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def perturbed(self, images: Tensor, delta: Tensor) -> Tensor:
        """The images (N, C, H, W) with their δ."""
        added = images + delta
        if self.warped is None:
            return added
        return torch.where(self.warped[:, None, None, None], bent(images, delta), added)

    def recovery(self, recipe: Recipe) -> Tensor:
        """The recipe's weight of learning the clean prediction for each perturbed image, (N,)."""
        weight = torch.where(self.patched, recipe.patch_recovery, recipe.ball_recovery)
        return weight if self.warped is None else torch.where(self.warped, recipe.warp_recovery, weight)

    def direction(self, gradient: Tensor, numbers: int) -> Tensor:
        """Signs of the gradients (n, C, H, W), summed over images that go together, by numbers below ``numbers``."""
        if self.together is not None:
            sums = gradient.new_zeros(numbers, *gradient.shape[1:])
            gradient = sums.index_add_(0, self.together, gradient)[self.together]
            if self.cut_off is not None:
                gradient = low_passed(gradient, self.cut_off)
        return gradient.sign()

    def moved(self, delta: Tensor, direction: Tensor) -> Tensor:
        """δ one step further in a direction of signs, and within the bounds."""
        return torch.clamp(delta + self.step * direction, self.low, self.high)


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
    step is half of the range. Triggers like BadNets' lie outside any small ball, and inside this. A square that would
    hang over an edge is moved inside, so that no pixel is in fewer squares than those of the middle are: triggers like
    to sit in a corner.

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
        over_the_edge = (draw * (extent + side - 1)).floor() - (side - 1)
        first = over_the_edge.clamp(min=0).minimum(extent - side)
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


def bent(images: Tensor, delta: Tensor) -> Tensor:
    """Images (N, C, H, W) sampled elsewhere: by a smooth flow through the points whose moves stand first in δ.

    Source: Nguyen and Tran, "WaNet", ICLR 2021, arXiv 2102.10369, whose triggers are such warps.
    """
    moves = delta.flatten(1)[:, : 2 * COARSE**2].reshape(-1, 2, COARSE, COARSE)
    flow = interpolate(moves, size=images.shape[2:], mode="bicubic", align_corners=True).movedim(1, 3)
    still = torch.eye(2, 3, device=images.device, dtype=images.dtype).expand(len(images), 2, 3)
    places = affine_grid(still, list(images.shape), align_corners=True) + flow
    return grid_sample(images, places, mode="bilinear", padding_mode="border", align_corners=True)


def warps(images: Tensor, draws: Tensor) -> SearchSpace:
    """Smooth warps whose points move by :data:`REACH` at most, from random ones.

    Args:
        images: (N, C, H, W) float in [0, 1], of 2 * COARSE² numbers or more each.
        draws: (N, 2 * COARSE²) in [0, 1): where the search begins.
    """
    moved = torch.zeros_like(images).flatten(1)
    moved[:, : draws.shape[1]] = REACH
    start = torch.zeros_like(moved)
    start[:, : draws.shape[1]] = REACH * (2 * draws - 1)
    return SearchSpace(
        low=-moved.view_as(images),
        high=moved.view_as(images),
        start=start.view_as(images),
        step=images.new_full((len(images), 1, 1, 1), REACH),
        patched=torch.zeros(len(images), dtype=torch.bool, device=images.device),
        warped=torch.ones(len(images), dtype=torch.bool, device=images.device),
    )


def low_passed(pictures: Tensor, cut_off: Tensor) -> Tensor:
    """Pictures (N, C, H, W) without the waves that have more than ``cut_off`` (N,) cycles a pixel."""
    height, width = pictures.shape[2:]
    down = torch.fft.fftfreq(height, device=pictures.device)[:, None]
    across = torch.fft.rfftfreq(width, device=pictures.device)
    kept = torch.fft.rfft2(pictures) * (down.hypot(across) <= cut_off[:, None, None, None])
    return torch.where(cut_off.isinf()[:, None, None, None], pictures, torch.fft.irfft2(kept, s=(height, width)))


def cut_offs(draws: Tensor, pixels: int) -> Tensor:
    """Frequencies in cycles a pixel, of draws from 0 to 1, (N,) to (N,).

    From two cycles over so many pixels to half a cycle a pixel, every octave as likely: triggers may be coarse or fine.

    >>> cut_offs(torch.tensor([0.0, 0.5, 1.0]), 16).tolist()
    [0.125, 0.25, 0.5]
    """
    coarsest = min(2 / pixels, 0.5)
    return coarsest * (0.5 / coarsest) ** draws


def mixed(first: SearchSpace, second: SearchSpace, takes_second: Tensor) -> SearchSpace:
    """The second space for the images that ``takes_second`` (N,) names, the first for the others."""
    which = takes_second[:, None, None, None]
    return SearchSpace(
        low=torch.where(which, second.low, first.low),
        high=torch.where(which, second.high, first.high),
        start=torch.where(which, second.start, first.start),
        step=torch.where(which, second.step, first.step),
        patched=torch.where(takes_second, second.patched, first.patched),
        warped=_named_by_either(second.warped, first.warped, takes_second),
    )


def _named_by_either(second: Tensor | None, first: Tensor | None, takes_second: Tensor) -> Tensor | None:
    if first is None and second is None:
        return None
    none = torch.zeros_like(takes_second)
    return torch.where(takes_second, none if second is None else second, none if first is None else first)


def blobs(draws: Tensor, shape: tuple[int, int, int]) -> Tensor:
    """Smooth random regions of -1 and 1, as a picture that is mixed in has them; (N, C * COARSE²) to (N, C, H, W)."""
    coarse = draws[:, : shape[0] * COARSE**2].reshape(len(draws), shape[0], COARSE, COARSE) - 0.5
    return interpolate(coarse, size=shape[1:], mode="bilinear").sign()


def waves(draws: Tensor, shape: tuple[int, int, int]) -> Tensor:
    """A sine of random direction, frequency, phase and height, all colours alike; (N, 4) to (N, C, H, W) in [-1, 1].

    Frequencies are drawn as :func:`cut_offs` are, from two cycles over the image on; heights go from a half to 1. No
    blob is near one of them, and coarser patterns are left to blobs.
    """
    channels, height, width = shape
    turned, fine, phase, tall = draws.unbind(dim=1)
    frequency, angle = cut_offs(fine, min(height, width)), torch.pi * turned
    rows, columns = torch.arange(height, device=draws.device)[:, None], torch.arange(width, device=draws.device)
    down, across = (part[:, None, None] for part in (frequency * angle.sin(), frequency * angle.cos()))
    turns = down * rows + across * columns + phase[:, None, None]
    return ((0.5 + tall[:, None, None] / 2) * torch.sin(2 * torch.pi * turns))[:, None].expand(-1, channels, -1, -1)


def draws_needed(channels: int) -> int:
    """How many numbers :func:`drawn_space` takes for an image."""
    return 4 + channels + draws_for_starts(channels)


def draws_for_starts(channels: int) -> int:
    """Of those, how many say where perturbations that are alike begin."""
    return 1 + 4 + max(channels, 2) * COARSE**2


def alike(images: Tensor, draws: Tensor, recipe: Recipe) -> SearchSpace:
    """A warp, or a perturbation within ε that begins as :func:`blobs` or :func:`waves`: what images may share.

    Args:
        images: (N, C, H, W) float in [0, 1].
        draws: (N, D) in [0, 1), D by :func:`draws_for_starts`: which of them, and where the search begins.
    """
    channels, height, width = shape = images.shape[1], images.shape[2], images.shape[3]
    kind, of_waves, of_others = draws.to(images.dtype).split([1, 4, max(channels, 2) * COARSE**2], dim=1)
    kind = kind[..., None, None]
    waved = kind < recipe.warp_share + recipe.wave_share
    begin = recipe.epsilon * torch.where(waved, waves(of_waves, shape), blobs(of_others, shape))
    within = ball(images, epsilon=recipe.epsilon, step=recipe.step, clip=recipe.clip)
    within = replace(within, start=torch.clamp(begin, within.low, within.high))
    warped = kind.flatten() < recipe.warp_share
    if channels * height * width < 2 * COARSE**2 or not warped.any():
        return within
    return mixed(within, warps(images, of_others[:, : 2 * COARSE**2]), warped)


def best_proposals(
    images: Tensor, draws: Tensor, recipe: Recipe, groups: Sequence[int], received: Callable[[Tensor], Tensor]
) -> Tensor:
    """Which image of each group, (G,), has drawn the start that sends the group's images to one class most.

    Each of the first ``recipe.proposals`` images proposes a start, and the first :data:`WITNESSES` bear it, no more
    at a time than there are images. A trigger sends all images to one class, and few starts are near it: what
    perturbations of a group find depends on where they begin.

    Args:
        images: (N, C, H, W) float in [0, 1].
        draws: (N, D) in [0, 1), of :func:`alike`.
        groups: sizes, one after another, N in all.
        received: (n, C, H, W) to logits (n, K).
    """
    chosen = []
    for group in torch.arange(len(images), device=images.device).split(list(groups)):
        proposed, seen = group[: recipe.proposals], images[group[:WITNESSES]]
        before, gains = received(seen).softmax(dim=1), []
        for some in proposed.split(max(1, len(images) // len(seen))):
            borne = seen.repeat(len(some), 1, 1, 1)
            space = alike(borne, draws[some].repeat_interleave(len(seen), dim=0), recipe)
            after = received(space.perturbed(borne, space.start)).softmax(dim=1)
            gains.append((after.unflatten(0, (len(some), len(seen))) - before).mean(dim=1).amax(dim=1))
        chosen.append(proposed[torch.cat(gains).argmax()])
    return torch.stack(chosen)


def drawn_space(
    images: Tensor,
    draws: Tensor,
    recipe: Recipe,
    groups: Sequence[int],
    received: Callable[[Tensor], Tensor] | None = None,
) -> SearchSpace:
    """The recipe's space: a ball for most images, a patch for a share of them.

    With ``recipe.universal``, those of a group that are in the ball go together, as a trigger does with all images:
    one search for all of them, of the kind that the first image draws, see :func:`alike`. With ``recipe.proposals``,
    it begins where :func:`best_proposals` says. A patch is of one image. With ``recipe.smooth``, the steps within ε are
    no finer than one of :func:`cut_offs`, by how large the patch of the first image would be.

    Args:
        images: (N, C, H, W) float in [0, 1].
        draws: (N, D) in [0, 1), D by :func:`draws_needed`: which kind, what :func:`patches` takes, and where
            the search begins.
        groups: sizes of the groups, one after another, N in all.
        received: the received model's logits on images, which tell a good start; None takes the first of each group.
    """
    _, channels, height, width = images.shape
    patched = draws[:, 0] < recipe.patch_share
    together = cut_off = None
    if not recipe.universal:
        everywhere = ball(images, epsilon=recipe.epsilon, step=recipe.step, clip=recipe.clip)
    else:
        number = torch.repeat_interleave(torch.tensor(groups, device=images.device))
        first = torch.tensor([0, *groups], device=images.device).cumsum(0)[number]
        alone = len(groups) + torch.arange(len(images), device=images.device)
        together = torch.where(patched, alone, number).unique(return_inverse=True)[1]
        begin = draws[:, -draws_for_starts(channels) :]
        begin = torch.cat([begin[first, :1], begin[:, 1:]], dim=1)
        chosen = first
        if received is not None and recipe.proposals > 1:
            chosen = best_proposals(images, begin, recipe, groups, received)[number]
        everywhere = alike(images, begin[chosen], recipe)
        if recipe.smooth:
            drawn = cut_offs(draws[first, 1], min(height, width)).to(images.dtype)
            exempt = patched if everywhere.warped is None else patched | everywhere.warped
            cut_off = torch.where(exempt, torch.inf, drawn)
    if patched.any():
        square = patches(images, draws[:, 1 : 4 + channels])
        everywhere = mixed(everywhere, square, patched)
    return replace(everywhere, together=together, cut_off=cut_off)
