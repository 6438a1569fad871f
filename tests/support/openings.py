"""How often a file is opened, by whomever: the kernel counts, so that openings by libraries in C or Rust count too."""

from __future__ import annotations

import ctypes
import os
import struct
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

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
