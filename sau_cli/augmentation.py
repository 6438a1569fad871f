"""Random crops and mirror images, a batch at a time."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from sau_cli.errors import UsageError


@dataclass(frozen=True, slots=True, kw_only=True)
class Augmentation:
    """How images are varied; the defaults change nothing.

    Attributes:
        padding: crops from images padded by this many pixels of zero.
        flip: mirror every second image at random.
    """

    padding: int = 0
    flip: bool = False

    def __post_init__(self) -> None:
        if self.padding < 0:
            raise UsageError(f"a padding of {self.padding} pixels is impossible; give 0 or more")

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Vary images (N, C, H, W), each by its own draw. Same shape and dtype."""
        count, _, height, width = images.shape
        if self.padding:
            edge = self.padding
            offsets = torch.randint(0, 2 * edge + 1, (2, count, 1), generator=generator).to(images.device)
            rows = offsets[0] + torch.arange(height, device=images.device)
            columns = offsets[1] + torch.arange(width, device=images.device)
            which = torch.arange(count, device=images.device)[:, None, None]
            padded = pad(images, (edge, edge, edge, edge))
            images = padded.permute(0, 2, 3, 1)[which, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
        if self.flip:
            mirrored = torch.rand(count, generator=generator).to(images.device) < 0.5
            images = torch.where(mirrored[:, None, None, None], images.flip(3), images)
        return images.contiguous()
