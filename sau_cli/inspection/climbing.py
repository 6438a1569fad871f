"""What the behaviour tests climb, and how they keep within the range of pixels."""

from __future__ import annotations

import torch
from torch import Tensor


def margins(logits: Tensor, classes: Tensor) -> Tensor:
    """How far the logit of a class is above the highest of the others: (N, K) and (N,) int64 to (N,)."""
    own = logits.gather(1, classes[:, None]).squeeze(1)
    others = logits.scatter(1, classes[:, None], -torch.inf).amax(dim=1)
    return own - others


def in_range(pixels: Tensor) -> Tensor:
    """Pixels cut to [0, 1], with the slope of uncut ones: a search could never leave black or white otherwise."""
    return pixels + (pixels.clamp(0, 1) - pixels).detach()
