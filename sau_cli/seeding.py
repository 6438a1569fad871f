"""Random numbers: one seed, and an independent stream for every purpose."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch


def stream_seed(seed: int, purpose: str) -> int:
    """A 63-bit seed that depends on both arguments, so that purposes never share a stream."""
    digest = hashlib.sha256(f"{seed}/{purpose}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def random_stream(seed: int, purpose: str) -> torch.Generator:
    """A CPU generator for one purpose: the same draws on every device.

    >>> first = torch.rand(2, generator=random_stream(0, "order"))
    >>> bool((first == torch.rand(2, generator=random_stream(0, "order"))).all())
    True
    """
    return torch.Generator().manual_seed(stream_seed(seed, purpose))


@contextmanager
def seeded(seed: int, purpose: str) -> Iterator[None]:
    """Seed torch's global CPU generator inside the block, for code that takes none (weight initialisation)."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(stream_seed(seed, purpose))
        yield
