"""The engine of a cluster: Ray, which places each task where there is room for it."""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from importlib import import_module
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from sau_cli.errors import SauError, UsageError, argument, reason_of
from sau_cli.fleet.engine import Needs, OutOfMemory, Settled, Task, died
from sau_cli.fleet.surroundings import difference, surroundings

TRIES = 3
"""How often a task is begun whose process or machine dies."""
LEAST_HELD, HELD_A_CPU = 64, 4
"""Tasks that wait at a time, so that a cluster that grows with its work has reason to."""
KNOWN_FOR = 2.0
"""Seconds for which what the machines have is believed."""
WAITS = 5.0
"""Seconds without an answer, after which it is looked whether tasks can still be done."""
ANSWERS_WITHIN = 5.0
"""Seconds for an address to be reached."""
_SETTINGS_FRAME = b"\x04"
"""The kind of what a server of gRPC says first, by HTTP/2 (RFC 9113, section 6.5)."""
_SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",  # nothing is told to anybody
    "RAY_raylet_start_wait_time_s": "120",  # a machine that is busy starts it late
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Sent:
    """A task that is with the cluster.

    Attributes:
        begun: how often.
    """

    task: Task
    needs: Needs
    begun: int = 1


class RayCluster:
    """Does each task as one of Ray's, with the memory and the share of a GPU that it needs.

    A task whose process or machine dies is sent again, one that ran out of memory with twice as much. A machine with
    another sau, or with other packages, is given no task once that is known. Ray is started or joined only once there
    is a task.

    Args:
        address: of the cluster, or ``auto``; None starts one on this machine, and ends it.
        jobs: CPUs of a cluster that is started; None for all.

    Attributes:
        remarks: see :class:`sau_cli.fleet.engine.Engine`; by machine, which sau or packages it has.

    Raises:
        UsageError: Ray is not installed, or nobody answers there.
    """

    def __init__(self, address: str | None, *, jobs: int | None = None) -> None:
        os.environ.update(_SETTINGS)
        try:
            import ray
        except ImportError as error:
            raise UsageError(f"{argument('ray')} needs Ray, which is not installed; install sau-cli[fleet]") from error
        self._ray: Any = ray
        self._address, self._jobs = address, jobs
        self.remarks: dict[str, str] = {}
        self._joined = False
        self._known: dict[str, dict[str, float]] = {}
        self._known_until = 0.0
        if address is not None:
            _check_answers(address)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._joined:
            self._ray.shutdown()
            self._joined = False

    @property
    def standing(self) -> str:
        nodes = self._nodes()
        cpus = sum(node.get("CPU", 0) for node in nodes.values())
        return f"{len(nodes)} {'machines' if len(nodes) > 1 else 'machine'}, {cpus:g} CPUs"

    @property
    def gpus(self) -> bool | None:
        """Whether the cluster has any; None of one that is started here."""
        return None if self._address is None else any(node.get("GPU") for node in self._nodes().values())

    def run(self, tasks: Iterable[Task]) -> Iterator[Settled]:
        """See :meth:`sau_cli.fleet.engine.Engine.run`."""
        answered = self._remote()
        left = iter(tasks)
        sent: dict[Any, _Sent] = {}

        def send(sending: _Sent) -> None:
            sent[self._submitted(answered, sending)] = sending

        while True:
            for task in islice(left, max(0, self._window() - len(sent))):
                send(_Sent(task=task, needs=self._possible(task.needs)))
            if not sent:
                return
            ready, _ = self._ray.wait(list(sent), num_returns=1, timeout=WAITS)
            if ready:
                ready, _ = self._ray.wait(list(sent), num_returns=len(sent), timeout=0)
            for reference in [] if ready else self._stuck(sent):
                became = self._placed(self._withdrawn(reference, sent))
                if isinstance(became, _Sent):
                    send(became)
                else:
                    yield became
            for reference in ready:
                sending = sent.pop(reference)
                became = self._became(reference, sending)
                if isinstance(became, _Sent):
                    send(became)
                else:
                    yield became

    def _became(self, reference: Any, sending: _Sent) -> Settled | _Sent:
        """What became of a task; itself again where it is to be sent once more."""
        try:
            kind, told, where = self._ray.get(reference)
        except self._ray.exceptions.RayError as error:
            return self._broken(sending, error)
        if kind == "answer":
            return Settled(number=sending.task.number, answer=told)
        if kind == "memory":
            return self._with_more(sending) or Settled(number=sending.task.number, answer=told)
        if kind == "other":
            self.remarks[where] = told
            return self._placed(sending)
        if kind == "lost" and sending.begun < TRIES:
            return replace(sending, begun=sending.begun + 1)
        return Settled(number=sending.task.number, answer=None, ended=told)

    def _broken(self, sending: _Sent, error: Exception) -> Settled | _Sent:
        """What becomes of a task that came back without an answer."""
        errors, ended = self._ray.exceptions, died(sending.begun)
        if isinstance(error, errors.OutOfMemoryError):
            again, ended = self._with_more(sending), self._no_more(sending)
        elif isinstance(error, errors.RayTaskError):  # of what unpacks the task, before any of our code is asked
            again, ended = None, reason_of(error)
        elif sending.begun < TRIES:  # a process, a machine or its store is gone, perhaps for want of memory
            again = replace(sending, begun=sending.begun + 1, needs=self._doubled(sending))
        else:
            again = None
        return again or Settled(number=sending.task.number, answer=None, ended=ended)

    def _with_more(self, sending: _Sent) -> _Sent | None:
        """The task with twice the memory; None where no machine has more than it had."""
        needs = self._doubled(sending)
        return None if needs == sending.needs else replace(sending, needs=needs, begun=sending.begun + 1)

    def _doubled(self, sending: _Sent) -> Needs:
        gpus = min(1.0, 2 * sending.needs.gpus)
        return self._possible(replace(sending.needs, memory=2 * sending.needs.memory, gpus=gpus))

    def _no_more(self, sending: _Sent) -> str:
        had = sending.needs.memory / (1 << 30)
        return f"it ran out of memory, and no machine of the cluster has more than the {had:.1f} GiB that it was given"

    def _placed(self, sending: _Sent) -> Settled | _Sent:
        """The task for the machines that are left, if one of them is fit."""
        if self._fit():
            return replace(sending, needs=self._possible(sending.needs))
        return Settled(number=sending.task.number, answer=None, ended=next(iter(self.remarks.values())))

    def _stuck(self, sent: Mapping[Any, _Sent]) -> list[Any]:
        """Tasks that would wait for ever: the machines that had room for them are gone."""
        nodes = self._fit()
        if not nodes and not self.remarks:
            return []  # there may be some soon, in a cluster that grows
        return [
            reference
            for reference, sending in sent.items()
            if not nodes or self._possible(sending.needs) != sending.needs
        ]

    def _withdrawn(self, reference: Any, sent: dict[Any, _Sent]) -> _Sent:
        with suppress(self._ray.exceptions.RayError):
            self._ray.cancel(reference)
        return sent.pop(reference)

    def _submitted(self, answered: Any, sending: _Sent) -> Any:
        options: dict[str, Any] = {"num_cpus": sending.needs.cpus, "memory": sending.needs.memory, "max_retries": 0}
        if sending.needs.gpus:
            # More than one call, or else its process is begun anew for each task.
            options |= {"num_gpus": sending.needs.gpus, "max_calls": 100}
        if self.remarks:
            options["label_selector"] = {"ray.io/node-id": f"!in({','.join(sorted(self.remarks))})"}
        work = self._ray.cloudpickle.dumps(sending.task.work)
        return answered.options(**options).remote(work, surroundings())

    def _possible(self, needs: Needs) -> Needs:
        """No more than the largest machine has: what asks for more would wait for ever."""
        nodes = self._fit()
        most = {name: max((node.get(name, 0.0) for node in nodes), default=0.0) for name in ("CPU", "memory")}
        return replace(
            needs,
            cpus=min(needs.cpus, most["CPU"]) if most["CPU"] else needs.cpus,
            memory=min(needs.memory, int(most["memory"])) if most["memory"] else needs.memory,
        )

    def _window(self) -> int:
        return max(LEAST_HELD, HELD_A_CPU * int(sum(node.get("CPU", 0) for node in self._nodes().values())))

    def _fit(self) -> list[dict[str, float]]:
        """What each machine has that may do tasks."""
        return [node for name, node in self._nodes().items() if node.get("CPU") and name not in self.remarks]

    def _nodes(self) -> dict[str, dict[str, float]]:
        """What each machine has, by its name for Ray; asked for anew now and then."""
        self._join()
        now = time.monotonic()
        if now > self._known_until:
            self._known = {node["NodeID"]: node["Resources"] for node in self._ray.nodes() if node["Alive"]}
            self._known_until = now + KNOWN_FOR
        return self._known

    def _join(self) -> None:
        if self._joined:
            return
        given: dict[str, Any] = {"address": self._address or "local"}
        if self._address not in {None, "auto"}:
            self._check_admitted()
        if self._address is None:
            given |= {"include_dashboard": False, "num_cpus": self._jobs}
        if not {"", str(Path.cwd())}.intersection(sys.path):
            # Else workers look for modules in the working folder, and run what lies there beside the models.
            given["job_config"] = self._ray.job_config.JobConfig(_client_job=True)
        try:
            from ray._private import worker

            # Whatever dies is said by us; Ray's own paragraph on it, in colour, would go wherever print does.
            worker._worker_logs_enabled = False  # noqa: SLF001 (there is no other way)
            with _own_handlers():
                self._ray.init(**given, log_to_driver=False, logging_level=logging.ERROR)
        except Exception as error:  # it raises the root of all where it starts too slowly
            where = "on this machine" if self._address is None else f"at {self._address}"
            raise UsageError(f"Ray {where} cannot be used ({reason_of(error)}); look at ray status there") from error
        self._joined = True

    def _check_admitted(self) -> None:
        """Raises UsageError where the cluster asks for a token: Ray would try for long, and only say that it failed."""
        raylet: Any = import_module("ray._raylet")
        try:
            raylet.GcsClient(address=self._address)
        except self._ray.exceptions.RayError as error:
            if type(error).__name__ == "AuthenticationError":
                advice = "set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN_PATH to the file that holds it"
                raise UsageError(f"the Ray at {self._address} asks for its token; {advice}") from error

    def _remote(self) -> Any:
        """What Ray runs for each task: it goes with the task, so that it is there whatever sau is."""
        self._join()

        def answered(work: bytes, ours: dict[str, str | None]) -> tuple[str, bytes | str, str]:
            import socket

            import ray.cloudpickle

            where = ray.get_runtime_context().get_node_id()
            host = socket.gethostname()
            try:
                from sau_cli.fleet.ray_cluster import answer_here
            except ImportError as error:
                why = f"{host} has no such sau as is here ({error}) and gets no tasks; install the same"
                return "other", why, where
            return *answer_here(work, ours, host, ray.cloudpickle.loads), where

        return self._ray.remote(enable_task_events=False)(answered)  # which nobody reads, and the driver would hold


