"""The margin by which a class wins: what most behaviour tests climb."""

from __future__ import annotations

import torch
from torch import Tensor


def margins(logits: Tensor, classes: Tensor) -> Tensor:
    """How far the logit of a class is above the highest of the others: (N, K) and (N,) int64 to (N,)."""
    own = logits.gather(1, classes[:, None]).squeeze(1)
    others = logits.scatter(1, classes[:, None], -torch.inf).amax(dim=1)
    return own - others
