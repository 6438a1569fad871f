"""Work for engines, importable by the processes that do it."""

from __future__ import annotations

import os
import signal
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


def marks(folder: Path, number: int) -> bytes:
    """Count how often each is done."""
    with (folder / str(number)).open("a") as file:
        file.write("x")
    return str(number).encode()


def fails() -> bytes:
    raise NotEvaluable("it cannot be done")


def wants_more() -> bytes:
    raise OutOfMemory(b"too little")
