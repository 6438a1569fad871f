"""What a classifier says of itself: architecture, classes, input and history. Needs no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import isfinite
from typing import Any

from sau_cli.errors import UsageError


@dataclass(frozen=True, slots=True, kw_only=True)
class InputSpec:
    """The images a classifier takes, and how it normalises them.

    Attributes:
        channels: 1 for grey images, 3 for RGB.
        height, width: in pixels.
        mean, std: one value a channel, on pixels in [0, 1]; the network sees (x - mean) / std.

    Raises:
        UsageError: sizes below 1, as many means as channels missing, or a std that is not positive.
    """

    channels: int
    height: int
    width: int
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        if min(self.channels, self.height, self.width) < 1:
            raise UsageError(
                f"an input of {self.channels} channels and {self.height}x{self.width} pixels is impossible; "
                "give sizes of 1 or more"
            )
        if not len(self.mean) == len(self.std) == self.channels:
            raise UsageError(
                f"the normalisation has {len(self.mean)} means and {len(self.std)} standard deviations for "
                f"{self.channels} channels; give one of each for every channel"
            )
        if not all(isfinite(value) for value in (*self.mean, *self.std)):
            raise UsageError("the normalisation has a value that is not finite; give ordinary numbers")
        if not all(value > 0 for value in self.std):
            raise UsageError("the normalisation has a standard deviation that is not positive; give values above 0")

    @property
    def size(self) -> str:
        """Height and width for people, such as ``32x32``."""
        return f"{self.height}x{self.width}"


@dataclass(frozen=True, slots=True, kw_only=True)
class HistoryStep:
    """One thing that was done to a model: what, with which settings and seed, to which input.

    Attributes:
        step: ``attack``, ``purify`` or ``export``.
        input_sha256: of the file that went in; None when the model was trained from scratch.
    """

    step: str
    settings: Mapping[str, Any]
    seed: int
    input_sha256: str | None
    tool_version: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Description:
    """What is known of a classifier beside its weights.

    Attributes:
        architecture: a name from the adapters' tables, such as ``preact_resnet18`` or ``timm:resnet18``.
        class_names: one a class, in the order of the logits.
        data: the name of the data set it was trained on, if known.
        history: oldest step first.
        config: settings that the architecture is built with, where its name alone does not tell; plain JSON.
    """

    architecture: str
    class_names: tuple[str, ...]
    input: InputSpec
    data: str | None = None
    history: tuple[HistoryStep, ...] = field(default=())
    config: Mapping[str, Any] | None = None

    @property
    def classes(self) -> int:
        return len(self.class_names)
