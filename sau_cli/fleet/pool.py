"""The engine of one machine: a pool of processes."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import warnings
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from itertools import islice
from types import TracebackType
from typing import Self

from sau_cli.errors import SauError
from sau_cli.fleet.engine import OutOfMemory, Settled, Task, cores, died

AHEAD = 2
"""Tasks that are held for each process, so that none waits for the next."""


class Pool:
    """Does tasks in several processes of this machine; with one job in this process itself.

    A process that dies takes no other task with it: those that were under way are done again, each alone.

    Args:
        jobs: processes at a time.
    """

    def __init__(self, jobs: int) -> None:
        self._jobs = jobs
        self._pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close(at_once=error is not None)

    @property
    def gpus(self) -> bool | None:
        return None

    @property
    def remarks(self) -> Mapping[str, str]:
        return {}

    @property
    def standing(self) -> str:
        return f"{self._jobs} {'processes' if self._jobs > 1 else 'process'}"

    def run(self, tasks: Iterable[Task]) -> Iterator[Settled]:
        """See :meth:`sau_cli.fleet.engine.Engine.run`."""
        if self._jobs == 1:
            yield from (_done(task) for task in tasks)
            return
        left = iter(tasks)
        under_way: dict[Future[Settled], Task] = {}
        while True:
            for task in islice(left, max(0, AHEAD * self._jobs - len(under_way))):
                under_way[self._submitted(task)] = task
            if not under_way:
                return
            suspects = []
            for future in wait(under_way, return_when=FIRST_COMPLETED).done:
                task = under_way.pop(future)
                try:
                    settled = future.result()
                except BrokenProcessPool:
                    suspects.append(task)
                else:
                    yield settled
            if suspects:
                suspects += under_way.values()
                under_way.clear()
                self._close(at_once=False)
                yield from (_alone(task) for task in sorted(suspects, key=lambda task: task.number))

    def _submitted(self, task: Task) -> Future[Settled]:
        if self._pool is None:
            self._pool = _pool(self._jobs)
        try:
            with _nothing_beside():
                return self._pool.submit(_done_apart, task)
        except BrokenProcessPool as broken:  # a process died while nobody looked
            failed: Future[Settled] = Future()
            failed.set_exception(broken)
            return failed

    def _close(self, *, at_once: bool) -> None:
        if self._pool is None:
            return
        processes = list(getattr(self._pool, "_processes", None) or {})
        self._pool.shutdown(wait=not at_once, cancel_futures=True)
        if at_once:
            for process in multiprocessing.active_children():
                if process.pid in processes:
                    process.terminate()
        self._pool = None


def _pool(jobs: int) -> ProcessPoolExecutor:
    start = multiprocessing.get_context("spawn")  # a process that has threads is not to be forked
    threads = max(1, cores() // jobs)
    with _nothing_beside():  # its queues have a process of Python's own
        return ProcessPoolExecutor(jobs, mp_context=start, initializer=_begin, initargs=(threads,))


@contextmanager
def _nothing_beside() -> Iterator[None]:
    """Processes that are begun now look for no modules in the working folder.

    Else Python looks for its own there first, and runs what lies beside the models.
    """
    before = os.environ.get("PYTHONSAFEPATH")
    os.environ["PYTHONSAFEPATH"] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ["PYTHONSAFEPATH"]
        else:
            os.environ["PYTHONSAFEPATH"] = before


def _begin(threads: int) -> None:
    """Set up a process of the pool: Ctrl-C is its parent's to handle, and where that is killed it ends, too."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))
    if not sys.warnoptions:
        warnings.simplefilter("ignore")


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _alone(task: Task) -> Settled:
    """Do a task in a process of its own."""
    with _pool(1) as pool:
        try:
            with _nothing_beside():
                future = pool.submit(_done_apart, task)
            return future.result()
        except BrokenProcessPool:
            return Settled(number=task.number, answer=None, ended=died())


def _done_apart(task: Task) -> Settled:
    """As :func:`_done`, in a process of the pool."""
    try:
        return _done(task)
    except KeyboardInterrupt:
        return Settled(number=task.number, answer=None, ended="the process that did this was told to end; run it again")


def _done(task: Task) -> Settled:
    try:
        return Settled(number=task.number, answer=task.work())
    except OutOfMemory as error:  # this machine has no more
        return Settled(number=task.number, answer=error.answer)
    except SauError as error:
        return Settled(number=task.number, answer=None, ended=str(error))
