"""How fine a picture may be: frequencies, drawn evenly over octaves, and pictures without what is finer."""

from __future__ import annotations

import torch
from torch import Tensor

FINEST = 0.5
"""Cycles a pixel: no picture has a finer wave."""


def low_passed(pictures: Tensor, cut_off: Tensor) -> Tensor:
    """Pictures (N, C, H, W) without the waves that have more than ``cut_off`` (N,) cycles a pixel."""
    height, width = pictures.shape[2:]
    down = torch.fft.fftfreq(height, device=pictures.device)[:, None]
    across = torch.fft.rfftfreq(width, device=pictures.device)
    kept = torch.fft.rfft2(pictures) * (down.hypot(across) <= cut_off[:, None, None, None])
    return torch.where(cut_off.isinf()[:, None, None, None], pictures, torch.fft.irfft2(kept, s=(height, width)))


def cut_offs(draws: Tensor, pixels: int, *, fewest_cycles: float) -> Tensor:
    """Frequencies in cycles a pixel, of draws from 0 to 1, (N,) to (N,).

    From ``fewest_cycles`` over so many pixels to half a cycle a pixel, every octave as likely: triggers may be coarse
    or fine.

    >>> cut_offs(torch.tensor([0.0, 0.5, 1.0]), 16, fewest_cycles=2).tolist()
    [0.125, 0.25, 0.5]
    """
    coarsest = min(fewest_cycles / pixels, FINEST)
    return coarsest * (FINEST / coarsest) ** draws
