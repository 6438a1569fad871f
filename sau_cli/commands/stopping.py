"""When long work is to stop before its end: on a signal, or when its time is spent."""

from __future__ import annotations

import re
import signal
import threading
import time
from types import FrameType, TracebackType
from typing import Any, Self

from sau_cli.errors import UsageError

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def parse_duration(text: str) -> float:
    """Seconds of ``90``, ``90s``, ``10m`` or ``1h30m``.

    >>> parse_duration("1h30m")
    5400.0

    Raises:
        UsageError: no such thing, or nothing at all.
    """
    found = re.fullmatch(r"(?:(\d{1,6})h)?(?:(\d{1,8})m)?(?:(\d{1,10}(?:\.\d+)?)s?)?", text.strip())
    hours, minutes, seconds = (float(part or 0) for part in found.groups()) if found else (0.0, 0.0, 0.0)
    total = 3600 * hours + 60 * minutes + seconds
    if total <= 0:
        raise UsageError(f"time budget {text!r} is no length of time; write it like 90s, 10m or 1h30m")
    return total


class Stopping:
    """Inside the block, Ctrl-C and SIGTERM ask the work to stop after its step; a second one ends it at once.

    Attributes:
        interrupted: a signal came.
        spent: the time budget is used up, or would be by one more step.
    """

    def __init__(self, time_budget: float | None) -> None:
        self.interrupted = False
        self.spent = False
        self._started = time.monotonic()
        self._budget = time_budget
        self._last = self._started
        self._longest = 0.0
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._before = {stop_signal: signal.signal(stop_signal, self._asked) for stop_signal in _SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for stop_signal, handler in self._before.items():
            signal.signal(stop_signal, handler)

    def __call__(self) -> bool:
        """Whether to stop now; ask after every step."""
        now = time.monotonic()
        self._longest, self._last = max(self._longest, now - self._last), now
        self.spent = self._budget is not None and now - self._started + self._longest > self._budget
        return self.interrupted or self.spent

    def _asked(self, number: int, frame: FrameType | None) -> None:
        del number, frame
        if self.interrupted:
            raise KeyboardInterrupt
        self.interrupted = True
