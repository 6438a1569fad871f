"""Fixtures of the engine's tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch


@pytest.fixture
def two_threads() -> Iterator[None]:
    """Work as on two cores, with both networks of the search at once."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.fixture(params=[False, True], ids=["in turn", "at once"])
def either_way(request: pytest.FixtureRequest) -> Iterator[None]:
    """The networks of the search in turn, as with one thread, and at once."""
    before = torch.get_num_threads()
    torch.set_num_threads(2 if request.param else 1)
    yield
    torch.set_num_threads(before)
