"""Progress of long work: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Protocol, Self

from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from sau_cli.commands.session import Session

SECONDS_BETWEEN_LINES = 10.0
LARGE_FILE = 200_000_000
"""Bytes of a file that takes a second or more to read."""


class InEpochs(Protocol):
    """How far learning is: ``batch`` of ``batches`` in ``epoch`` of ``epochs``, all from 1."""

    @property
    def epoch(self) -> int: ...
    @property
    def epochs(self) -> int: ...
    @property
    def batch(self) -> int: ...
    @property
    def batches(self) -> int: ...


class ProgressView:
    """Shows how far the work is, what it measures, and the time left.

    Args:
        rounds: what the work goes through several times, for people; nothing of work done once.
    """

    def __init__(self, session: Session, title: str, *, rounds: str = "epoch") -> None:
        self._session = session
        self._title = title
        self._rounds = rounds
        self._started = time.monotonic()
        self._last_line = self._started
        self._seen = self._started
        self._first: tuple[float, int] | None = None  # when the first of the work was done, and how much that was
        self._done = 0
        self._progress: Progress | None = None
        self._task: TaskID | None = None
        if session.console.is_terminal and not session.quiet:
            self._progress = Progress(
                TextColumn("{task.description}"),
                BarColumn(bar_width=None),
                TextColumn("{task.fields[measures]}"),
                TimeRemainingColumn(compact=True, elapsed_when_finished=True),
                console=session.console,
                expand=True,
            )

    def __enter__(self) -> Self:
        if self._progress:
            self._progress.start()
            self._task = self._progress.add_task(self._title, total=None, measures="")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._progress:
            self._progress.stop()

    def show(self, at: InEpochs, *, measures: str) -> None:
        """As :meth:`update`, of learning."""
        self.update(epoch=at.epoch, epochs=at.epochs, batch=at.batch, batches=at.batches, measures=measures)

    def update(self, *, epoch: int, epochs: int, batch: int, batches: int, measures: str) -> None:
        """Say where the work stands; ``measures`` is short text such as ``loss 0.12``."""
        done, total = (epoch - 1) * batches + batch, epochs * batches
        if self._progress and self._task is not None:
            self._progress.update(
                self._task,
                description=f"{self._title} {epoch}/{epochs}" if self._rounds else self._title,
                completed=done,
                total=total,
                measures=measures,
            )
            return
        now = time.monotonic()
        if self._first is None or done < self._done:  # the work has begun anew, such as another round
            self._first = now, done
        elif done == self._done:  # a search between two steps tells nothing of how long steps take
            self._first = self._first[0] + now - self._seen, self._first[1]
        self._done, self._seen = done, now
        began, before = self._first
        if done < total and now - self._last_line < SECONDS_BETWEEN_LINES:
            return
        self._last_line = now
        place = f" {self._rounds} {epoch}/{epochs}" if self._rounds else ""
        text = f"{self._title}{place}  {measures}  {now - self._started:.0f} s"
        if done > before:
            text += f", {(now - began) / (done - before) * (total - done):.0f} s left"
        self._session.show(text)


class ReadingView:
    """Shows on a terminal how much of a large file is read; gone when it is done."""

    def __init__(self, session: Session, what: str = "reading") -> None:
        self._progress = Progress(
            TextColumn(what),
            BarColumn(bar_width=None),
            DownloadColumn(),
            TimeRemainingColumn(compact=True),
            console=session.console,
            transient=True,
            disable=session.quiet or not session.console.is_terminal,
        )
        self._task: TaskID | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def update(self, done: int, total: int) -> None:
        """Say how many bytes of how many are read; nothing is shown of a file that takes no time."""
        if total < LARGE_FILE:
            return
        if self._task is None:
            self._progress.start()
            self._task = self._progress.add_task("", total=total)
        self._progress.update(self._task, completed=done)
