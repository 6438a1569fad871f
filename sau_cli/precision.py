"""In which number format the networks run. Losses, weights and optimiser stay in single precision.

torch is imported where it is needed: the command line lists the names without it.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from enum import StrEnum
from typing import TYPE_CHECKING

from sau_cli.errors import UsageError, argument

if TYPE_CHECKING:
    import torch


class Precision(StrEnum):
    """``fp32``: single precision. ``bf16``: matrix products and convolutions in bfloat16, by autocast."""

    FP32 = "fp32"
    BF16 = "bf16"


def bf16_pays(device: torch.device, network: torch.nn.Module) -> bool:
    """Whether this device has instructions for bfloat16 that serve this network; elsewhere it is emulated, and slower.

    Those of a CPU are not for depthwise convolutions: networks of them took up to 2.8 times as long as in single
    precision (``docs/research/epoch-speed.md``).
    """
    import torch

    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type != "cpu":
        return False
    told: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(told.get("amx_bf16") or told.get("avx512_bf16")) and not _depthwise(network)


def _depthwise(network: torch.nn.Module) -> bool:
    from torch.nn import Conv1d, Conv2d, Conv3d

    convolutions = (part for part in network.modules() if isinstance(part, Conv1d | Conv2d | Conv3d))
    return any(1 < convolution.groups == convolution.in_channels for convolution in convolutions)


def chosen_precision(asked: Precision | None, device: torch.device, network: torch.nn.Module) -> Precision:
    """What was asked for; else bfloat16 where it pays.

    Raises:
        UsageError: the device cannot run in the precision asked for.
    """
    if asked is None:
        return Precision.BF16 if bf16_pays(device, network) else Precision.FP32
    check_precision(asked, device)
    return asked


def fast_layout(precision: Precision, device: torch.device) -> torch.memory_format:
    """In which order pixels lie best: convolutions on a CPU, and those in bfloat16, want the channels last."""
    import torch

    pays = device.type == "cpu" or precision is Precision.BF16
    return torch.channels_last if pays else torch.contiguous_format


def check_precision(precision: Precision, device: torch.device) -> None:
    """Raises UsageError where the device cannot run in this precision."""
    if precision is Precision.BF16 and device.type not in {"cpu", "cuda"}:
        raise UsageError(f"{argument('precision')} bf16 does not run on {device.type}; give fp32")


def running_in(precision: Precision, device: torch.device) -> AbstractContextManager[object]:
    """A context in which networks run in this precision. Leave it before weights change: it keeps casts of them."""
    if precision is Precision.FP32:
        return nullcontext()
    import torch

    return torch.autocast(device.type, torch.bfloat16)
