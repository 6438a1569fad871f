"""What a perturbation may be: a box for every pixel, a place to start, and the length of a step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from sau_cli.unlearning.draws import Draws, StartDraws, read_draws
from sau_cli.unlearning.frequencies import cut_offs, low_passed
from sau_cli.unlearning.recipes import Recipe
from sau_cli.unlearning.starts import best_proposals, blobs, waves
from sau_cli.unlearning.warps import bent, warp_numbers


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SearchSpace:
    """Where the perturbations δ of a batch may go.

    Attributes:
        low, high: (N, C, H, W), the bounds of δ, on pixels in [0, 1].
        start: (N, C, H, W), where the search begins; within the bounds.
        step: (N, 1, 1, 1), the length of a signed-gradient step.
        patched: (N,) bool, the images of which only a square may change.
        warped: (N,) bool, the images that are bent: their δ is no addition but that of
            :func:`~sau_cli.unlearning.warps.bent`; None where none is.
        together: (N,) int64 below N, or None: images with the same number take the same steps, those that most of
            them need.
        cut_off: (N,), or None: in cycles a pixel; whatever of the gradient is finer than this counts for nothing, the
            same for all that go together.
        coarse_points: on a side of the grid of a warp; says nothing where none is warped.
    """

    low: Tensor
    high: Tensor
    start: Tensor
    step: Tensor
    patched: Tensor
    warped: Tensor | None = None
    together: Tensor | None = None
    cut_off: Tensor | None = None
    coarse_points: int = 0

    def of(self, at: Tensor) -> SearchSpace:
        """That of the images ``at`` (n,) alone, with the numbers that they had."""
        return replace(self, **{name: tensor[at] for name, tensor in self.tensors().items() if tensor is not None})  # type: ignore[arg-type]

    def tensors(self) -> dict[str, Tensor | None]:
        """Its tensors by name."""
        return {field.name: getattr(self, field.name) for field in fields(self) if field.name != "coarse_points"}

    def perturbed(self, images: Tensor, delta: Tensor) -> Tensor:
        """The images (N, C, H, W) with their δ."""
        added = images + delta
        if self.warped is None:
            return added
        moved = bent(images, delta, coarse_points=self.coarse_points)
        return torch.where(self.warped[:, None, None, None], moved, added)

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


def patches(images: Tensor, draws: Draws, recipe: Recipe) -> SearchSpace:
    """A square of each image, whose pixels may take any value in [0, 1]; the rest stays as it is.

    Sides go from the recipe's ``smallest_patch`` in pixels to its ``largest_patch``, a share of the image; the search
    begins with a square of one colour, and a step is ``patch_step``. Triggers like BadNets' lie outside any small ball,
    and inside this. A square that would hang over an edge is moved inside, so that no pixel is in fewer squares than
    those of the middle are: triggers like to sit in a corner.

    Args:
        images: (N, C, H, W) float in [0, 1].
        draws: how large, how far down, how far across, and the colour.
    """
    height, width = images.shape[2:]
    smallest = recipe.smallest_patch
    largest = max(smallest, round(recipe.largest_patch * min(height, width)))
    side = smallest + (draws.side * (largest + 1 - smallest)).floor()
    side = side.clamp(max=min(height, width))
    inside = []
    for draw, extent in ((draws.down, height), (draws.across, width)):
        over_the_edge = (draw * (extent + side - 1)).floor() - (side - 1)
        first = over_the_edge.clamp(min=0).minimum(extent - side)
        places = torch.arange(extent, device=draw.device)
        inside.append((places >= first[:, None]) & (places < (first + side)[:, None]))
    mask = inside[0][:, None, :, None] & inside[1][:, None, None, :]
    return SearchSpace(
        low=-images * mask,
        high=(1 - images) * mask,
        start=(draws.colour[:, :, None, None].to(images.dtype) - images) * mask,
        step=images.new_full((len(images), 1, 1, 1), recipe.patch_step),
        patched=torch.ones(len(images), dtype=torch.bool, device=images.device),
    )


def aimed(draws: Draws, aim: Tensor, recipe: Recipe) -> Draws:
    """The draws with the recipe's ``aimed_share`` of the squares around a pixel that is drawn by ``aim`` (H, W)."""
    height, width = aim.shape
    smallest = recipe.smallest_patch
    largest = max(smallest, round(recipe.largest_patch * min(height, width)))
    side = smallest + (draws.side * (largest + 1 - smallest)).floor()
    flat = aim.flatten().cumsum(0).clamp(max=1)
    # One number decides the pixel, two others where in the square it is.
    at = torch.searchsorted(flat, draws.down.to(flat).contiguous() * flat[-1], right=True).clamp(max=height * width - 1)
    meant = draws.kind < recipe.aimed_share * recipe.patch_share
    placed = []
    for drawn, jitter, pixel, extent in (
        (draws.down, draws.across, at // width, height),
        (draws.across, draws.colour[:, 0], at % width, width),
    ):
        first = (pixel - (jitter * side).floor()).clamp(min=0).minimum(extent - side)
        # What :func:`patches` makes this place of.
        placed.append(torch.where(meant, (first + side - 0.5) / (extent + side - 1), drawn))
    return replace(draws, down=placed[0], across=placed[1])


def warps(images: Tensor, grid: Tensor, recipe: Recipe) -> SearchSpace:
    """Smooth warps whose points move by the recipe's ``warp_reach`` at most, from random ones.

    Args:
        images: (N, C, H, W) float in [0, 1], of :func:`~sau_cli.unlearning.warps.warp_numbers` or more numbers each.
        grid: (N, G) in [0, 1), with G so many or more: where the search begins.
    """
    numbers, reach = warp_numbers(recipe.coarse_points), recipe.warp_reach
    moved = torch.zeros_like(images).flatten(1)
    moved[:, :numbers] = reach
    start = torch.zeros_like(moved)
    start[:, :numbers] = reach * (2 * grid[:, :numbers] - 1)
    return SearchSpace(
        low=-moved.view_as(images),
        high=moved.view_as(images),
        start=start.view_as(images),
        step=images.new_full((len(images), 1, 1, 1), reach),
        patched=torch.zeros(len(images), dtype=torch.bool, device=images.device),
        warped=torch.ones(len(images), dtype=torch.bool, device=images.device),
        coarse_points=recipe.coarse_points,
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
        warped=_named_by_either(second.warped, first.warped, takes_second),
        coarse_points=max(first.coarse_points, second.coarse_points),
    )


def _named_by_either(second: Tensor | None, first: Tensor | None, takes_second: Tensor) -> Tensor | None:
    if first is None and second is None:
        return None
    none = torch.zeros_like(takes_second)
    return torch.where(takes_second, none if second is None else second, none if first is None else first)


def alike(images: Tensor, draws: StartDraws, recipe: Recipe) -> SearchSpace:
    """A warp, or a perturbation within ε that begins as blobs or as a wave: what images may share.

    Args:
        images: (N, C, H, W) float in [0, 1].
        draws: of the N images: which of them, and where the search begins.
    """
    channels, height, width = shape = images.shape[1], images.shape[2], images.shape[3]
    draws = draws.to(images)
    waved = draws.kind[..., None, None] < recipe.warp_share + recipe.wave_share
    begin = recipe.epsilon * torch.where(waved, waves(draws.wave, shape, recipe), blobs(draws.grid, shape, recipe))
    within = ball(images, epsilon=recipe.epsilon, step=recipe.step, clip=recipe.clip)
    within = replace(within, start=torch.clamp(begin, within.low, within.high))
    warped = draws.kind.flatten() < recipe.warp_share
    if channels * height * width < warp_numbers(recipe.coarse_points) or not warped.any():
        return within
    return mixed(within, warps(images, draws.grid, recipe), warped)


def drawn_space(
    images: Tensor,
    draws: Tensor,
    recipe: Recipe,
    groups: Sequence[int],
    received: Callable[[Tensor], Tensor] | None = None,
    *,
    aim: Tensor | None = None,
) -> SearchSpace:
    """The recipe's space: a ball for most images, a patch for a share of them.

    With ``recipe.universal``, those of a group that are in the ball go together, as a trigger does with all images:
    one search for all of them, of the kind that the first image draws, see :func:`alike`. With ``recipe.proposals``,
    it begins where :func:`~sau_cli.unlearning.starts.best_proposals` says. A patch is of one image. With
    ``recipe.smooth``, the steps within ε are no finer than one of :func:`~sau_cli.unlearning.frequencies.cut_offs`,
    which the first image of a group draws.

    Args:
        images: (N, C, H, W) float in [0, 1].
        draws: (N, D) in [0, 1), D by :func:`~sau_cli.unlearning.draws.draws_needed`.
        groups: sizes of the groups, one after another, N in all.
        received: the received model's logits on images, which tell a good start; None takes the first of each group.
        aim: (H, W) summing to 1, where the recipe's ``aimed_share`` of the squares lies; None for nowhere.
    """
    drawn = read_draws(draws, images.shape[1], recipe)
    if aim is not None and recipe.aimed_share > 0:
        drawn = aimed(drawn, aim, recipe)
    patched = drawn.kind < recipe.patch_share
    if recipe.universal:
        everywhere = _shared(images, drawn, patched, recipe, groups, received)
    else:
        everywhere = ball(images, epsilon=recipe.epsilon, step=recipe.step, clip=recipe.clip)
    if not patched.any():
        return everywhere
    both = mixed(everywhere, patches(images, drawn, recipe), patched)
    return replace(both, together=everywhere.together, cut_off=everywhere.cut_off)


def _shared(
    images: Tensor,
    drawn: Draws,
    patched: Tensor,
    recipe: Recipe,
    groups: Sequence[int],
    received: Callable[[Tensor], Tensor] | None,
) -> SearchSpace:
    """The space of images that go together, group by group, but for those that are patched, (N,) bool."""

    def begun(images: Tensor, draws: StartDraws) -> Tensor:
        space = alike(images, draws, recipe)
        return space.perturbed(images, space.start)

    number = torch.repeat_interleave(torch.tensor(groups, device=images.device))
    first = torch.tensor([0, *groups], device=images.device).cumsum(0)[number]
    alone = len(groups) + torch.arange(len(images), device=images.device)
    together = torch.where(patched, alone, number).unique(return_inverse=True)[1]
    of_first_kind, chosen = replace(drawn.start, kind=drawn.start.kind[first]), first
    if received is not None and recipe.proposals > 1:
        chosen = best_proposals(images, of_first_kind, recipe, groups, begun=begun, received=received)[number]
    space = replace(alike(images, of_first_kind.of(chosen), recipe), together=together)
    if not recipe.smooth:
        return space
    finest = cut_offs(drawn.cut_off[first], min(images.shape[2:]), fewest_cycles=recipe.fewest_cycles)
    exempt = patched if space.warped is None else patched | space.warped
    return replace(space, cut_off=torch.where(exempt, torch.inf, finest.to(images.dtype)))
