"""What becomes of memory that is freed."""

from __future__ import annotations

import ctypes
import os
import platform

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3
"""``M_TRIM_THRESHOLD`` and ``M_MMAP_THRESHOLD`` of glibc's ``malloc.h``."""
NEVER, LARGEST_IN_THE_HEAP = 2**31 - 1, 32 << 20
"""Bytes: the largest values that glibc takes for the two."""


def keep_freed_memory() -> bool:
    """Let freed blocks of up to 32 MiB stay with the process, for the next tensors of their size.

    What glibc gives back to the system comes again page by page and filled with zeros, by one thread however many
    there are; ``tests/benchmarks/README.md`` has what that costs.

    Returns:
        Whether it is so from now on: not with another C library, nor where the environment has settings for the
        allocator already (``MALLOC_*``, ``GLIBC_TUNABLES``).
    """
    told = any(name.startswith("MALLOC_") or name == "GLIBC_TUNABLES" for name in os.environ)
    if told or platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return bool(mallopt(MMAP_THRESHOLD, LARGEST_IN_THE_HEAP) and mallopt(TRIM_THRESHOLD, NEVER))
