"""Where perturbations may go: balls, patches, and both in one batch."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from sau_cli.unlearning.draws import Draws, draws_for_starts, draws_needed, read_draws
from sau_cli.unlearning.frequencies import cut_offs, low_passed
from sau_cli.unlearning.recipes import Recipe
from sau_cli.unlearning.search_space import ball, drawn_space, mixed, patches, warps
from sau_cli.unlearning.starts import blobs, waves
from sau_cli.unlearning.warps import bent

RECIPE = Recipe()


def some_pixels(count: int = 20, size: int = 8) -> torch.Tensor:
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(0))


def draws(images: torch.Tensor) -> Draws:
    channels = images.shape[1]
    numbers = torch.rand(len(images), draws_needed(channels, RECIPE), generator=torch.Generator().manual_seed(1))
    return read_draws(numbers, channels, RECIPE)


@pytest.mark.parametrize("clip", [False, True])
def test_a_ball_keeps_what_is_inside_and_brings_back_what_is_not(clip):
    images = some_pixels()
    space = ball(images, epsilon=0.2, step=0.2, clip=clip)
    far = space.moved(space.start, torch.randn(images.shape).sign() * 7)
    assert float(far.abs().max()) <= 0.2 + 1e-6
    if clip:
        assert float((images + far).min()) >= 0
        assert float((images + far).max()) <= 1
    else:
        assert torch.equal(space.start, torch.full_like(images, 0.2))
    assert torch.equal(space.moved(far, torch.zeros_like(far)), far)


def test_a_patch_is_a_square_within_the_image_and_may_take_any_value():
    images = some_pixels(200, 16)
    space = patches(images, draws(images), RECIPE)
    free = (space.high - space.low)[:, 0] > 0
    for mask in free:
        rows, columns = mask.any(dim=1), mask.any(dim=0)
        side = int(rows.sum())
        assert 2 <= side <= 4
        assert int(columns.sum()) == side
        assert int(mask.sum()) == side * side
    assert {int(mask.any(dim=1).sum()) for mask in free} == {2, 3, 4}
    edges = [free[:, 0], free[:, -1], free[:, :, 0], free[:, :, -1]]
    assert all(bool(edge.any()) for edge in edges), "no edge is left out"
    for bound, value in ((space.low, 0.0), (space.high, 1.0)):
        assert torch.allclose((images + bound)[free[:, None].expand_as(images)], torch.tensor(value), atol=1e-6)
    assert bool(((space.start >= space.low) & (space.start <= space.high)).all())
    assert bool((space.start[~free[:, None].expand_as(images)] == 0).all())


def test_no_pixel_is_in_fewer_patches_than_those_of_the_middle():
    side, extent = 4, 16
    places = (torch.arange(extent + side - 1) + 0.5) / (extent + side - 1)  # every place once, over the edges too
    down, across = torch.cartesian_prod(places, places).unbind(dim=1)
    images = torch.full((len(down), 1, extent, extent), 0.5)
    placed = replace(draws(images), side=torch.full_like(down, 0.99), down=down, across=across)
    space = patches(images, placed, RECIPE)
    covered = ((space.high - space.low)[:, 0] > 0).sum(dim=0)
    middle, corner = int(covered[8, 8]), space.high[:, 0, 0, 0] * space.high[:, 0, side - 1, side - 1] > 0
    assert middle == side**2
    assert int(covered.min()) == middle
    assert int(covered[0, 0]) == int(covered[-1, -1]) == middle
    assert int(corner.sum()) == side**2, "a trigger in the corner is covered whole, as often as a pixel of the middle"


def test_every_number_decides_one_thing():
    """In this order, which results of the same seed depend on."""
    numbers = torch.arange(draws_needed(3, RECIPE), dtype=torch.float32).expand(2, -1)
    drawn = read_draws(numbers, 3, RECIPE)
    assert [int(column[1]) for column in (drawn.kind, drawn.side, drawn.down, drawn.across)] == [0, 1, 2, 3]
    assert torch.equal(drawn.cut_off, drawn.side)
    parts = (drawn.colour, drawn.start.kind, drawn.start.wave, drawn.start.grid)
    assert [len(numbers[0]) for numbers in parts] == [3, 1, 4, 3 * 4**2]
    assert torch.cat(parts, dim=1)[1].tolist() == list(range(4, draws_needed(3, RECIPE)))
    assert len(drawn.start) == 2
    assert torch.equal(drawn.start.of(torch.tensor([1, 1, 0])).wave, drawn.start.wave[[1, 1, 0]])


def test_an_image_smaller_than_a_patch_is_all_patch():
    images = torch.rand(4, 1, 1, 3)
    space = patches(images, draws(images), RECIPE)
    assert bool(((space.high - space.low).sum(dim=(1, 2, 3)) > 0).all())


def test_each_image_of_a_mixture_has_its_own_kind():
    images = some_pixels(4)
    everywhere, square = ball(images, epsilon=0.1, step=0.1, clip=True), patches(images, draws(images), RECIPE)
    both = mixed(everywhere, square, torch.tensor([True, False, False, True]))
    assert torch.equal(both.high[[0, 3]], square.high[[0, 3]])
    assert torch.equal(both.low[[1, 2]], everywhere.low[[1, 2]])
    assert both.step.flatten().tolist() == pytest.approx([0.5, 0.1, 0.1, 0.5])


def test_each_kind_of_perturbation_has_its_own_weight_of_recovery():
    images = some_pixels(64)
    recipe = Recipe(universal=True, warp_share=0.4, patch_share=0.3, ball_recovery=1, patch_recovery=2, warp_recovery=3)
    numbers = torch.rand(64, draws_needed(3, RECIPE), generator=torch.Generator().manual_seed(2))
    space = drawn_space(images, numbers, recipe, [1] * 64)
    assert bool((space.recovery(recipe) == torch.where(space.patched, 2, torch.where(space.warped, 3, 1))).all())
    assert space.recovery(recipe).unique().tolist() == [1, 2, 3]
    assert ball(images, epsilon=0.1, step=0.1, clip=True).recovery(recipe).unique().tolist() == [1]


def test_images_that_go_together_are_perturbed_alike():
    images = some_pixels(12).clamp(0.25, 0.75)  # so that nothing is clipped
    recipe = Recipe(universal=True, warp_share=0.2, wave_share=0.5, patch_share=0.3, epsilon=0.1, step=0.1, clip=True)
    numbers = torch.rand(12, draws_needed(3, RECIPE), generator=torch.Generator().manual_seed(8))
    space = drawn_space(images, numbers, recipe, [8, 4])
    assert 0 < int(space.patched.sum()) < 12
    gradient = torch.randn(images.shape, generator=torch.Generator().manual_seed(4))
    delta = space.moved(space.start, space.direction(gradient, len(images)))
    for group in (range(8), range(8, 12)):
        in_ball = [at for at in group if not space.patched[at]]
        assert len(in_ball) > 1
        assert all(torch.equal(delta[at], delta[in_ball[0]]) for at in in_ball)
    patched = space.patched
    assert torch.equal(space.direction(gradient, len(images))[patched], gradient.sign()[patched])
    alone = drawn_space(images, numbers, Recipe(patch_share=0.5), [12])
    assert alone.together is None
    assert torch.equal(alone.direction(gradient, len(images)), gradient.sign())


def test_waves_have_the_direction_the_frequency_and_the_height_that_are_drawn():
    across, finer = waves(torch.tensor([[0.0, 0.0, 0.25, 1.0], [0.0, 0.5, 0.0, 0.0]]), (3, 16, 32), RECIPE)
    assert across[0, 5, :5].tolist() == pytest.approx([1, 0.5**0.5, 0, -(0.5**0.5), -1], abs=1e-5), "2 turns in 16"
    spectrum = torch.fft.rfft(finer[1, 3]).abs() / 16
    assert spectrum.argmax() == 8
    assert spectrum.max().item() == pytest.approx(0.5, abs=1e-5)
    assert torch.equal(finer[0], finer[2])
    down = waves(torch.tensor([[0.5, 1.0, 0.25, 1.0]]), (1, 16, 32), RECIPE)[0, 0]
    assert down[:4, 7].tolist() == pytest.approx([1, -1, 1, -1], abs=1e-4), "at most a turn in two pixels"


@pytest.mark.parametrize("turns", [3, 6, 12])
def test_some_waves_are_near_a_periodic_trigger_coarse_or_fine(turns):
    """A sine of so many turns across 32 pixels, as SIG's; random waves are unlike it but for a few."""
    trigger = torch.sin(2 * torch.pi * turns * torch.arange(32) / 32).expand(1, 32, 32).flatten()
    several = waves(torch.rand(20_000, 4, generator=torch.Generator().manual_seed(3)), (1, 32, 32), RECIPE).flatten(1)
    alike = torch.nn.functional.cosine_similarity(several, trigger[None]).abs()
    assert 0.0002 < float((alike > 0.5).float().mean()) < 0.05


