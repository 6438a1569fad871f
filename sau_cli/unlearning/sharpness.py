"""Sharpness-aware minimisation, adaptive to the size of each weight: where the loss is highest nearby.

Source: Foret et al., ICLR 2021, arXiv 2010.01412; adaptive: Kwon et al., ICML 2021, arXiv 2102.11600.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from sau_cli.unlearning.new_head import SMALLEST


def ascent(weights: Sequence[Tensor], gradients: Sequence[Tensor], rho: float) -> list[Tensor]:
    """The step ε that raises the linearised loss most among those with ‖ε / |w|‖ ≤ ρ, over all weights together.

    ε = ρ · w² ∘ g / ‖w ∘ g‖; a weight of zero does not move.

    >>> step, = ascent([torch.tensor([3.0, 0.0])], [torch.tensor([2.0, 5.0])], rho=0.5)
    >>> step.tolist()
    [1.5, 0.0]

    Source: Kwon et al., equation 6 with T_w = |w|, as FT-SAM takes it.
    """
    norm = torch.stack([(weight * gradient).norm() for weight, gradient in zip(weights, gradients, strict=True)]).norm()
    scale = rho / norm.clamp(min=SMALLEST)
    return [scale * weight.square() * gradient for weight, gradient in zip(weights, gradients, strict=True)]


@contextmanager
def climbed(parameters: Iterable[torch.nn.Parameter], rho: float) -> Iterator[None]:
    """Inside the block, the weights stand where :func:`ascent` by their gradients leads; then where they were."""
    moved = [parameter for parameter in parameters if parameter.grad is not None]
    before = [parameter.detach().clone() for parameter in moved]
    with torch.no_grad():
        gradients = [parameter.grad for parameter in moved if parameter.grad is not None]
        for parameter, step in zip(moved, ascent(before, gradients, rho), strict=True):
            parameter.add_(step)
    try:
        yield
    finally:
        with torch.no_grad():
            for parameter, was in zip(moved, before, strict=True):
                parameter.copy_(was)
