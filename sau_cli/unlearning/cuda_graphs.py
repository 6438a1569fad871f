"""The search on a GPU: its steps as CUDA graphs, recorded once for a size, then replayed without a word from Python.

Small networks and small batches keep a GPU waiting for the next kernel; a graph hands it all of them at once.
Source: PyTorch's notes on CUDA semantics, "CUDA Graphs".
"""

from __future__ import annotations

import torch
from torch import Tensor

from sau_cli.classifier import Classifier
from sau_cli.unlearning.batch_step import out_of_memory
from sau_cli.unlearning.frozen_batch_norm import FrozenBatchNorms
from sau_cli.unlearning.recipes import Recipe
from sau_cli.unlearning.shared_examples import Search

WARM_UPS = 3
"""Calls before one is recorded, as PyTorch asks for: libraries choose their algorithms in them."""


class ReplayedSearch(Search):
    """The steps as graphs, while that can be.

    Tensors stand in buffers with one row more than the largest set of images has: what fills a step up to one of a few
    sizes works on that row, and tells nobody. Weights may change in place between sets of images.

    Attributes:
        reason: why steps are no longer recorded; empty while they are.
    """

    def __init__(self, purified: Classifier, received: Classifier, recipe: Recipe) -> None:
        super().__init__(purified, received, recipe)
        self.frozen = [FrozenBatchNorms(model) for model in (purified, received)]
        self.buffers: dict[str, Tensor] = {}
        self.recorded: dict[tuple[int, frozenset[str]], tuple[torch.cuda.CUDAGraph, Tensor, Tensor]] = {}
        self.reason = ""

    def begin(self, **tensors: Tensor | None) -> tuple[Tensor, Tensor]:
        """See :meth:`Search.begin`; inside the precision that the steps will run in."""
        for one in self.frozen:
            one.follow()
        if self.reason:
            return super().begin(**tensors)
        given = {name: tensor for name, tensor in tensors.items() if tensor is not None}
        count = len(given["images"])
        if self.buffers and len(self.buffers["images"]) <= count:
            self.release()
        for name, tensor in given.items():
            if name not in self.buffers:
                rows = len(self.buffers["images"]) if self.buffers else count + 1
                self.buffers[name] = tensor.new_zeros(rows, *tensor.shape[1:])
                if name == "together":
                    self.buffers[name][-1] = rows - 1
            self.buffers[name][:count].copy_(tensor)
        self.tensors = {name: self.buffers[name] if name in given else None for name in tensors}
        return self.buffers["delta"][:count], self.buffers["said"][:count]

    def step(self, at: Tensor) -> Tensor:
        """See :meth:`Search.step`.

        Raises:
            RuntimeError: memory does not suffice; whatever else forbids a recording is kept as ``reason``.
        """
        with self.frozen[0].used(), self.frozen[1].used():
            if self.reason:
                return super().step(at)
            size = padded(len(at))
            key = size, frozenset(name for name, tensor in self.tensors.items() if tensor is not None)
            filled = torch.full((size,), len(self.buffers["images"]) - 1)
            filled[: len(at)] = at
            if key not in self.recorded:
                try:
                    self.recorded[key] = self.record(filled)
                except RuntimeError as error:
                    if out_of_memory(error):
                        raise
                    self.recorded.clear()
                    self.reason = str(error).strip().splitlines()[0]
                    return super().step(at)
            graph, where, unshared = self.recorded[key]
            where.copy_(filled)
            graph.replay()
            return unshared[: len(at)].cpu()

    def record(self, at: Tensor) -> tuple[torch.cuda.CUDAGraph, Tensor, Tensor]:
        """The graph of a step for as many images as these, where it reads which, and where it says which are left."""
        where = at.to(self.buffers["images"].device)
        before = {name: self.buffers[name].clone() for name in ("delta", "said")}
        try:
            aside = torch.cuda.Stream()
            aside.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(aside):
                for _ in range(WARM_UPS):
                    self.function(where, **self.tensors)
            torch.cuda.current_stream().wait_stream(aside)
            graph = torch.cuda.CUDAGraph()
            pool = next((other.pool() for other, _, _ in self.recorded.values()), None)
            with torch.cuda.graph(graph, pool=pool):
                unshared = self.function(where, **self.tensors)
        finally:
            for name, tensor in before.items():
                self.buffers[name].copy_(tensor)
        return graph, where, unshared

    def release(self) -> None:
        """Let go of all recordings and buffers, and their memory."""
        self.recorded.clear()
        self.buffers.clear()
        super().release()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
            torch.cuda.empty_cache()

    def lack_memory(self) -> None:
        """See :meth:`Search.lack_memory`; recordings keep theirs to themselves, so there are no more."""
        self.reason = "memory does not suffice"
        self.release()


def padded(count: int) -> int:
    """The next power of two, or three quarters of it: at most half as many again, in few sizes.

    >>> [padded(count) for count in (1, 3, 5, 12, 13, 64, 65, 100)]
    [8, 8, 8, 12, 16, 64, 96, 128]
    """
    whole = 1 << max(count - 1, 7).bit_length()
    return whole * 3 // 4 if whole > 8 and count <= whole * 3 // 4 else whole
