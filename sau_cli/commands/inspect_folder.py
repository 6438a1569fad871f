"""``sau inspect FOLDER``, or of several models: each, several at a time, whatever becomes of one of them."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import redirect_stdout, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Group
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.text import Text

from sau_adapters.zoos.addresses import name_of
from sau_cli.commands.findings import Findings
from sau_cli.commands.options import OutputOptions
from sau_cli.commands.session import Session
from sau_cli.errors import ExitCode, NotEvaluable
from sau_cli.reporting.terminal import VERDICT_STYLES, printable, table
from sau_cli.results import Check, CheckStatus, Report, Verdict, counted, first_finding

if TYPE_CHECKING:
    from sau_adapters.zoos.search import FoundModels, PassedBy

Inspect = Callable[[Session, Path], None]
"""What is done with one model: its checks and its verdict go into the session."""

WORST_FIRST = (
    ExitCode.UNSAFE,
    ExitCode.LIMIT_FAILED,
    ExitCode.VERIFICATION_FAILED,
    ExitCode.INTERNAL,
    ExitCode.NOT_EVALUATED,
    ExitCode.USAGE,
    ExitCode.INCONCLUSIVE,
    ExitCode.INTERRUPTED,
    ExitCode.PASSED,
)
"""What was found comes before what could not be looked at, so that no error hides a finding."""
SHOWN_FINDING, SHOWN_PASSED_BY = 160, 10
_STATUSES = {Verdict.PASSED: CheckStatus.PASSED, Verdict.MEASURED: CheckStatus.MEASURED}


@dataclass(frozen=True, slots=True, kw_only=True)
class Settled:
    """One model and what became of it."""

    path: Path
    report: Report


def inspect_folder(
    session: Session, folder: Path | None, found: FoundModels, inspect: Inspect, *, jobs: int | None
) -> None:
    """Inspect every model that was found; each gets a report of its own within the session's.

    Args:
        folder: that the models lie under, and are named in; None where they were given one by one.
        inspect: can be sent to another process.
        jobs: processes; None for one a core.
    """
    count = min(jobs or cores(), len(found.models))
    session.findings.tell(folder=None if folder is None else name_of(folder), skipped=_listed(found.passed_by))
    settled: list[Settled] = []
    try:
        with _FolderView(session, folder, len(found.models)) as view:
            for model in _inspected(found.models, inspect, jobs=count, verbose=session.verbose):
                settled.append(model)
                view.add(model)
    finally:
        settled.sort(key=lambda model: model.path)
        _conclude(session.findings, found, settled, folder)
    session.show(folder_table(settled, folder))
    for line in _passed_by_lines(found, folder):
        session.show(line)


def _conclude(findings: Findings, found: FoundModels, settled: Sequence[Settled], folder: Path | None) -> None:
    """One check a model, and one for each that was not reached or not understood."""
    reports = [model.report for model in settled]
    reached = {model.path for model in settled}
    findings.hold(reports)
    findings.add(
        *(_check(model, folder) for model in settled),
        *(_skipped(_name(path, folder), "the run ended before it") for path in found.models if path not in reached),
        *(_skipped(_name(question.path, folder), question.reason) for question in found.open_questions),
    )
    findings.judge(*worst(reports))


def cores() -> int:
    """That this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def worst(reports: Sequence[Report]) -> tuple[Verdict, ExitCode]:
    """The verdict and the exit code of the model that fared worst; passed only if every one did."""
    if not reports:
        return Verdict.NOT_EVALUATED, ExitCode.NOT_EVALUATED
    code = min((report.exit_code for report in reports), key=WORST_FIRST.index)
    verdicts = [report.verdict for report in reports if report.exit_code is code]
    return next((verdict for verdict in verdicts if verdict is not Verdict.PASSED), Verdict.PASSED), code


def folder_table(settled: Sequence[Settled], folder: Path | None) -> Group:
    """One row a model, and one line on how they fared together."""
    rows = [
        (
            _name(model.path, folder),
            _format(model.report),
            Text(model.report.verdict.value, style=VERDICT_STYLES.get(model.report.verdict, "")),
            str(int(model.report.exit_code)),
            _shortened(first_finding(model.report).removeprefix(f"{model.path} ")),
        )
        for model in settled
    ]
    told = counted([model.report for model in settled])
    title = f"{len(settled)} models{f' under {name_of(folder)}' if folder else ''}: {told}"
    return table(title, ("model", "format", "verdict", "exit", "first finding"), rows)


def _check(model: Settled, folder: Path | None) -> Check:
    """A model in the report of its folder."""
    report = model.report
    held = CheckStatus.FAILED if report.verdict in {Verdict.FAILED, Verdict.UNSAFE} else CheckStatus.INCONCLUSIVE
    return Check(
        id=f"model.{_name(model.path, folder)}",
        status=_STATUSES.get(report.verdict, held),
        value=report.verdict.value,
        evidence=first_finding(report) or "nothing was found in what was examined",
    )