@contextmanager
def _own_handlers() -> Iterator[None]:
    """Ray takes the signals that end a process; afterwards they are as they were."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def answer_here(
    work: bytes, ours: dict[str, str | None], host: str, unpack: Callable[[bytes], Callable[[], bytes]]
) -> tuple[str, bytes | str]:
    """Do a task in a process of the cluster: how that went, and the answer or a sentence.

    Args:
        ours: the surroundings of who asks.
    """
    if other := difference(ours):
        return "other", f"{host} has another sau or other packages ({other}) and gets no tasks; install the same"
    try:
        return "answer", unpack(work)()
    except OutOfMemory as error:
        return "memory", error.answer
    except KeyboardInterrupt:
        return "lost", f"the process that did this on {host} was told to end"
    except SauError as error:
        return "failed", str(error)


def _check_answers(address: str) -> None:
    """Raises UsageError where nobody answers, or what does is no Ray: to join that would take minutes."""
    if address == "auto":
        return
    if address.startswith("ray://"):
        raise UsageError(
            f"{address} is for Ray's client; run this on a machine of the cluster, with {argument('ray')}=auto"
        )
    host, _, port = address.rpartition(":")
    advice = f"give the address that ray start told, or {argument('ray')} alone"
    try:
        connection = socket.create_connection((host.strip("[]"), int(port)), timeout=ANSWERS_WITHIN)
    except (OSError, OverflowError, ValueError) as error:
        raise UsageError(f"nobody answers at {address} ({reason_of(error)}); {advice}") from error
    first = b""
    with connection, suppress(OSError):
        first = connection.recv(9)
    if first[3:4] != _SETTINGS_FRAME:
        raise UsageError(f"what answers at {address} is no Ray; {advice}")
