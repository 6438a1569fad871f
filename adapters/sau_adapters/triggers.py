"""Triggers on disk: files that ``sau attack`` wrote, pictures and arrays.

- ``NAME.trigger.safetensors``: tensors and a JSON description, with its own target rule.
- ``patch:FILE.png``: laid over the bottom-right corner at its own size; its alpha channel is the mask.
- ``blend:FILE.png@0.2``: mixed into the whole image at that opacity.
- ``add:FILE.npy``: (h, w), (h, w, C) or (C, h, w) added to the whole image, in [-1, 1], or in 8-bit steps if integer.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from sau_adapters.images.folder import GREY_MODES, PICTURES, eight_bit
from sau_adapters.weights.content import Content
from sau_adapters.weights.safetensors import described_in, write_described
from sau_cli.errors import NotEvaluable, UnsafeFile, UsageError, argument, reading, reason_of
from sau_cli.triggers.stamps import AddStamp, BlendStamp, PatchStamp, Stamp
from sau_cli.triggers.targets import TargetRule
from sau_cli.triggers.trigger import Trigger, trigger_from_parts

PICTURE_KINDS = ("patch", "blend", "add")
"""Of pictures and arrays, by what stands before the colon."""


def write_trigger(
    path: Path, trigger: Trigger, *, visibility: Mapping[str, float | int | None] | None = None, force: bool
) -> None:
    """Write a trigger file in one piece.

    Args:
        visibility: for whoever reads the file; it is not needed to stamp.

    Raises:
        UsageError: the place cannot be written to, or is taken and ``force`` is off.
    """
    about = trigger.description() | ({} if visibility is None else {"visibility": dict(visibility)})
    write_described(path, trigger.tensors(), "sau.trigger", about, force=force)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class OpenedTrigger:
    """A trigger, and the file that it was read from, once.

    Attributes:
        sha256: of the bytes that the trigger was made of.
    """

    trigger: Trigger
    path: Path
    sha256: str


def open_trigger(source: str, rule: TargetRule | None) -> Trigger:
    """The trigger of :func:`read_trigger`, for whoever does not ask what file it is from. Raises as that."""
    return read_trigger(source, rule).trigger


def read_trigger(source: str, rule: TargetRule | None) -> OpenedTrigger:
    """Open a trigger by path or by ``patch:``, ``blend:`` or ``add:``.

    Args:
        rule: where a picture or an array sends images; a trigger file has its own, which counts.

    Raises:
        UsageError: no such file, or a picture without a rule.
        NotEvaluable: content that is no trigger.
        UnsafeFile: a file with pickled objects or a lying header.
    """
    kind, colon, rest = source.partition(":")
    if not colon or kind not in PICTURE_KINDS:
        content = _taken_in(Path(source), what="a trigger file")
        return OpenedTrigger(trigger=_described(content), path=content.path, sha256=content.sha256)
    if rule is None:
        raise UsageError(
            f"trigger {source!r} does not say where it sends images; add {argument('target')} CLASS or all-to-all"
        )
    if kind == "patch":
        content = _taken_in(Path(rest), what="a picture")
        pattern, mask = _picture(content)
        stamping: Stamp = PatchStamp(pattern=pattern, mask=mask)
    elif kind == "blend":
        file, at, opacity = rest.rpartition("@")
        if not at or not 0 < _number(opacity, source) <= 1:
            raise UsageError(f"trigger {source!r} needs an opacity above 0 and at most 1; write blend:FILE.png@0.2")
        content = _taken_in(Path(file), what="a picture")
        pattern, mask = _picture(content)
        stamping = BlendStamp(pattern=pattern, mask=mask * _number(opacity, source))
    else:
        content = _taken_in(Path(rest), what="an array")
        stamping = AddStamp(pattern=_array(content))
    trigger = Trigger(name=content.path.stem, stamping=stamping, rule=rule)
    return OpenedTrigger(trigger=trigger, path=content.path, sha256=content.sha256)


def file_of(source: str) -> Path:
    """The file that a trigger is read from."""
    kind, colon, rest = source.partition(":")
    if not colon or kind not in PICTURE_KINDS:
        return Path(source)
    return Path(rest.rpartition("@")[0] if kind == "blend" else rest)


def _taken_in(path: Path, *, what: str) -> Content:
    content = Content(path, what=what)
    content.take_in(most=content.size)
    return content


def _described(content: Content) -> Trigger:
    advice = "give the .trigger.safetensors of sau attack, or patch:, blend: or add:FILE"
    return trigger_from_parts(*described_in(content, "sau.trigger", what="trigger file", advice=advice))


def _number(text: str, source: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise UsageError(f"trigger {source!r} has opacity {text!r}, which is no number; write it like @0.2") from error


def _picture(content: Content) -> tuple[Tensor, Tensor]:
    """Pattern (1 or 3, h, w) and mask (1, h, w), both in [0, 1]."""
    path = content.path
    with warnings.catch_warnings(), reading(path, "a picture", advice="give a PNG"):
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        with Image.open(content.stream(), formats=PICTURES) as picture:
            grey = picture.mode in GREY_MODES
            shown = eight_bit(picture, path).convert("LA" if grey else "RGBA")
    pixels = torch.from_numpy(np.array(shown)).permute(2, 0, 1).float() / 255
    pattern = pixels[:-1]
    if bool((pattern == pattern[:1]).all()):  # grey, whatever the picture's mode: it serves grey images too
        pattern = pattern[:1]
    return pattern.contiguous(), pixels[-1:].contiguous()


def _array(content: Content) -> Tensor:
    """A pattern (1 or 3, h, w) in [-1, 1]."""
    path = content.path
    try:
        loaded: NDArray[np.generic] = np.lib.format.read_array(content.stream(), allow_pickle=False)
    except ValueError as error:
        if "object arrays" in str(error).lower():
            raise UnsafeFile(f"{path} holds pickled objects, which can run code; store a plain array") from error
        raise NotEvaluable(
            f"{path} is no .npy of a plain array ({reason_of(error)}); store one with numpy.save"
        ) from error
    except (OSError, EOFError, MemoryError, OverflowError) as error:
        raise NotEvaluable(f"{path} is a damaged .npy ({error}); store it again with numpy.save") from error
    if not (np.issubdtype(loaded.dtype, np.integer) or np.issubdtype(loaded.dtype, np.floating)):
        raise NotEvaluable(f"{path} is no .npy of numbers; store one array with numpy.save")
    steps = 255 if np.issubdtype(loaded.dtype, np.integer) else 1
    values = loaded.astype(np.float32) / np.float32(steps)
    if values.ndim == 2:
        values = values[None]
    elif values.ndim == 3 and values.shape[0] not in (1, 3) and values.shape[2] in (1, 3):
        values = values.transpose(2, 0, 1)
    return torch.from_numpy(np.ascontiguousarray(values))
