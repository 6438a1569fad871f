"""How visible a trigger is: stamped images against clean ones."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from skimage.metrics import structural_similarity
from torch import Tensor

from sau_cli.triggers.trigger import Trigger

WINDOW = 7
"""Pixels on a side of what SSIM compares, where images are as large."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Visibility:
    """Means over the images, on pixels in [0, 1].

    Attributes:
        linf: largest change of a value.
        l2: length of the change of an image.
        psnr: peak signal-to-noise ratio in dB of the mean squared change; None where nothing changed.
        ssim: structural similarity, 1 for no difference; None for images under 3 pixels.
        images: how many were compared.
    """

    linf: float
    l2: float
    psnr: float | None
    ssim: float | None
    images: int


def visibility(trigger: Trigger, images: Tensor) -> Visibility:
    """Compare images (N, C, H, W) uint8 with and without the trigger.

    Raises:
        NotEvaluable: the trigger does not fit the images.

    Source: SSIM as in Wang, Bovik, Sheikh, Simoncelli, "Image quality assessment", 2004.
    """
    stamped = trigger.stamp(images)
    clean_pixels, pixels = images.double() / 255, stamped.double() / 255
    change = (pixels - clean_pixels).flatten(1)
    error = float(change.square().mean())
    side = min(WINDOW, *images.shape[2:])
    window = side - (side + 1) % 2
    similar = None
    if window >= 3:
        values = [
            # Two pictures without their gradient give a number.
            float(structural_similarity(before.numpy(), after.numpy(), channel_axis=0, win_size=window, data_range=1.0))  # pyright: ignore[reportArgumentType]
            for before, after in zip(clean_pixels, pixels, strict=True)
        ]
        similar = sum(values) / len(values)
    return Visibility(
        linf=float(change.abs().amax(dim=1).mean()),
        l2=float(change.norm(dim=1).mean()),
        psnr=float(-10 * torch.tensor(error).log10()) if error > 0 else None,
        ssim=similar,
        images=len(images),
    )
