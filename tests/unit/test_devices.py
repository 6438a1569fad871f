"""How many images go through a network at a time."""

from __future__ import annotations

import pytest
import torch

from sau_cli.devices import FEWEST_A_PASS, images_a_pass


@pytest.mark.parametrize(("side", "expected"), [(8, 256), (32, 256), (64, 98), (224, 8), (448, FEWEST_A_PASS)])
def test_fewer_large_images_go_through_a_network_at_a_time(side, expected):
    assert images_a_pass(torch.zeros(1, 3, side, side), 256) == expected


def test_no_more_than_there_may_be():
    assert images_a_pass(torch.zeros(1, 3, 32, 32), 6) == 6
