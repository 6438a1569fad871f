"""Contexts that put a module into a state and restore the old one exactly, also after an error."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def evaluating(*modules: nn.Module) -> Iterator[None]:
    """Eval mode inside the block: dropout off, batch-norm statistics frozen.

    Each sub-module gets its own old mode back, also where parent and child differed.
    """
    modes = [(part, part.training) for module in modules for part in module.modules()]
    for module in modules:
        module.eval()
    try:
        yield
    finally:
        for part, mode in modes:
            part.training = mode


@contextmanager
def frozen(*modules: nn.Module) -> Iterator[None]:
    """No parameter of these modules asks for a gradient inside the block."""
    flags = [(parameter, parameter.requires_grad) for module in modules for parameter in module.parameters()]
    for parameter, _ in flags:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter, flag in flags:
            parameter.requires_grad_(flag)