def test_perturbations_that_are_alike_begin_as_blobs_or_as_waves_within_epsilon():
    images = torch.full((64, 1, 8, 8), 0.5)
    recipe = Recipe(universal=True, warp_share=0.2, wave_share=0.5, epsilon=0.1, step=0.1, clip=True)
    numbers = torch.rand(64, draws_needed(1, RECIPE), generator=torch.Generator().manual_seed(1))
    space = drawn_space(images, numbers, recipe, [1] * 64)
    assert float(space.start.abs().max()) <= 0.1 + 1e-7
    two_valued = [len(start.unique()) <= 2 for start in space.start]
    assert 0.2 < sum(two_valued) / 64 < 0.6
    assert 0.1 < float(space.warped.float().mean()) < 0.3
    assert drawn_space(images[..., :4, :4], numbers, recipe, [1] * 64).warped is None, "too few pixels to hold one"
    assert set(blobs(torch.rand(5, 16), (1, 8, 8), RECIPE).unique().tolist()) <= {-1.0, 0.0, 1.0}


@pytest.mark.parametrize(("proposals", "drawn_by"), [(1, [0, 32]), (32, [23, 44]), (24, [23, 44]), (8, [5, 32])])
def test_a_search_begins_with_the_proposal_that_a_backdoor_answers_to(proposals, drawn_by):
    """A model with a backdoor for one wave: of the proposals of a group, the one most like it is taken by all."""
    images = torch.full((45, 1, 16, 16), 0.5)  # so that the wave is all that the model sees; groups of 32 and 13
    recipe = Recipe(
        universal=True, wave_share=1.0, proposals=proposals, patch_share=0.3, epsilon=0.1, step=0.1, clip=True
    )
    numbers = torch.rand(45, draws_needed(1, RECIPE), generator=torch.Generator().manual_seed(5))
    numbers[[5, 23, 44], -draws_for_starts(1, RECIPE) + 1 : -draws_for_starts(1, RECIPE) + 5] = torch.tensor(
        [0.3, 0.8, 0.1, 1.0]
    )
    numbers[5, -draws_for_starts(1, RECIPE) + 4] = 0.0  # half as high
    trigger = waves(torch.tensor([[0.3, 0.8, 0.1, 1.0]]), (1, 16, 16), recipe)
    asked = []

    def received(images):
        asked.append(len(images))
        answer = ((images - 0.5) * trigger).mean(dim=(1, 2, 3))
        return torch.stack([torch.zeros_like(answer), 200 * answer, torch.full_like(answer, 1.0)], dim=1)

    space = drawn_space(images, numbers, recipe, [32, 13], received)
    for first, drawn, last in ((0, drawn_by[0], 32), (32, drawn_by[1], 45)):
        mine = waves(
            numbers[drawn, -draws_for_starts(1, RECIPE) + 1 : -draws_for_starts(1, RECIPE) + 5][None],
            (1, 16, 16),
            recipe,
        )
        for at in range(first, last):
            assert space.patched[at] or torch.allclose(space.start[at], 0.1 * mine[0], atol=1e-6)
    assert max(asked, default=0) <= len(images), "no more memory than for the images"
    assert sum(asked) == (proposals > 1) * recipe.witnesses * (2 + min(proposals, 32) + min(proposals, 13))


