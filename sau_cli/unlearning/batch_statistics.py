"""Batch norm on clean images: normalise small groups by their own statistics, and follow those of the batch.

A group is normalised by itself, wherever it is worked off, and the running statistics move once a step, by sums
over the whole batch: parts of a batch, and several processes, come to the same result as one pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn


def group_sizes(count: int, largest: int) -> list[int]:
    """How to split so many images into groups of about the same size, ``largest`` at most.

    >>> group_sizes(68, 32)
    [23, 23, 22]
    """
    groups = -(-count // largest)
    return [count // groups + (number < count % groups) for number in range(groups)]


def packed(sizes: Sequence[int], largest: int) -> list[list[int]]:
    """Groups, in their order, put together to parts of ``largest`` images at most, or of one group.

    >>> packed([2, 2, 2, 5], 4)
    [[2, 2], [2], [5]]
    """
    parts: list[list[int]] = []
    for size in sizes:
        if not parts or sum(parts[-1]) + size > largest:
            parts.append([])
        parts[-1].append(size)
    return parts


Sums = dict[str, Tensor]
"""By layer, (3, C): how many values, the sum of their distances from the running mean, and of the squares of these."""


class BatchStatistics:
    """The batch norms of a network, and the moments of what they saw since the running statistics last moved.

    Args:
        momentum: how far the running statistics move at a time, of the way; PyTorch's own unless it is given.

    Attributes:
        layers: by name, those with running statistics.
        sums: of what was added.
    """

    def __init__(self, module: nn.Module, *, momentum: float = 0.1) -> None:
        self.momentum = momentum
        self.layers = {
            name: part
            for name, part in module.named_modules()
            if isinstance(part, nn.modules.batchnorm._BatchNorm) and part.running_mean is not None  # noqa: SLF001
        }
        self.sums: Sums = {}

    @contextmanager
    def watched(self) -> Iterator[Sums]:
        """Yields the moments of what passes inside the block."""
        seen: Sums = {}
        hooks = [layer.register_forward_pre_hook(self._taking(name, seen)) for name, layer in self.layers.items()]
        try:
            yield seen
        finally:
            for hook in hooks:
                hook.remove()

    @contextmanager
    def of_each_group(self, *, on: bool = True) -> Iterator[Sums]:
        """What passes inside the block is normalised by its own statistics, if ``on``; yields its moments.

        They count once they are added with :meth:`add`.
        """
        if not on:
            yield {}
            return
        for layer in self.layers.values():
            layer.training, layer.track_running_stats = True, False
        try:
            with self.watched() as seen:
                yield seen
        finally:
            for layer in self.layers.values():
                layer.training, layer.track_running_stats = False, True

    def apart(self, sums: Sums) -> float:
        """How far moments are from the running statistics: the mean of |ln(variance / running variance)|, over layers.

        0.0 for a network without batch norm.
        """
        means = []
        for name, (count, first, second) in sums.items():
            layer = self.layers[name]
            variance = (second / count - (first / count).square()).clamp(min=0)
            running = layer.get_buffer("running_var")
            means.append(((variance + layer.eps) / (running + layer.eps)).log().abs().mean())
        return float(torch.stack(means).mean()) if means else 0.0

    def _taking(self, name: str, sums: Sums) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        mean = self.layers[name].get_buffer("running_mean")

        def take(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            del layer
            x = inputs[0].detach().to(mean.dtype)
            over = [axis for axis in range(x.ndim) if axis != 1]
            apart = x - mean.reshape(1, -1, *[1] * (x.ndim - 2))
            count = torch.full_like(mean, apart.numel() / apart.shape[1])
            seen = torch.stack([count, apart.sum(over), apart.square().sum(over)])
            sums[name] = sums[name] + seen if name in sums else seen

        return take

    def add(self, seen: Sums) -> None:
        """Count the moments of a group."""
        for name, sums in seen.items():
            self.sums[name] = self.sums[name] + sums if name in self.sums else sums.clone()

    def all_sums(self) -> list[Tensor]:
        """The sums of every layer, in a fixed order; zeros where it saw nothing."""
        for name, layer in self.layers.items():
            mean = layer.get_buffer("running_mean")
            self.sums.setdefault(name, torch.zeros(3, *mean.shape).to(mean))
        return [self.sums[name] for name in self.layers]

    def follow(self) -> None:
        """Move the running statistics by the momentum towards those of the batch, and forget it."""
        for name, (count, first, second) in self.sums.items():
            running = [self.layers[name].get_buffer(which) for which in ("running_mean", "running_var")]
            apart = first / count
            variance = (second / count - apart.square()).clamp(min=0) * count / (count - 1).clamp(min=1)
            running[0] += self.momentum * apart
            running[1] += self.momentum * (variance - running[1])
        self.forget()

    def forget(self) -> None:
        """Start the sums again."""
        self.sums.clear()
