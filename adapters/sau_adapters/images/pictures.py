"""Pictures for people: what a trigger does to images."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from sau_adapters.files import check_writable, written_whole
from sau_cli.errors import UsageError, argument
from sau_cli.triggers.trigger import Trigger

TILE, TILE_GAP, HEADING, SIDE = 96, 4, 22, 96


def write_preview(path: Path, triggers: Sequence[Trigger], images: Tensor, *, force: bool) -> None:
    """For each trigger a row of images (N, C, H, W) uint8: clean, triggered, and the difference, enlarged.

    Raises:
        UsageError: the place cannot be written to, or is taken and ``force`` is off.
        NotEvaluable: a trigger that does not fit the images.
    """
    check_writable(path, force=force, place="preview")
    blocks = [_block(trigger, images) for trigger in triggers]
    whole = Image.new("RGB", (blocks[0].width, sum(block.height for block in blocks)), "white")
    top = 0
    for block in blocks:
        whole.paste(block, (0, top))
        top += block.height
    try:
        with written_whole(path) as temporary:
            whole.save(temporary, format="PNG")
    except ValueError as error:
        raise UsageError(
            f"{path} could not be written ({error}); give another name with {argument('preview')}"
        ) from error


def _block(trigger: Trigger, images: Tensor) -> Image.Image:
    stamped = trigger.stamp(images)
    change = (stamped.int() - images.int()).abs()
    times = enlargement(change)
    enlarged = (change * times).clamp(max=255).to(torch.uint8)
    rows = {"clean": images, "triggered": stamped, f"difference\nx {times}": enlarged}
    factor = max(1, TILE // max(images.shape[2:]))
    height, width = (factor * pixels for pixels in images.shape[2:])
    block = Image.new(
        "RGB", (SIDE + (width + TILE_GAP) * len(images), HEADING + (height + TILE_GAP) * len(rows)), "white"
    )
    draw, font = ImageDraw.Draw(block), ImageFont.load_default(14)
    draw.text((TILE_GAP, TILE_GAP), f"{trigger.name}, {trigger.rule}", fill="black", font=font)
    for row, (title, pictures) in enumerate(rows.items()):
        top = HEADING + row * (height + TILE_GAP)
        draw.multiline_text((TILE_GAP, top + height // 2 - 8), title, fill="black", font=font)
        for column, picture in enumerate(pictures):
            shown = Image.fromarray(picture.expand(3, -1, -1).permute(1, 2, 0).contiguous().numpy())
            block.paste(
                shown.resize((width, height), Image.Resampling.NEAREST), (SIDE + column * (width + TILE_GAP), top)
            )
    return block


def enlargement(change: Tensor) -> int:
    """By how much to enlarge differences of 0 to 255 so that nine in ten of those that there are stay below white.

    >>> enlargement(torch.tensor([0, 5, 5, 5, 5, 5, 5, 5, 5, 5, 200]))
    51
    """
    changed = change[change > 0].numpy()
    return max(1, int(255 // np.quantile(changed, 0.9, method="lower"))) if len(changed) else 1


def change_shown(kind: str, image: Tensor, changed: Tensor, success: float) -> dict[str, str | float]:
    """As :func:`recovered_trigger`, of an image (C, H, W) float in [0, 1] and the same one changed."""
    return recovered_trigger(kind, changed - image, success, image.mul(255).round().to(torch.uint8))


def recovered_trigger(kind: str, change: Tensor, success: float, image: Tensor) -> dict[str, str | float]:
    """What a search found, for reports: its kind, the share of images that it sends to the class, and a PNG in base64.

    The picture shows an image, the image with the change, and the change alone around grey.

    Args:
        change: (C, H, W) float in [-1, 1].
        image: (C, H, W) uint8.
    """
    changed = (image / 255 + change).clamp(0, 1).mul(255).round().to(torch.uint8)
    alone = (change * 127.5 + 127.5).clamp(0, 255).to(torch.uint8)
    parts = [
        Image.fromarray(pixels.expand(3, -1, -1).permute(1, 2, 0).contiguous().numpy())
        for pixels in (image, changed, alone)
    ]
    width, height = parts[0].size
    whole = Image.new("RGB", (3 * width + 4, height), "white")
    for place, part in enumerate(parts):
        whole.paste(part, (place * (width + 2), 0))
    return {"kind": kind, "success": round(success, 4), "png": _png(whole)}


def thumbnail(image: Tensor) -> str:
    """An image (C, H, W) uint8 as a PNG in base64, no larger than 96 pixels."""
    picture = Image.fromarray(image.expand(3, -1, -1).permute(1, 2, 0).contiguous().numpy())
    picture.thumbnail((TILE, TILE))
    return _png(picture)


def _png(picture: Image.Image) -> str:
    stream = BytesIO()
    picture.save(stream, format="PNG")
    return b64encode(stream.getvalue()).decode("ascii")
