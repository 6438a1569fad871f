"""How often a file is opened, by whomever: the kernel counts, so that openings by libraries in C or Rust count too.

And how often it is hashed, by Python.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import struct
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

_OPENED, _CLOSED = 0x20, 0x10
"""Events of inotify, which keeps one of several alike in a row; between two openings of a file lies a closing."""
_EVENT = struct.Struct("iIII")
"""Watch, mask, cookie, and the length of the name that follows."""


@contextmanager
def counted_openings(*files: Path) -> Iterator[Counter[str]]:
    """How often each of these files is opened inside the block, by its name; filled when the block ends.

    Works on Linux alone.
    """
    kernel = ctypes.CDLL(None, use_errno=True)
    queue = kernel.inotify_init1(os.O_NONBLOCK)
    watched = {kernel.inotify_add_watch(queue, os.fsencode(file), _OPENED | _CLOSED): file.name for file in files}
    found: Counter[str] = Counter({file.name: 0 for file in files})
    try:
        yield found
        events = b""
        with suppress(BlockingIOError):
            while block := os.read(queue, 1 << 16):
                events += block
        at = 0
        while at < len(events):
            watch, mask, _, length = _EVENT.unpack_from(events, at)
            found[watched[watch]] += bool(mask & _OPENED)
            at += _EVENT.size + length
    finally:
        os.close(queue)


def counting_sha256(sizes: Counter[int]) -> type:
    """In place of ``hashlib.sha256``: how often as many bytes were hashed in one go, by their number."""
    sha256 = hashlib.sha256

    class Counted:
        def __init__(self, start: bytes = b"", **_: Any) -> None:
            self.real, self.size = sha256(start), len(start)

        def update(self, block: bytes) -> None:
            self.real.update(block)
            self.size += len(block)

        def hexdigest(self) -> str:
            sizes[self.size] += 1
            return self.real.hexdigest()

        def digest(self) -> bytes:
            sizes[self.size] += 1
            return self.real.digest()

    return Counted
