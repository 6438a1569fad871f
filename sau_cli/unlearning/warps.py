"""Images that are bent: sampled elsewhere, by a flow through the points of a coarse grid."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample, interpolate


def warp_numbers(coarse_points: int) -> int:
    """How many numbers a warp is: two at each point of its grid."""
    return 2 * coarse_points**2


def bent(images: Tensor, delta: Tensor, *, coarse_points: int) -> Tensor:
    """Images (N, C, H, W) sampled elsewhere: by a smooth flow through the points whose moves stand first in δ.

    Args:
        images: float, of :func:`warp_numbers` or more numbers each.
        delta: (N, C, H, W), of which nothing else counts; in half sides of the image.
        coarse_points: on a side of the grid.

    Source: Nguyen and Tran, "WaNet", ICLR 2021, arXiv 2102.10369, whose triggers are such warps.
    """
    moves = delta.flatten(1)[:, : warp_numbers(coarse_points)].reshape(-1, 2, coarse_points, coarse_points)
    flow = interpolate(moves, size=images.shape[2:], mode="bicubic", align_corners=True).movedim(1, 3)
    still = torch.eye(2, 3, device=images.device, dtype=images.dtype).expand(len(images), 2, 3)
    places = affine_grid(still, list(images.shape), align_corners=True) + flow
    return grid_sample(images, places, mode="bilinear", padding_mode="border", align_corners=True)
