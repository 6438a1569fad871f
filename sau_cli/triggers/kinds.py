"""The kinds of stamps by name: what a trigger file holds, and several stamps as one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from torch import Tensor

from sau_cli.resuming import with_prefix
from sau_cli.triggers.encoder import EncoderStamp
from sau_cli.triggers.generator import GeneratorStamp
from sau_cli.triggers.stamps import (
    AddStamp,
    BlendStamp,
    PatchStamp,
    QuantiseStamp,
    Stamp,
    WanderingStamp,
    WarpStamp,
)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ChainStamp(Stamp):
    """Several stamps, one after another."""

    kind: ClassVar[str] = "chain"
    parts: tuple[Stamp, ...]

    def __call__(self, pixels: Tensor) -> Tensor:
        for part in self.parts:
            pixels = part(pixels)
        return pixels

    def tensors(self) -> dict[str, Tensor]:
        return {f"{at}.{name}": tensor for at, part in enumerate(self.parts) for name, tensor in part.tensors().items()}

    def settings(self) -> dict[str, Any]:
        return {"parts": [{"kind": part.kind, **part.settings()} for part in self.parts]}

    @classmethod
    def from_parts(cls, tensors: Mapping[str, Tensor], settings: Mapping[str, Any]) -> Self:
        parts = []
        for at, about in enumerate(settings["parts"]):
            if about["kind"] == cls.kind:
                raise ValueError("a chain in a chain")
            parts.append(stamp_from_parts(with_prefix(tensors, f"{at}."), about))
        return cls(parts=tuple(parts))


STAMP_KINDS: dict[str, type[Stamp]] = {
    stamp.kind: stamp
    for stamp in (
        PatchStamp,
        BlendStamp,
        AddStamp,
        WarpStamp,
        QuantiseStamp,
        WanderingStamp,
        ChainStamp,
        EncoderStamp,
        GeneratorStamp,
    )
}


def stamp_from_parts(tensors: Mapping[str, Tensor], settings: Mapping[str, Any]) -> Stamp:
    """The stamp of ``settings["kind"]``.

    Raises:
        KeyError, TypeError, ValueError: a part is missing or of another type.
        NotEvaluable: a part makes no sense.
    """
    return STAMP_KINDS[str(settings["kind"])].from_parts(tensors, settings)
