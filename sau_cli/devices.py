"""Which device the work runs on."""

from __future__ import annotations

import torch
from torch import Tensor

from sau_cli.errors import UsageError, argument

PIXELS_A_PASS = 8 * 224 * 224
FEWEST_A_PASS = 4


def chosen_device(name: str) -> torch.device:
    """``auto`` takes CUDA, then MPS, then the CPU; else ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.

    Raises:
        UsageError: another name, or a device that this machine lacks.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    kind, _, number = name.partition(":")
    if kind not in {"cpu", "cuda", "mps"} or (
        number and not (kind == "cuda" and number.isascii() and number.isdigit() and len(number) < 5)
    ):
        raise UsageError(f"{argument('device')} {name!r} is unknown; give auto, cpu, cuda, cuda:N or mps")
    count = {"cpu": 1, "cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available())}[kind]
    if int(number or 0) >= count:
        raise UsageError(
            f"{argument('device')} {name!r} is not on this machine ({count} of that kind found); give cpu or auto"
        )
    return torch.device(name)


def out_of_memory(error: RuntimeError) -> bool:
    """Whether it says that a device is full. Only CUDA has a class for it; the others, a sentence each."""
    sentences = ("can't allocate memory", "not enough memory", "MPS backend out of memory")
    return isinstance(error, torch.OutOfMemoryError) or any(sentence in str(error) for sentence in sentences)


def images_a_pass(images: Tensor, most: int, device: torch.device | None = None) -> int:
    """How many of these images (N, C, H, W) go through a network at a time: ``most``, on a CPU fewer of large ones.

    What the layers of a larger pass hand on is in no cache by the time it is read, and takes memory that is fetched
    from the system anew for each pass (``docs/research/large-images.md``).

    Args:
        device: of the network; None for the one that the images are on.
    """
    if (device or images.device).type != "cpu":
        return most
    return min(most, max(FEWEST_A_PASS, PIXELS_A_PASS // (images.shape[2] * images.shape[3])))