def _skipped(name: str, reason: str) -> Check:
    return Check(id=f"skipped.{name}", status=CheckStatus.SKIPPED, evidence=reason)


def _inspected(models: Sequence[Path], inspect: Inspect, *, jobs: int, verbose: bool) -> Iterator[Settled]:
    """Each model as it is done. A process that dies takes no other model with it."""
    if jobs == 1:
        for path in models:
            yield Settled(path=path, report=_report(inspect, path, verbose))
        return
    left = list(models)
    for model in _in_processes(models, inspect, jobs=jobs, verbose=verbose):
        left.remove(model.path)
        yield model
    for path in left:  # one of them ended its process, and the others were waiting
        died = Settled(path=path, report=_died(path))
        yield next(_in_processes([path], inspect, jobs=1, verbose=verbose), died)


def _in_processes(models: Sequence[Path], inspect: Inspect, *, jobs: int, verbose: bool) -> Iterator[Settled]:
    """Each model as it is done; those that a dying process leaves behind are left out."""
    threads = max(1, cores() // jobs)
    start = multiprocessing.get_context("spawn")  # a process that has threads is not to be forked
    with ProcessPoolExecutor(jobs, mp_context=start, initializer=_begin, initargs=(threads,)) as pool:
        futures: dict[Future[Report], Path] = {}
        try:
            futures = {pool.submit(_report, inspect, path, verbose): path for path in models}
            for done in as_completed(futures):
                yield Settled(path=futures[done], report=done.result())
        except BrokenProcessPool:
            return
        except (KeyboardInterrupt, GeneratorExit):
            pool.shutdown(wait=False, cancel_futures=True)
            for process in multiprocessing.active_children():
                process.terminate()
            raise


def _begin(threads: int) -> None:
    """Set up a process of the pool: Ctrl-C is its parent's to handle."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))
    if not sys.warnoptions:
        warnings.simplefilter("ignore")


def _report(inspect: Inspect, path: Path, verbose: bool) -> Report:
    """Inspect one model, and say in its report whatever ended that."""
    session = Session("inspect", OutputOptions(quiet=True, verbose=verbose))
    ended: BaseException | None = None
    with redirect_stdout(sys.stderr):
        try:
            inspect(session, path)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # noqa: BLE001 (whatever it is, the other models are still to be inspected)
            ended = error
    return _with_input(session, path).report(ended, machine=False)


def _with_input(session: Session, path: Path) -> Session:
    """A session whose report names its file, also where the file could not be read as a model."""
    with suppress(OSError):  # it may be gone by now
        if not session.findings.inputs:
            session.took(path)
    return session


def _died(path: Path) -> Report:
    session = Session("inspect", OutputOptions(quiet=True))
    sentence = f"the process that inspected {path} was ended, perhaps for want of memory; inspect it alone"
    return _with_input(session, path).report(NotEvaluable(sentence), machine=False)


def _name(path: Path, folder: Path | None) -> str:
    return name_of(path) if folder is None else path.relative_to(folder).as_posix()


def _format(report: Report) -> str:
    file = report.details.get("file")
    return str(file["format"]) if file else "-"


def _shortened(text: str) -> str:
    return text if len(text) <= SHOWN_FINDING else f"{text[:SHOWN_FINDING]}..."


def _listed(passed_by: Sequence[PassedBy]) -> list[dict[str, str]]:
    return [{"path": str(file.path), "reason": file.reason} for file in passed_by]


def _passed_by_lines(found: FoundModels, folder: Path | None) -> Iterator[str]:
    """What was not examined: what may hold a model by name, the rest by number."""
    open_questions = found.open_questions
    for question in open_questions[:SHOWN_PASSED_BY]:
        yield f"skipped, not examined: {_name(question.path, folder)} ({question.reason})"
    if open_questions[SHOWN_PASSED_BY:]:
        yield f"skipped, not examined: {len(open_questions) - SHOWN_PASSED_BY} more, which --json lists"
    others = len(found.passed_by) - len(open_questions)
    if others:
        yield f"{others} other {'files are' if others > 1 else 'file is'} no model or a part of one; --json lists them"


class _FolderView:
    """Shows how many models are done: a bar on a terminal, a line for each elsewhere."""

    def __init__(self, session: Session, folder: Path | None, total: int) -> None:
        self._session, self._folder, self._total, self._done = session, folder, total, 0
        self._progress = Progress(
            TextColumn("inspecting"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TextColumn("{task.description}", markup=False),
            console=session.console,
            transient=True,
            disable=session.quiet or not session.console.is_terminal,
        )
        self._task = self._progress.add_task("", total=total)

    def __enter__(self) -> _FolderView:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def add(self, model: Settled) -> None:
        """Say that a model is done."""
        self._done += 1
        name = _name(model.path, self._folder).replace("\n", "?")
        self._progress.update(self._task, advance=1, description=printable(name)[-30:])
        if not self._session.console.is_terminal:
            self._session.show(f"{self._done}/{self._total} {name}: {model.report.verdict.value}")
