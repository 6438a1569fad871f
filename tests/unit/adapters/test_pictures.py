"""Pictures of triggers."""

from __future__ import annotations

import torch

from sau_adapters.images.pictures import enlargement


def test_a_few_large_differences_do_not_hide_the_small_ones():
    change = torch.full((1, 1, 10, 10), 4, dtype=torch.int32)
    change[0, 0, 0, :5] = 255
    assert enlargement(change) == 63
    change[0, 0, :5] = 255
    assert enlargement(change) == 1, "where most are large, they are what is shown"


def test_no_difference_is_shown_as_it_is():
    assert enlargement(torch.zeros(1, 1, 2, 2, dtype=torch.int32)) == 1
    assert enlargement(torch.zeros(0, 1, 2, 2, dtype=torch.int32)) == 1
