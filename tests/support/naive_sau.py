"""Shared Adversarial Unlearning, written naively and apart from the product.

Every forward pass is made again at every step, gradients go everywhere, the whole batch stays to
the end, and all is written out as the method's description has it. Slow, and meant to be.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn


@dataclass
class Trace:
    deltas: list[Tensor] = field(default_factory=list)
    gradients: list[Tensor] = field(default_factory=list)
    losses: list[tuple[float, float]] = field(default_factory=list)


def divergence(first: Tensor, second: Tensor) -> Tensor:
    p, q = first.softmax(1), second.softmax(1)
    m = (p + q) / 2
    to_m = (p * (p.log() - m.log())).sum(1), (q * (q.log() - m.log())).sum(1)
    return 0.5 * to_m[0] + 0.5 * to_m[1]


def perturb(model: nn.Module, backdoored: nn.Module, x: Tensor, y: Tensor, trace: Trace) -> Tensor:
    delta = torch.full_like(x, 0.2)
    for _ in range(5):
        delta = delta.detach().requires_grad_(True)
        h, h_bd = model(x + delta), backdoored(x + delta)
        fooled = h.argmax(1) != model(x).argmax(1)
        fooled_bd = h_bd.argmax(1) != backdoored(x).argmax(1)
        shared = fooled & fooled_bd & (h.argmax(1) == h_bd.argmax(1))
        if bool(shared.all()):
            break
        ce = nn.functional.cross_entropy(h, y, reduction="none")
        ce_bd = nn.functional.cross_entropy(h_bd, y, reduction="none")
        l_adv = 0.5 * (ce * (~fooled).float() + ce_bd * (~fooled_bd).float()) * (~shared).float()
        l_share = -divergence(h, h_bd) * (~shared).float()
        objective = (0.01 * l_adv + l_share).sum() / len(x)
        objective.backward()  # into every parameter of both models too, as the authors' code does
        gradient = delta.grad
        trace.gradients.append(gradient)
        delta = torch.clamp(delta + 0.2 * gradient.sign(), -0.2, 0.2)
    return delta.detach()


def naive_sau(
    network: nn.Module, batches: list[tuple[Tensor, Tensor]], lr: float = 1e-4, received: nn.Module | None = None
) -> tuple[nn.Module, Trace]:
    """Run one step a batch; the batches come in order. ``network`` is where to start, and the received model too."""
    model, backdoored = copy.deepcopy(network).eval(), copy.deepcopy(received or network).eval()
    optimiser = torch.optim.Adam(model.parameters(), lr=lr, amsgrad=True, weight_decay=0)
    trace = Trace()
    for x, y in batches:
        delta = perturb(model, backdoored, x, y, trace)
        trace.deltas.append(delta)
        with torch.no_grad():
            said = backdoored(x + delta).argmax(1)
            clean_said = backdoored(x).argmax(1)
        applies = (said != y) & (said != clean_said)
        p = model(x + delta).softmax(1)[torch.arange(len(x)), said]
        term = 0.5 * (
            -torch.log(1e-6 + torch.minimum(1 - p, torch.tensor(0.999, dtype=p.dtype)))
            - torch.log(1 + 1e-6 - torch.maximum(p, torch.tensor(0.001, dtype=p.dtype)))
        )
        l_sar = (term * applies.float()).sum() / len(x)
        l_cl = nn.functional.cross_entropy(model(x), y)
        trace.losses.append((l_cl.item(), l_sar.item()))
        optimiser.zero_grad()
        (l_cl + l_sar).backward()
        optimiser.step()
    return model, trace
