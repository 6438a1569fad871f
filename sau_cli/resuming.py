"""What runs that can be resumed share: what a run was given as one number, and an optimiser's state as tensors."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from sau_cli.errors import UsageError, argument


def digest_of(*parts: object) -> str:
    """A SHA-256 over tensors, by their bytes, and anything else by how Python writes it."""
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, Tensor):
            digest.update(part.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes())
        else:
            digest.update(part.encode() if isinstance(part, str) else repr(part).encode())
    return digest.hexdigest()


def check_same_run(told: str, expected: str) -> None:
    """Raises UsageError when a state belongs to a run with another model, data, settings or seed."""
    if told != expected:
        raise UsageError(
            "the state of the interrupted run belongs to another model, other data or other settings; "
            f"repeat its command with {argument('resume')}, or start over with {argument('force')}"
        )


def optimiser_tensors(optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Copies of an optimiser's tensors, as ``PARAMETER.NAME``."""
    states: Mapping[int, Mapping[str, Any]] = optimiser.state_dict()["state"]
    return {
        f"{number}.{name}": value.detach().clone()
        for number, state in states.items()
        for name, value in state.items()
        if isinstance(value, Tensor)
    }


def restore_optimiser(optimiser: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """The inverse of :func:`optimiser_tensors`; no tensors empty the optimiser's memory."""
    parameters = [parameter for group in optimiser.param_groups for parameter in group["params"]]
    states: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        number, _, name = key.partition(".")
        like = parameters[int(number)]
        # Laid out in memory as the optimiser would have it: another layout may round differently.
        restored = value.clone() if name == "step" else torch.empty_like(like).copy_(value)
        states.setdefault(int(number), {})[name] = restored
    optimiser.load_state_dict({"state": states, "param_groups": optimiser.state_dict()["param_groups"]})


def with_prefix(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Those whose names begin with ``prefix``, without it."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
