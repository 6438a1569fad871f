"""Changes of images, whatever their numbers."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sau_cli.inversion.changes import ChangeKind, MaskedPattern, SmoothAddition, SquarePattern, change_of

quick = settings(max_examples=60, deadline=None)
seeds = st.integers(0, 1000)
sides = st.integers(2, 40)


def drawn(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@quick
@given(seed=seeds, budget=st.floats(0.005, 0.9), size=st.floats(0, 10), above=st.floats(-15, 15), side=sides)
def test_masks_are_brought_within_the_budget_once_for_all(seed, budget, size, above, side):
    change = MaskedPattern(shape=(2, side, 7), budget=budget)
    free = size * drawn(seed, 3, change.numbers) + above
    allowed = change.allowed(free)
    assert change.mask(allowed).mean(dim=(1, 2)).max() <= budget * (1 + 1e-6)
    assert torch.equal(change.allowed(allowed), allowed)
    assert (allowed <= free).all()


@quick
@given(seed=seeds, budget=st.floats(0.005, 0.9), size=st.floats(0, 3), side=sides)
def test_masks_within_the_budget_stay_as_they_are(seed, budget, size, side):
    change = MaskedPattern(shape=(2, side, 7), budget=budget)
    free = size * drawn(seed, 3, change.numbers)
    split = side * 7
    # A mean of sigmoids is at most the largest.
    free[:, :split] += torch.tensor(budget).logit() - free[:, :split].amax(dim=1, keepdim=True) - 1e-3
    assert torch.equal(change.allowed(free), free)


@quick
@given(kind=st.sampled_from(list(ChangeKind)), seed=seeds, size=st.floats(0, 50), height=sides, width=sides)
def test_changed_images_stay_in_0_to_1(kind, seed, size, height, width):
    change = change_of(kind, (2, height, width))
    clean = drawn(seed, 2, 2, height, width).clamp(0, 1)
    changed = change.changed(clean, change.allowed(size * drawn(seed + 1, 2, change.numbers)))
    assert changed.shape == clean.shape
    assert -1e-6 <= changed.min() <= changed.max() <= 1 + 1e-6


@quick
@given(seed=seeds, size=st.floats(0, 50), height=st.floats(0.001, 1), side=sides)
def test_additions_stay_within_their_height(seed, size, height, side):
    change = SmoothAddition(shape=(1, side, 11), height=height)
    assert change.added(size * drawn(seed, 2, change.numbers)).abs().max() <= height * (1 + 1e-6)


@quick
@given(height=st.integers(1, 80), width=st.integers(1, 80), side=st.floats(0.01, 1))
def test_squares_begin_in_different_places_that_cover_the_image(height, width, side):
    change = SquarePattern(shape=(1, height, width), side=side)
    corners = change.corners
    assert len(corners.unique(dim=0)) == len(corners) == change.starts
    for starts, extent in ((corners[:, 0].unique(), height), (corners[:, 1].unique(), width)):
        assert starts[0] == 0
        assert starts[-1] == extent - change.pixels
        assert (starts.diff() <= change.pixels).all()
