"""Work for engines, importable by the processes that do it."""

from __future__ import annotations

import os
import signal
import time
from importlib.util import find_spec
from pathlib import Path

from sau_cli.errors import NotEvaluable
from sau_cli.fleet.engine import OutOfMemory


def says(what: str) -> bytes:
    return what.encode()


def dies() -> bytes:
    os.kill(os.getpid(), signal.SIGKILL)
    return b""


def dies_once(mark: Path) -> bytes:
    """The first time; what was done before is marked."""
    if not mark.exists():
        mark.touch()
        dies()
    return b"lived"


def marks(folder: Path, number: int, seconds: float = 0.0) -> bytes:
    """Count how often each is done."""
    time.sleep(seconds)
    with (folder / str(number)).open("a") as file:
        file.write("x")
    return str(number).encode()


def slow(what: str) -> bytes:
    time.sleep(0.2)
    return what.encode()


def needs_tries(mark: Path, tries: int) -> bytes:
    """Out of memory until the last of them."""
    with mark.open("a") as file:
        file.write("x")
    if len(mark.read_text()) < tries:
        raise OutOfMemory(b"too little")
    return b"enough"


def tells_its_process() -> bytes:
    return str(os.getpid()).encode()


def finds(module: str) -> bytes:
    """Whether a process that does tasks could import it."""
    return b"yes" if find_spec(module) else b"no"


def fails() -> bytes:
    raise NotEvaluable("it cannot be done")


def wants_more() -> bytes:
    raise OutOfMemory(b"too little")
