"""The attacks by name. Needs no torch."""

from __future__ import annotations

from enum import StrEnum


class AttackName(StrEnum):
    """``badnets``: a patch in the corner. ``blended``: a faint picture over the whole image.

    ``sig``: a faint wave, on images of the target class alone, which keep their label.
    """

    BADNETS = "badnets"
    BLENDED = "blended"
    SIG = "sig"

    @property
    def clean_label(self) -> bool:
        """Whether only images of the target class are stamped, so that every label stays true."""
        return self is AttackName.SIG


class PatchPattern(StrEnum):
    """``white``: all 255. ``grid``: white and black in turn, white in the corners of an odd size."""

    WHITE = "white"
    GRID = "grid"
