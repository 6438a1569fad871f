"""From arrays of pixels, as sources hold them, to labelled images."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import interpolate

from sau_cli.errors import NotEvaluable, argument
from sau_cli.images import LabelledImages

MOST_CLASSES = 100_000
LARGEST_ARRAY = 16 * 1024**3


def labelled_images(
    images: NDArray[Any],
    labels: NDArray[Any],
    *,
    source: str,
    class_names: tuple[str, ...] | None = None,
    image_size: tuple[int, int] | None = None,
) -> LabelledImages:
    """Arrays (N, H, W), (N, H, W, C) or (N, C, H, W) of uint8, with C of 1 or 3, and N labels.

    Without ``class_names`` the classes are 0 to the largest label.

    Raises:
        NotEvaluable: another shape, pixels that are not 8-bit, or labels that are no class numbers.
    """
    if images.dtype != np.uint8:
        raise NotEvaluable(f"the images of {source} are {images.dtype}; store them as uint8, 0 to 255")
    if images.ndim == 3:
        images = images[:, None]
    elif images.ndim == 4 and images.shape[3] in (1, 3):
        images = images.transpose(0, 3, 1, 2)
    elif not (images.ndim == 4 and images.shape[1] in (1, 3)):
        raise NotEvaluable(
            f"the images of {source} have shape {images.shape}; store (N, H, W) or (N, H, W, C), C 1 or 3"
        )
    labels = labels.squeeze(1) if labels.ndim == 2 and labels.shape[1] == 1 else labels
    if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer):
        raise NotEvaluable(f"the labels of {source} are {labels.dtype} of shape {labels.shape}; store N whole numbers")
    if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < MOST_CLASSES:
        raise NotEvaluable(
            f"the labels of {source} run from {labels.min()} to {labels.max()}; "
            f"labels count from 0, to {MOST_CLASSES - 1} at most"
        )
    labels = labels.astype(np.int64)
    if class_names is None:
        class_names = tuple(str(number) for number in range(int(labels.max(initial=-1)) + 1))
    pixels = torch.from_numpy(np.ascontiguousarray(images))
    return LabelledImages(
        images=pixels if image_size is None else resized(pixels, image_size),
        labels=torch.from_numpy(labels),
        class_names=class_names,
    )


def resized(images: Tensor, size: tuple[int, int]) -> Tensor:
    """Scale so that the whole target is covered, then cut the rest off evenly. (N, C, h, w) to (N, C, *size) uint8."""
    height, width = images.shape[2:]
    if (height, width) == size:
        return images
    if images.shape[0] * images.shape[1] * size[0] * size[1] > LARGEST_ARRAY:
        raise NotEvaluable(
            f"{len(images)} images of {size[0]}x{size[1]} pixels do not fit into memory; "
            f"give a smaller {argument('image_size')}"
        )
    scale = max(size[0] / height, size[1] / width)
    target = (max(size[0], round(height * scale)), max(size[1], round(width * scale)))
    top, left = (target[0] - size[0]) // 2, (target[1] - size[1]) // 2
    parts = [
        interpolate(batch.float(), size=target, mode="bilinear", antialias=True, align_corners=False)
        for batch in images.split(1024)
    ]
    scaled = torch.cat(
        [part[:, :, top : top + size[0], left : left + size[1]].round().to(torch.uint8) for part in parts]
    )
    return scaled.contiguous()
