"""How much each channel can amplify: channels far above the others of their layer may serve a trigger. Needs no data.

Source: Zheng, Tang, Li, Liu, "Data-free Backdoor Removal based on Channel Lipschitzness", ECCV 2022.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.fx import symbolic_trace

from sau_cli.classifier import Classifier
from sau_cli.errors import NotEvaluable

FEWEST = 8
"""Channels of a layer: with fewer, none can stand out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelBounds:
    """What stands out.

    Attributes:
        largest: the highest number of standard deviations by which a channel is above the mean of its layer.
        layer, channel: where that is.
        outliers: channels more than three deviations above, of ``channels`` examined.
    """

    largest: float
    layer: str
    channel: int
    outliers: int
    channels: int


def channel_bounds(classifier: Classifier) -> ChannelBounds | None:
    """The Lipschitz bound of every channel of a convolution, with the batch norm that its output goes through.

    Which norm that is, is read from the graph of the network and not from the order of its modules, in which
    pre-activation networks have the norm of the next convolution behind each.

    Returns:
        None where the network's code cannot be traced, or has no convolution.

    Raises:
        NotEvaluable: a bound that is not finite, as of a negative variance.
    """
    found = None
    outliers = channels = 0
    for name, bounds in _bounds(classifier.network):
        if len(bounds) < FEWEST:
            continue
        deviations = (bounds - bounds.mean()) / bounds.std().clamp_min(1e-12)
        outliers += int((deviations > 3).sum())
        channels += len(bounds)
        at = int(deviations.argmax())
        if found is None or float(deviations[at]) > found[0]:
            found = float(deviations[at]), name, at
    if found is None:
        return None
    return ChannelBounds(largest=found[0], layer=found[1], channel=found[2], outliers=outliers, channels=channels)


def _bounds(network: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Each convolution with the bound of every output channel."""
    try:
        nodes = list(symbolic_trace(network).graph.nodes)
    except Exception:  # noqa: BLE001 (control flow on values, or a user's own code: nearly anything is raised)
        return
    modules = dict(network.named_modules())
    norms = {}
    for node in nodes:
        module = modules.get(str(node.target)) if node.op == "call_module" else None
        if isinstance(module, nn.BatchNorm2d) and node.args and len(node.args[0].users) == 1:
            norms[node.args[0].name] = module
    for node in nodes:
        module = modules.get(str(node.target)) if node.op == "call_module" else None
        if isinstance(module, nn.Conv2d):
            # In double precision no product of two weights overflows: a channel of such would hide all others.
            bounds = torch.linalg.matrix_norm(module.weight.detach().cpu().double().flatten(2), ord=2)
            norm = norms.get(node.name)
            if norm is not None and norm.weight is not None and norm.running_var is not None:
                spread = (norm.running_var.cpu().double() + norm.eps).sqrt()
                bounds = bounds * (norm.weight.detach().cpu().double() / spread).abs()
            if not bool(torch.isfinite(bounds).all()):
                raise NotEvaluable(
                    f"what channels of {str(node.target)[:100]} amplify is no finite number; the model's behaviour is "
                    "unknown"
                )
            yield str(node.target), bounds
