"""Functions of tensors as CUDA graphs: recorded once for shapes, then replayed without a word from Python.

Small networks and small batches keep a GPU waiting for the next kernel; a graph hands it all of them at once.
Source: PyTorch's notes on CUDA semantics, "CUDA Graphs".
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from sau_cli.devices import out_of_memory

WARM_UPS = 3
"""Calls before one is recorded, as PyTorch asks for: libraries choose their algorithms in them."""

Result = TypeVar("Result")


def directly(key: Hashable, function: Callable[..., Result], *tensors: Tensor, kept: Iterable[Tensor] = ()) -> Result:
    """Call a function, as :meth:`Graphs.run` does where nothing can be recorded."""
    del key, kept
    return function(*tensors)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Recording:
    """A graph, the tensors that it reads, and what it writes."""

    graph: torch.cuda.CUDAGraph
    inputs: tuple[Tensor, ...]
    result: object


class Graphs:
    """Recordings, which share their memory.

    Attributes:
        reason: why nothing is recorded any more; empty while it is.
    """

    def __init__(self) -> None:
        self.recordings: dict[Hashable, Recording] = {}
        self.reason = ""

    def run(
        self, key: Hashable, function: Callable[..., Result], *tensors: Tensor, kept: Iterable[Tensor] = ()
    ) -> Result:
        """What the function returns for these tensors; its tensors hold it until the next call with this key.

        Args:
            key: of a function whose work depends on the shapes of its tensors and no value. What it reads beside them,
                such as weights, may change in place only.
            kept: tensors that the function changes; recording leaves them as they are.

        Raises:
            RuntimeError: memory does not suffice; whatever else forbids a recording is kept as ``reason``.
        """
        if self.reason:
            return function(*tensors)
        whole = key, *((tensor.shape, tensor.dtype) for tensor in tensors)
        if whole not in self.recordings:
            try:
                self.recordings[whole] = self.record(function, tensors, list(kept))
            except RuntimeError as error:
                if out_of_memory(error):
                    raise
                self.stop(str(error).strip().splitlines()[0])
                return function(*tensors)
        recording = self.recordings[whole]
        for own, tensor in zip(recording.inputs, tensors, strict=True):
            own.copy_(tensor)
        recording.graph.replay()
        return recording.result  # type: ignore[return-value]

    def record(self, function: Callable[..., object], tensors: tuple[Tensor, ...], kept: list[Tensor]) -> Recording:
        """Call the function a few times, and once more to record it."""
        inputs = tuple(tensor.clone() for tensor in tensors)
        before = [tensor.clone() for tensor in kept]
        try:
            aside = torch.cuda.Stream()
            aside.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(aside):
                for _ in range(WARM_UPS):
                    function(*inputs)
            torch.cuda.current_stream().wait_stream(aside)
            graph = torch.cuda.CUDAGraph()
            pool = next((recording.graph.pool() for recording in self.recordings.values()), None)
            with torch.cuda.graph(graph, pool=pool):
                result = function(*inputs)
        finally:
            for tensor, was in zip(kept, before, strict=True):
                tensor.copy_(was)
        return Recording(graph=graph, inputs=inputs, result=result)

    def clear(self) -> None:
        """Let go of all recordings, and of their memory."""
        self.recordings.clear()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
            torch.cuda.empty_cache()

    def stop(self, reason: str) -> None:
        """Record nothing more."""
        self.reason = reason
        self.clear()
