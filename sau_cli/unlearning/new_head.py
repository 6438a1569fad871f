"""A head drawn anew, and weights brought back to a norm: where D3 and FST begin."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from sau_cli.unlearning.batch_step import NotFiniteError

SMALLEST = 1e-12
"""Of a norm that is divided by."""


def draw_anew(head: nn.Module, stream: torch.Generator) -> None:
    """Draw a head's weights, and its biases, uniformly around 0, each at the norm that they had.

    Args:
        stream: on the CPU, so that the draws are the same on every device.
    """
    with torch.no_grad():
        for parameter in head.parameters(recurse=False):
            drawn = torch.rand(parameter.shape, generator=stream).to(parameter) - 0.5
            parameter.copy_(drawn * (parameter.norm() / drawn.norm().clamp(min=SMALLEST)))


def norm_over(tensors: Iterable[Tensor]) -> Tensor:
    """The L2 norm of all tensors together, a scalar."""
    norm: Tensor = torch.stack([tensor.detach().norm() for tensor in tensors]).norm()
    return norm


def bring_to(norm: Tensor, parameters: Iterable[nn.Parameter]) -> None:
    """Scale parameters together to an L2 norm.

    Raises:
        NotFiniteError: theirs is not finite.
    """
    moved = list(parameters)
    now = norm_over(moved)
    if not bool(torch.isfinite(now)):
        raise NotFiniteError("the weights stopped being finite")
    with torch.no_grad():
        for parameter in moved:
            parameter.mul_(norm / now.clamp(min=SMALLEST))