@pytest.mark.parametrize("kind", ["warp_share", "wave_share", "proposals"])
def test_proposals_are_of_the_kind_that_the_first_image_of_a_group_draws(kind):
    """Whatever is chosen, the shares of warps, waves and blobs stay what the recipe says."""
    images = some_pixels(64, 16).clamp(0.25, 0.75)
    recipe = Recipe(universal=True, epsilon=0.1, step=0.1, **{"proposals": 4, kind: 1 if kind != "proposals" else 4})
    numbers = torch.rand(64, draws_needed(3, RECIPE), generator=torch.Generator().manual_seed(6))
    chosen = drawn_space(images, numbers, recipe, [8] * 8, lambda some: some.flatten(1)[:, :5] * 50)
    plain = drawn_space(images, numbers, recipe, [8] * 8)
    assert (chosen.warped is None) == (plain.warped is None) == (kind != "warp_share")
    two_valued = [len(start.unique()) <= 2 for start in chosen.start]
    assert all(two_valued) == (kind == "proposals")
    assert not torch.equal(chosen.start, plain.start)
    assert all(torch.equal(start, group[0]) for group in chosen.start.split(8) for start in group)


def test_a_warp_of_nothing_changes_nothing_and_a_shift_shifts():
    images = some_pixels(3, 32)
    assert torch.allclose(bent(images, torch.zeros_like(images), coarse_points=4), images, atol=1e-5)
    delta = torch.zeros_like(images)
    delta.flatten(1)[:, :16] = 2 / 31  # of the width, for which points count as 31 steps: a pixel to the left
    assert torch.allclose(bent(images, delta, coarse_points=4)[..., :-1], images[..., 1:], atol=1e-5)


