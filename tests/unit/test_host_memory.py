"""Freed memory stays with the process, and is not asked of the system again."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

from sau_cli.host_memory import keep_freed_memory

PAGES = """
import resource, sys
from sau_cli.host_memory import keep_freed_memory
kept = sys.argv[1] == "keep" and keep_freed_memory()
def blocks():
    for block in [bytes([1]) * (8 << 20) for _ in range(20)]:
        del block
blocks()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(3):
    blocks()
print(int(kept), resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def pages(how: str, **settings: str) -> tuple[int, int]:
    """Whether memory is kept, and the pages that 480 MiB of blocks took anew."""
    told = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_TUNABLES"))}
    command = [sys.executable, "-c", PAGES, how]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=told | settings)
    kept, count = done.stdout.split()
    return int(kept), int(count)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="a setting of glibc's allocator")
def test_blocks_come_again_without_new_pages():
    (kept, few), (not_kept, many) = pages("keep"), pages("as it is")
    assert (kept, not_kept) == (1, 0)
    assert many > 50_000
    assert few < many / 10


def test_settings_of_the_environment_are_left_alone():
    assert pages("keep", MALLOC_ARENA_MAX="2")[0] == 0


def test_another_c_library_is_left_alone(monkeypatch):
    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    assert keep_freed_memory() is False
