"""The attacks by name. Needs no torch."""

from __future__ import annotations

from enum import StrEnum


class AttackName(StrEnum):
    """``badnets``: a patch in the corner. ``blended``: a faint picture over the whole image."""

    BADNETS = "badnets"
    BLENDED = "blended"


class PatchPattern(StrEnum):
    """``white``: all 255. ``grid``: white and black in turn, white in the corners of an odd size."""

    WHITE = "white"
    GRID = "grid"