def test_warps_stay_within_reach_and_are_searched_like_any_other():
    images = some_pixels(6, 16)
    space, everyone = warps(images, torch.rand(6, 32), RECIPE), torch.arange(6)
    far = space.moved(space.start, torch.randn(images.shape).sign())
    assert float(far.abs().max()) <= RECIPE.warp_reach
    assert not far.flatten(1)[:, 32:].any(), "the rest of δ says nothing"
    delta = far.clone().requires_grad_(True)
    space.perturbed(images, delta).square().sum().backward()
    assert bool((delta.grad.flatten(1)[:, :32] != 0).all())
    both = mixed(ball(images, epsilon=0.1, step=0.1, clip=True), space, everyone < 2)
    seen = both.perturbed(images, both.start)
    assert torch.equal(seen[2:], images[2:] + both.start[2:])
    assert torch.equal(seen[:2], bent(images, space.start, coarse_points=4)[:2])
    assert torch.equal(both.of(everyone[2:]).perturbed(images[2:], both.start[2:]), seen[2:])


def test_a_common_direction_is_the_one_that_most_gradient_has():
    images = some_pixels(2)
    space = replace(ball(images, epsilon=0.1, step=0.1, clip=False), together=torch.tensor([1, 1]))
    gradient = torch.stack([torch.full((3, 8, 8), 2.0), torch.full((3, 8, 8), -1.0)])
    assert torch.equal(space.direction(gradient, len(images)), torch.ones(2, 3, 8, 8))
    assert torch.equal(space.of(torch.tensor([1])).direction(gradient[1:], len(images)), -torch.ones(1, 3, 8, 8))


def test_what_is_finer_than_a_picture_may_be_is_left_out_of_it():
    rows, columns = torch.arange(16)[:, None] / 16, torch.arange(32) / 32
    coarse = torch.sin(2 * torch.pi * (2 * columns + 0.3)).expand(1, 3, 16, 32)
    fine = torch.sin(2 * torch.pi * (6 * columns + 2 * rows)).expand(1, 3, 16, 32)
    both = (coarse + fine + 1).expand(4, -1, -1, -1)
    seen = low_passed(both, torch.tensor([0.01, 2 / 32, 6 / 32, torch.inf]))
    assert torch.allclose(seen[0], torch.ones(3, 16, 32), atol=1e-5), "the mean is always kept"
    assert torch.allclose(seen[1], coarse[0] + 1, atol=1e-5)
    assert torch.allclose(seen[2], coarse[0] + 1, atol=1e-5), "6 turns in 32 and 2 in 16 are more than 6 in 32"
    assert torch.equal(seen[3], both[3])


def test_shared_steps_are_smooth_where_the_recipe_says_so_and_only_within_the_ball():
    images = some_pixels(64, 16).clamp(0.25, 0.75)
    recipe = Recipe(universal=True, smooth=True, warp_share=0.3, wave_share=0.3, patch_share=0.2, epsilon=0.1, step=0.1)
    numbers = torch.rand(64, draws_needed(3, RECIPE), generator=torch.Generator().manual_seed(2))
    space, everyone = drawn_space(images, numbers, recipe, [4] * 16), torch.arange(64)
    gradient = torch.randn(images.shape, generator=torch.Generator().manual_seed(4))
    direction = space.direction(gradient, len(images))
    plain = replace(space, cut_off=None).direction(gradient, len(images))
    exempt = space.cut_off.isinf()
    assert 0 < int(exempt.sum()) < 64
    assert torch.equal(exempt, space.patched | space.warped)
    assert torch.equal(direction[exempt], plain[exempt])
    assert not torch.equal(direction[~exempt], plain[~exempt])

    def changes(signs):  # from one pixel of a row to the next
        return (signs[..., 1:] != signs[..., :-1]).float().mean(dim=(1, 2, 3))

    of_group = space.cut_off[~exempt]
    assert torch.equal(of_group, cut_offs(numbers[everyone // 4 * 4, 1], 16, fewest_cycles=2)[~exempt])
    by_cut_off = changes(direction[~exempt])[of_group.argsort()]
    third = len(by_cut_off) // 3
    assert by_cut_off[:third].mean() < 0.3 < by_cut_off[-third:].mean() < 0.55
    some = everyone[::2]
    others = torch.zeros_like(gradient)
    others[some] = gradient[some]
    assert torch.equal(
        space.of(some).direction(gradient[some], len(images)), space.direction(others, len(images))[some]
    )
