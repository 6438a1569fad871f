"""Reports in a temporary file, so that however many there are, few are in memory."""

from __future__ import annotations

import json
import tempfile
import zlib
from array import array
from collections.abc import Iterator, Sequence
from typing import Self, overload

from sau_cli.reporting.json_document import plain, report_of
from sau_cli.results import Report


class ReportSpool(Sequence[Report]):
    """The reports on several models, each in its place; those that are there are read when they are looked at.

    The file has no name, and goes when the context is left, or with the process.

    Args:
        places: how many there may be.
    """

    def __init__(self, places: int) -> None:
        self._file = tempfile.TemporaryFile(prefix="sau-reports-")  # noqa: SIM115 (open as long as this is)
        self._starts = array("q", [-1]) * places
        self._lengths = array("q", [0]) * places

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def put(self, place: int, report: Report) -> None:
        """Put a report in its place."""
        packed = zlib.compress(json.dumps(plain(report), allow_nan=False).encode(), 1)
        self._starts[place] = self._file.seek(0, 2)
        self._lengths[place] = self._file.write(packed)

    def __len__(self) -> int:
        return sum(start >= 0 for start in self._starts)

    @overload
    def __getitem__(self, number: int) -> Report: ...
    @overload
    def __getitem__(self, number: slice) -> Sequence[Report]: ...
    def __getitem__(self, number: int | slice) -> Report | Sequence[Report]:
        """Of those that are there, the one with this number, in the order of their places."""
        held = [place for place, start in enumerate(self._starts) if start >= 0]
        if isinstance(number, slice):
            return [self._read(place) for place in held[number]]
        return self._read(held[number])

    def __iter__(self) -> Iterator[Report]:  # without counting anew each time
        return (self._read(place) for place, start in enumerate(self._starts) if start >= 0)

    def _read(self, place: int) -> Report:
        self._file.seek(self._starts[place])
        return report_of(json.loads(zlib.decompress(self._file.read(self._lengths[place]))), trusted=True)
