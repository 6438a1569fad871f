"""What an engine is: it takes tasks, and says of each what became of it, whatever becomes of the others."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, Self

GIB = 1 << 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Needs:
    """What a task asks for while it runs.

    Attributes:
        memory: bytes.
        gpus: a fraction where several tasks share one.
    """

    cpus: float = 1.0
    memory: int = GIB
    gpus: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Task:
    """A piece of work that other processes can do: it can be pickled, and so can what it needs.

    Attributes:
        number: its own, among those of one run.
        work: returns its answer. A :class:`~sau_cli.errors.SauError` that it raises ends this task alone.
    """

    number: int
    work: Callable[[], bytes]
    needs: Needs = Needs()


@dataclass(frozen=True, slots=True, kw_only=True)
class Settled:
    """What became of a task.

    Attributes:
        number: of the task.
        answer: None where there is none.
        ended: why not, as a sentence without its stop.
    """

    number: int
    answer: bytes | None
    ended: str = ""


class OutOfMemory(Exception):
    """Work was ended for want of memory; with more of it the answer may be another.

    Attributes:
        answer: what there is to say if there is no more.
    """

    def __init__(self, answer: bytes) -> None:
        super().__init__(answer)
        self.answer = answer


class Engine(Protocol):
    """Does tasks. Inside its context it may hold processes; outside it has none.

    A task is asked for only when it can soon be begun, so that however many there are, few are held at a time.
    """

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def run(self, tasks: Iterable[Task]) -> Iterator[Settled]:
        """Do them, and say of each, once, what became of it, in the order in which they are done."""
        ...

    @property
    def gpus(self) -> bool | None:
        """Whether there is a GPU where the work is done; None where that is this machine."""

    @property
    def remarks(self) -> Mapping[str, str]:
        """Sentences on machines that were found unfit, by their names; none where there is only this one."""
        ...

    @property
    def standing(self) -> str:
        """How many do the work, for people, such as ``2 processes``."""
        ...


def cores() -> int:
    """That this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def died(times: int = 1) -> str:
    """What is said of a task whose process was ended."""
    often = "" if times == 1 else f" {times} times"
    return f"the process that did this was ended{often}, perhaps for want of memory; run it alone"
