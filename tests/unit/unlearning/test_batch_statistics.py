"""Batch norm by groups: what it sees, and how its running statistics move."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from sau_cli.unlearning.batch_statistics import BatchStatistics, group_sizes, packed


def test_inside_the_block_a_group_is_normalised_by_itself_and_nothing_moves_before_the_step():
    network = nn.Sequential(nn.BatchNorm2d(1), nn.Dropout()).eval()
    statistics = BatchStatistics(network)
    images = torch.tensor([1.0, 5.0]).reshape(2, 1, 1, 1)
    with statistics.of_each_group(on=False):
        assert torch.allclose(network(images), images, atol=1e-4)
    assert statistics.sums == {}
    with statistics.of_each_group() as seen:
        assert network(images).flatten().tolist() == pytest.approx([-1, 1], abs=1e-4)
        assert not network[1].training
    assert network(images).flatten().tolist() == pytest.approx([1, 5], abs=1e-4)
    statistics.add(seen)
    statistics.follow()
    assert float(network[0].running_mean) == pytest.approx(0.3)
    assert float(network[0].running_var) == pytest.approx(0.9 + 0.8)  # the variance of 1 and 5 is 8, unbiased
    assert (network[0].training, network[0].track_running_stats, statistics.sums) == (False, True, {})


def test_the_statistics_are_those_of_the_whole_batch_however_it_is_split():
    images = torch.randn(12, 3, 4, 4, generator=torch.Generator().manual_seed(0)) * 5 + 2
    moved = []
    for sizes in ([12], [5, 7]):
        layer = nn.BatchNorm2d(3).eval()
        statistics = BatchStatistics(layer)
        for part in images.split(sizes):
            with statistics.of_each_group() as seen:
                layer(part)
            statistics.add(seen)
        statistics.follow()
        moved.append(torch.stack([layer.running_mean, layer.running_var]))
    as_torch = nn.BatchNorm2d(3)
    as_torch(images)
    expected = torch.stack([as_torch.running_mean, as_torch.running_var])
    assert torch.allclose(moved[0], expected, rtol=1e-5)
    assert torch.allclose(moved[1], expected, rtol=1e-5)


def test_groups_are_even_and_parts_are_of_whole_groups():
    assert group_sizes(0, 32) == []
    assert group_sizes(32, 32) == [32]
    assert group_sizes(33, 32) == [17, 16]
    assert packed([3, 3, 3], 1) == [[3], [3], [3]]
    assert packed([1] * 5, 2) == [[1, 1], [1, 1], [1]]
    assert packed([], 8) == []
