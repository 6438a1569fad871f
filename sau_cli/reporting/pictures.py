"""What a change does to an image, for pages: the image without and with it, and the difference, made visible."""

from __future__ import annotations

from base64 import b64decode, b64encode
from dataclasses import dataclass
from io import BytesIO

import numpy as np
from PIL import Image

PICTURE_GAP = 2
"""Pixels between the three parts of a picture in a report."""
BRIGHT = 0.9
"""The share of the changed values that stay below white when the difference is amplified."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangePictures:
    """Three PNG files in base64.

    Attributes:
        difference: of the two, without its sign, times ``times``.
        share: of the pixels that differ at all, in [0, 1].
    """

    without: str
    with_change: str
    difference: str
    times: int
    share: float


def change_pictures(png: str) -> ChangePictures:
    """Take apart a picture as reports hold it: an image, the image with the change, and the change, side by side.

    The difference is that of the two images as they are shown, and amplified so that it can be seen.

    Args:
        png: in base64, of width 3 W + 4.
    """
    with Image.open(BytesIO(b64decode(png))) as picture:
        pixels = np.asarray(picture.convert("RGB"))
    width = (pixels.shape[1] - 2 * PICTURE_GAP) // 3
    without, changed = pixels[:, :width], pixels[:, width + PICTURE_GAP : 2 * width + PICTURE_GAP]
    apart = np.abs(changed.astype(np.int16) - without.astype(np.int16))
    there = apart[apart > 0]
    times = max(1, int(255 // np.quantile(there, BRIGHT, method="lower"))) if len(there) else 1
    return ChangePictures(
        without=_png(without),
        with_change=_png(changed),
        difference=_png(np.minimum(apart * times, 255).astype(np.uint8)),
        times=times,
        share=float((apart.max(axis=2) > 0).mean()),
    )


def _png(pixels: np.ndarray) -> str:
    stream = BytesIO()
    Image.fromarray(pixels).save(stream, format="PNG")
    return b64encode(stream.getvalue()).decode("ascii")
