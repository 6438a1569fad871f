"""What the numbers of a change do to pixels."""

from __future__ import annotations

import pytest
import torch

from sau_cli.inversion.changes import (
    ChangeKind,
    Fainter,
    MaskedPattern,
    SmoothAddition,
    SquarePattern,
    Warp,
    change_of,
    searched_for,
)

SHAPES = [(1, 8, 8), (1, 28, 28), (3, 32, 32), (3, 16, 40), (1, 31, 9), (3, 224, 224), (1, 2, 5)]
kinds = pytest.mark.parametrize("kind", list(ChangeKind))
shapes = pytest.mark.parametrize("shape", SHAPES, ids=str)


def stream(seed=0):
    return torch.Generator().manual_seed(seed)


def pictures(shape, count=2):
    return torch.rand(count, *shape, generator=stream(1))


def begun(change, count):
    return change.proposals(1, stream())[:count, 0]


@kinds
@shapes
def test_changed_images_have_the_same_shape_and_lie_in_0_to_1(kind, shape):
    change = change_of(kind, shape)
    clean = pictures(shape)
    clean[0, :, : shape[1] // 2], clean[0, :, shape[1] // 2 :] = 0, 1
    for size in (0.0, 1.0, 30.0):
        free = change.allowed(size * begun(change, 1).expand(2, -1))
        changed = change.changed(clean, free)
        assert changed.shape == clean.shape
        assert changed.dtype == clean.dtype
        assert -1e-6 <= changed.min() <= changed.max() <= 1 + 1e-6
        assert change.mask(free).shape == (2, *shape[1:])
        assert change.mask(free).min() >= 0


@kinds
def test_as_many_rows_begin_as_are_asked_for_all_different(kind):
    change = change_of(kind, (3, 16, 16))
    for count in range(1, change.starts + 1):
        free = begun(change, count)
        assert free.shape == (count, change.numbers)
        assert len(free.unique(dim=0)) == count


@kinds
def test_the_same_stream_begins_alike(kind):
    change = change_of(kind, (1, 8, 8))
    assert torch.equal(begun(change, 1), begun(change, 1))


@kinds
def test_each_image_has_the_change_of_its_own_row(kind):
    change = change_of(kind, (3, 16, 16))
    clean, free = pictures((3, 16, 16), 3), 2 * torch.randn(3, change.numbers, generator=stream())
    together = change.changed(clean, free)
    for at in range(3):
        assert torch.allclose(together[at], change.changed(clean[at : at + 1], free[at : at + 1])[0], atol=1e-6)


@kinds
def test_every_change_has_a_slope_by_its_numbers(kind):
    change = change_of(kind, (3, 16, 16))
    free = begun(change, 1).requires_grad_(True)
    weights = torch.randn(1, 3, 16, 16, generator=stream(3))
    (change.changed(pictures((3, 16, 16), 1), free) * weights).sum().backward()
    assert torch.isfinite(free.grad).all()
    assert free.grad.abs().max() > 0


@shapes
def test_the_squares_of_all_starts_differ_and_cover_every_pixel(shape):
    change = SquarePattern(shape=shape)
    free = begun(change, change.starts)
    assert len(free[:, :2].unique(dim=0)) == change.starts
    masks = change.mask(free)
    assert torch.equal(masks.sum(dim=(1, 2)), torch.full((change.starts,), float(change.pixels**2)))
    assert masks.amax(dim=0).min() == 1


@pytest.mark.parametrize(
    ("size", "pixels"), [((8, 8), 3), ((28, 28), 5), ((32, 32), 6), ((224, 224), 42), ((16, 300), 3), ((2, 50), 2)]
)
def test_a_side_is_a_share_of_the_shorter_side_and_three_pixels_at_least(size, pixels):
    assert SquarePattern(shape=(1, *size)).pixels == pixels


def test_a_spot_is_a_square_half_as_wide_in_many_more_places():
    square, spot = change_of(ChangeKind.SQUARE, (3, 32, 32)), change_of(ChangeKind.SPOT, (3, 32, 32))
    assert (square.pixels, spot.pixels) == (6, 3)
    assert (square.starts, spot.starts) == (36, 256)
    # A trigger of the same size, wherever it is, has four of its nine pixels in common with one of them at the least.
    rows, columns = torch.cartesian_prod(torch.arange(30), torch.arange(30)).unbind(1)
    overlap = (3 - (rows[:, None] - spot.corners[:, 0]).abs()).clamp_min(0)
    overlap = overlap * (3 - (columns[:, None] - spot.corners[:, 1]).abs()).clamp_min(0)
    assert overlap.amax(dim=1).min() >= 4
    large = change_of(ChangeKind.SPOT, (3, 224, 224))
    assert (large.pixels, large.starts) == (21, 36)


@pytest.mark.parametrize("side", [2, 8, 16, 18, 20, 28, 224])
def test_spots_are_searched_where_they_are_smaller_than_squares(side):
    changes = searched_for((3, side, side))
    assert all(change.shape == (3, side, side) for change in changes.values())
    assert ((ChangeKind.SPOT in changes), len(changes)) == ((True, 4) if side > 18 else (False, 3))


def test_a_square_changes_its_pixels_to_the_pattern_and_nothing_else():
    change = SquarePattern(shape=(3, 12, 20))
    clean = pictures((3, 12, 20), 1)
    for first, column in ((0, 0), (9, 17), (4, 11)):
        free = torch.randn(1, change.numbers, generator=stream())
        free[0, :2] = torch.tensor([first, column])
        inside = torch.zeros(12, 20, dtype=torch.bool)
        inside[first : first + 3, column : column + 3] = True
        changed = change.changed(clean, free)
        pattern = free[0, 2:].sigmoid().reshape(3, 9)
        assert torch.equal(change.mask(free)[0], inside.float())
        assert torch.equal(changed[0][:, ~inside], clean[0][:, ~inside])
        assert torch.equal(changed[0][:, inside], pattern)


@pytest.mark.parametrize("channels", [1, 3])
def test_in_every_place_the_pure_colours_are_proposed(channels):
    change = SquarePattern(shape=(channels, 32, 32))
    rows = change.proposals(16, stream())
    assert rows.shape == (change.starts, 16, change.numbers)
    patterns = rows[..., 2:].reshape(change.starts, 16, channels, -1)
    for place in (0, change.starts - 1):
        pure = {tuple(colour[:, 0].sign().tolist()) for colour in patterns[place, : 2**channels]}
        assert len(pure) == 2**channels
        assert rows[place, :, :2].unique(dim=0).tolist() == [change.corners[place].tolist()]


def test_a_square_stays_where_it_is_while_its_numbers_move():
    change = SquarePattern(shape=(1, 8, 8))
    free = begun(change, 1).requires_grad_(True)
    change.changed(pictures((1, 8, 8), 1), free).sum().backward()
    assert torch.equal(free.grad[:, :2], torch.zeros(1, 2))


def test_a_mask_mixes_image_and_pattern_pixel_by_pixel():
    """With m = ½ and p = 1 everywhere, each pixel goes half the way to white."""
    change = MaskedPattern(shape=(1, 4, 4))
    free = torch.cat([torch.zeros(1, 16), torch.full((1, 16), 50.0)], dim=1)
    clean = pictures((1, 4, 4), 1)
    assert torch.allclose(change.changed(clean, free), (clean + 1) / 2)


@pytest.mark.parametrize("budget", [0.01, 0.03, 0.5])
def test_a_mask_over_the_budget_is_brought_down_to_it(budget):
    change = MaskedPattern(shape=(3, 16, 16), budget=budget)
    free = 1 + 3 * torch.randn(4, change.numbers, generator=stream())
    allowed = change.allowed(free)
    means = change.mask(allowed).mean(dim=(1, 2))
    assert (means <= budget * (1 + 1e-5)).all()
    assert torch.allclose(means, torch.full((4,), budget), rtol=1e-4)
    assert torch.equal(allowed[:, 256:], free[:, 256:])
    assert torch.allclose((free - allowed)[:, :256].std(dim=1), torch.zeros(4), atol=1e-5)


def test_a_mask_of_equal_numbers_falls_to_the_logit_of_the_budget():
    change = MaskedPattern(shape=(1, 4, 4), budget=0.25)
    allowed = change.allowed(torch.full((1, change.numbers), 2.0))
    assert torch.allclose(allowed[:, :16], torch.tensor(0.25).logit().expand(1, 16), atol=1e-4)


def test_a_mask_by_cells_moves_the_pixels_of_a_cell_together_and_cuts_the_last():
    """Cells of 3 on 4x7 pixels: 2 by 3, of which the second row is 1 pixel high and the third column 1 wide."""
    change = MaskedPattern(shape=(1, 4, 7), cell=3)
    assert change.cells == (2, 3)
    assert change.numbers == 12
    cells = torch.tensor([[0.1, 0.2, 0.3], [0.4, 0.5, 0.6]])
    free = torch.cat([cells.logit().flatten(), torch.full((6,), 50.0)])[None]
    wanted = cells.repeat_interleave(3, dim=0).repeat_interleave(3, dim=1)[:4, :7]
    assert torch.allclose(change.mask(free)[0], wanted)
    assert torch.allclose(change.changed(torch.zeros(1, 1, 4, 7), free)[0, 0], wanted)


def test_cells_of_one_pixel_are_a_mask_of_pixels():
    pixels, clean = MaskedPattern(shape=(3, 5, 4)), pictures((3, 5, 4), 1)
    free = torch.randn(1, pixels.numbers, generator=stream())
    by_repeating = MaskedPattern(shape=(3, 10, 8), cell=2)
    assert by_repeating.numbers == pixels.numbers
    twice = clean.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
    changed = by_repeating.changed(twice, free)
    assert torch.allclose(changed[..., ::2, ::2], pixels.changed(clean, free))


@pytest.mark.parametrize(("side", "cell"), [(32, 1), (127, 1), (128, 4), (224, 7)])
def test_masks_of_large_images_have_some_32_cells_a_side(side, cell):
    change = change_of(ChangeKind.MASK, (3, side, side))
    assert isinstance(change, MaskedPattern)
    assert change.cell == cell


@shapes
def test_a_smooth_addition_never_exceeds_its_height_and_reaches_it(shape):
    change = SmoothAddition(shape=shape)
    free = 50 * torch.randn(3, change.numbers, generator=stream())
    assert change.added(free).abs().max() <= change.height * (1 + 1e-6)
    assert torch.allclose(change.added(torch.full_like(free, 50)), torch.full((3, *shape), change.height))
    clean = pictures(shape, 3)
    assert (change.changed(clean, free) - clean).abs().max() <= change.height + 1e-6


def test_what_a_smooth_addition_cuts_off_keeps_its_slope():
    change = SmoothAddition(shape=(1, 8, 8))
    free = torch.full((1, change.numbers), 1.0, requires_grad=True)
    changed = change.changed(torch.ones(1, 1, 8, 8), free)
    assert torch.equal(changed, torch.ones(1, 1, 8, 8))
    changed.sum().backward()
    assert (free.grad > 0).all()


@shapes
def test_a_warp_of_no_numbers_is_the_identity(shape):
    change = Warp(shape=shape)
    clean = pictures(shape)
    rounding = 1e-5 * max(1, max(shape) / 32)  # of places in [-1, 1], in pixels
    assert torch.allclose(change.changed(clean, torch.zeros(2, change.numbers)), clean, atol=rounding)


def test_a_warp_that_moves_all_alike_shifts_a_ramp():
    """Looking ``reach`` half sides further right adds that much of the slope, wherever this is within the image."""
    change = Warp(shape=(1, 33, 33))
    free = torch.zeros(1, change.numbers)
    free[:, : change.points**2] = 50
    ramp = torch.linspace(0, 1, 33).expand(1, 1, 33, 33)
    changed = change.changed(ramp, free)
    assert torch.allclose(changed[..., :32], ramp[..., :32] + change.reach / 2, atol=1e-5)
    assert torch.allclose(changed[..., 32], torch.ones(()), atol=1e-5)


def test_a_fainter_change_goes_a_share_of_the_way():
    square, clean = SquarePattern(shape=(1, 8, 8)), pictures((1, 8, 8), 1)
    free = begun(square, 1)
    half = Fainter(shape=square.shape, change=square, share=0.5)
    assert torch.allclose(half.changed(clean, free), (clean + square.changed(clean, free)) / 2)
    assert torch.equal(half.mask(free), square.mask(free) / 2)
    assert (half.numbers, half.starts) == (square.numbers, square.starts)
    assert torch.equal(half.allowed(free), square.allowed(free))
    assert half.proposals(2, stream()).shape == square.proposals(2, stream()).shape


def test_every_kind_has_its_change():
    made = [type(change_of(kind, (1, 8, 8))) for kind in ChangeKind]
    assert made == [SquarePattern, MaskedPattern, SmoothAddition, Warp, SquarePattern]


def test_a_search_may_begin_with_more_than_the_budget_of_masks_and_with_no_more_of_other_kinds():
    mask = MaskedPattern(shape=(3, 16, 16), budget=0.05)
    assert mask.loosened(4.0) == MaskedPattern(shape=(3, 16, 16), budget=0.2)
    assert mask.loosened(1.0) == mask
    assert mask.loosened(100.0).budget == 1.0
    for change in (SquarePattern(shape=(3, 16, 16)), SmoothAddition(shape=(3, 16, 16)), Warp(shape=(3, 16, 16))):
        assert change.loosened(4.0) is change
