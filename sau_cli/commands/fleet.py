"""One command on many models: each a task of an engine, whatever becomes of the others; the worst counts."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from rich.console import Group
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from sau_adapters.zoos.addresses import name_of
from sau_cli.commands.fleet_options import FleetOptions, engine_of, needs_of
from sau_cli.commands.fleet_work import Answer, CommandWork, ended_report, unpacked
from sau_cli.commands.project_defaults import ProjectDefaults
from sau_cli.commands.session import Session, check_report
from sau_cli.errors import ExitCode, NotEvaluable, SauError, UsageError
from sau_cli.fleet.engine import Engine, Settled, Task
from sau_cli.reporting.formats import format_of, rendered_parts
from sau_cli.reporting.terminal import VERDICT_STYLES, printable, table
from sau_cli.results import STATUS_OF_VERDICT, Check, CheckStatus, InputFile, Report, Verdict, first_finding

if TYPE_CHECKING:
    from sau_adapters.report_spool import ReportSpool
    from sau_adapters.verdict_cache import VerdictCache

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
SHOWN_FINDING, SHOWN_ROWS = 160, 5_000
MOST_CONTEXTS = 1_000
"""Kinds of jobs whose digests are remembered."""
_GPUS = ("/dev/nvidiactl", "/dev/nvidia0", "/dev/dxg", "/dev/kfd")
"""Where Linux has the drivers of GPUs."""
_DOING = {"inspect": "inspecting", "purify": "purifying", "evaluate": "evaluating"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What is to be done with one model.

    Attributes:
        name: in tables and checks.
        words: the options of the command.
        out: of what is written, in tables; None where nothing is.
    """

    name: str
    model: Path
    words: tuple[str, ...]
    out: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Assignment:
    """What is to be done, and how.

    Attributes:
        jobs: in the order in which they are reported.
        defaults: of the working folder.
        device: as ``--device`` takes it.
        folder: that the models lie under; None where they were given one by one.
        second: what the second column of the table is: of an inspection the format, else what is written.
        once: options that change nothing of what comes out.
    """

    command: str
    jobs: Sequence[Job]
    fleet: FleetOptions
    defaults: ProjectDefaults
    device: str
    folder: Path | None = None
    second: str = "format"
    once: tuple[str, ...] = ()


class Row(NamedTuple):
    """What the table has of a model, and what is kept of it in memory."""

    verdict: Verdict
    code: ExitCode
    second: str
    finding: str


def run_fleet(session: Session, asked: Assignment, *, skipped: Sequence[Check] = ()) -> None:
    """Do the command on every model; each gets a report of its own within the session's.

    Args:
        skipped: a check for each thing that is not looked at.

    Raises:
        UsageError: the engine or the cache cannot be had.
    """
    from sau_adapters.report_spool import ReportSpool

    kept = _cache(asked.fleet)
    engine = engine_of(asked.fleet, most=len(asked.jobs))
    held = _Held(asked, session.until_reported(ReportSpool(len(asked.jobs))))
    try:
        with engine, _FleetView(session, asked, engine) as view:
            for number, report in _settled(session, asked, engine, kept, held):
                row = held.put(number, report)
                _write_out(session, asked, number, report)
                view.add(asked.jobs[number], row)
    finally:
        for name, sentence in engine.remarks.items():
            session.note(f"machine.{name[:12]}", sentence)
        held.conclude(session, skipped)
    session.show(held.table())
    if held.known:
        of = "all" if held.known == len(asked.jobs) else f"{held.known:,} of {len(asked.jobs):,}"
        session.show(
            f"{of} verdicts were known, as nothing of what they come from has changed; --no-cache does all anew"
        )


def _taken(asked: Assignment, job: Job) -> UsageError | None:
    """Why the report of an evaluation cannot go where its row says; a purification sees to that itself."""
    if asked.command != "evaluate" or job.out is None:
        return None
    try:
        check_report(job.out, force="--force" in asked.once, place="out")
    except UsageError as error:
        return error
    return None


def _write_out(session: Session, asked: Assignment, number: int, report: Report) -> None:
    """Write the report of an evaluation where its row says; one that cannot be is a check of its own."""
    job = asked.jobs[number]
    if _taken(asked, job) is not None or asked.command != "evaluate" or job.out is None:
        return  # which is said already, or the same report lies there
    from sau_adapters.files import write_parts_whole

    try:
        write_parts_whole(job.out, rendered_parts(report, format_of(job.out)))
    except UsageError as error:
        session.findings.add(Check(id=f"report.{job.name}", status=CheckStatus.INCONCLUSIVE, evidence=str(error)))


def _cache(fleet: FleetOptions) -> VerdictCache | None:
    if fleet.no_cache:
        return None
    from sau_adapters.caches import cache_folder
    from sau_adapters.verdict_cache import VerdictCache, cache_limit

    cache_limit()  # what makes no sense is said before the work
    return VerdictCache(cache_folder())


class _Held:
    """What is known of each model so far: reports in a file, and a row each in memory."""

    def __init__(self, asked: Assignment, reports: ReportSpool) -> None:
        self._asked, self._reports = asked, reports
        self._rows: dict[int, Row] = {}
        self._inputs: dict[int, tuple[InputFile, ...]] = {}
        self.known = 0

    def put(self, number: int, report: Report) -> Row:
        """Take the report on a model."""
        self._reports.put(number, report)
        self._inputs[number] = report.inputs
        row = Row(report.verdict, report.exit_code, self._second(number, report), first_finding(report))
        self._rows[number] = row
        return row

    def _second(self, number: int, report: Report) -> str:
        if self._asked.second == "format":
            file = report.details.get("file")
            return str(file["format"]) if file else "-"
        out = self._asked.jobs[number].out
        return str(out or next((file.path for file in report.outputs.values()), "-"))

    def conclude(self, session: Session, skipped: Sequence[Check]) -> None:
        """One check a model, and one for each that was not reached or not understood."""
        findings, jobs = session.findings, self._asked.jobs
        findings.hold(self._reports, [file for number in sorted(self._rows) for file in self._inputs[number]])
        findings.add(
            *(self._check(number) for number in sorted(self._rows)),
            *(
                skipped_check(job.name, "the run ended before it")
                for number, job in enumerate(jobs)
                if number not in self._rows
            ),
            *skipped,
        )
        findings.tell(folder=None if self._asked.folder is None else name_of(self._asked.folder), from_cache=self.known)
        unwritten = [(Verdict.ERROR, ExitCode.USAGE)] * any(check.id.startswith("report.") for check in findings.checks)
        findings.judge(*worst([*((row.verdict, row.code) for row in self._rows.values()), *unwritten]))

    def _check(self, number: int) -> Check:
        row = self._rows[number]
        held = CheckStatus.FAILED if row.verdict in {Verdict.FAILED, Verdict.UNSAFE} else CheckStatus.INCONCLUSIVE
        return Check(
            id=f"model.{self._asked.jobs[number].name}",
            status=STATUS_OF_VERDICT.get(row.verdict, held),
            value=row.verdict.value,
            evidence=row.finding or "nothing was found in what was examined",
        )

    def table(self) -> Group:
        """One row a model, and one line on how they fared together; of very many, those that did not pass."""
        counts = Counter(row.verdict for row in self._rows.values())
        told = ", ".join(f"{counts[verdict]} {verdict.value}" for verdict in Verdict if counts[verdict])
        under = f" under {name_of(self._asked.folder)}" if self._asked.folder else ""
        numbers = sorted(self._rows)
        if len(numbers) > SHOWN_ROWS:
            numbers = [number for number in numbers if self._rows[number].code][:SHOWN_ROWS]
            under += f", of which {len(numbers):,} that did not pass are shown"
        title = f"{len(self._rows)} models{under}: {told}"
        heads = ("model", self._asked.second, "verdict", "exit", "first finding")
        return table(title, heads, [self._shown(number) for number in numbers])

    def _shown(self, number: int) -> tuple[str | Text, ...]:
        job, row = self._asked.jobs[number], self._rows[number]
        verdict = Text(row.verdict.value, style=VERDICT_STYLES.get(row.verdict, ""))
        finding = row.finding.removeprefix(f"{name_of(job.model)} ")
        return job.name, row.second, verdict, str(int(row.code)), _shortened(finding)


def worst(found: Iterable[tuple[Verdict, ExitCode]]) -> tuple[Verdict, ExitCode]:
    """The verdict and the exit code of the model that fared worst; passed only if every one did."""
    kinds = list(dict.fromkeys(found))
    if not kinds:
        return Verdict.NOT_EVALUATED, ExitCode.NOT_EVALUATED
    code = min((code for _, code in kinds), key=WORST_FIRST.index)
    verdicts = [verdict for verdict, own in kinds if own is code]
    return next((verdict for verdict in verdicts if verdict is not Verdict.PASSED), Verdict.PASSED), code


def skipped_check(name: str, reason: str) -> Check:
    """What was not looked at, in the report of many."""
    return Check(id=f"skipped.{name}", status=CheckStatus.SKIPPED, evidence=reason)


def _shortened(text: str) -> str:
    return text if len(text) <= SHOWN_FINDING else f"{text[:SHOWN_FINDING]}..."


def _settled(
    session: Session, asked: Assignment, engine: Engine, kept: VerdictCache | None, held: _Held
) -> Iterator[tuple[int, Report]]:
    """Each model's report as it is there: first those that were known."""
    left = list(range(len(asked.jobs)))
    contexts = _Contexts(asked, kept, _device_here(asked.device))
    try:
        yield from _known(asked, kept, contexts, held, left)
        if not left:
            return
        device = _device_there(asked.device, engine) or contexts.device
        if device != contexts.device:
            contexts = _Contexts(asked, kept, device)
            yield from _known(asked, kept, contexts, held, left)
        for settled in engine.run(_tasks(session, asked, kept, contexts, left)):
            job = asked.jobs[settled.number]
            answer = _answer(asked.command, job, settled)
            held.known += answer.known
            if kept is not None:
                kept.spoiled += map(Path, answer.spoiled)
                if answer.seen is not None:
                    kept.keep(job.model, contexts.of(job), answer.seen, answer.report)
            yield settled.number, answer.report
    finally:
        if kept is not None:
            _close(session, kept, contexts)


def _known(
    asked: Assignment, kept: VerdictCache | None, contexts: _Contexts, held: _Held, left: list[int]
) -> Iterator[tuple[int, Report]]:
    """Those that need no work; they are taken out of what is left."""
    numbers = left[:]
    left.clear()
    for number in numbers:
        job = asked.jobs[number]
        context = contexts.of(job)
        report = kept.remembered(job.model, context) if kept is not None and context else None
        if report is not None:
            held.known += 1
            yield number, report
        elif (taken := _taken(asked, job)) is not None:
            yield number, ended_report(asked.command, job.model, taken)
        else:
            left.append(number)


def _close(session: Session, kept: VerdictCache, contexts: _Contexts) -> None:
    from sau_adapters.verdict_cache import cache_limit

    contexts.check_unchanged()
    kept.close(limit=cache_limit())
    spoiled = sorted(set(kept.spoiled))
    if spoiled:
        more = f" and {len(spoiled) - 1} more" * (len(spoiled) > 1)
        session.show(f"{spoiled[0]}{more} in the cache is not as sau wrote it; it was not believed, and made anew")


class _Contexts:
    """What the verdict of each job comes from, but for its model; most jobs have it in common."""

    def __init__(self, asked: Assignment, kept: VerdictCache | None, device: str) -> None:
        self._asked, self._kept, self.device = asked, kept, device
        self._known: dict[tuple[tuple[str, ...], Path | None], str] = {}

    def of(self, job: Job) -> str:
        """Nothing where the verdict is not to be kept."""
        if self._kept is None or any(map(_passing, (*job.words, self._asked.defaults.arch or ""))):
            return ""
        about = job.words, job.out
        if about not in self._known:
            if len(self._known) >= MOST_CONTEXTS:
                return self._computed(self._kept, *about)
            self._known[about] = self._computed(self._kept, *about)
        return self._known[about]

    def _computed(self, kept: VerdictCache, words: tuple[str, ...], out: Path | None) -> str:
        return kept.context_of(self._asked.command, words, out=out, defaults=self._asked.defaults, device=self.device)

    def check_unchanged(self) -> None:
        """Drop what was kept where data or another file that counts was changed meanwhile."""
        for about, context in self._known.items() if self._kept is not None else ():
            if self._kept is not None and self._computed(self._kept, *about) != context:
                self._kept.forget(context)


def _passing(word: str) -> bool:
    """Whether another run with this option may come to something else: by a clock, by code of the user's own, or by a
    signature that lies beside a statement.
    """
    return ".py:" in word or word.startswith(("--time-budget", "--budget", "--verify-attestation"))


def _device_here(asked: str) -> str:
    """That work is done on where this machine does it."""
    if asked != "auto" or (sys.platform == "linux" and not any(Path(place).exists() for place in _GPUS)):
        return "cpu" if asked == "auto" else asked  # torch would take seconds to say the same
    from sau_cli.devices import chosen_device

    return str(chosen_device(asked))


def _device_there(asked: str, engine: Engine) -> str | None:
    """That the machines of a cluster do it on; None where there is no cluster.

    Raises:
        UsageError: a GPU is asked for, and no machine has one.
    """
    if engine.gpus is None:
        return None
    if asked == "auto":
        return "cuda" if engine.gpus else "cpu"
    if asked.startswith("cuda") and not engine.gpus:
        raise UsageError(f"no machine of the cluster has a GPU; leave --device {asked} out")
    return asked


def _tasks(
    session: Session,
    asked: Assignment,
    kept: VerdictCache | None,
    contexts: _Contexts,
    numbers: Sequence[int],
) -> Iterator[Task]:
    """Each job as a task, made when it is asked for."""
    here = str(Path.cwd())
    for number in numbers:
        job = asked.jobs[number]
        context = contexts.of(job)
        work = CommandWork(
            command=asked.command,
            words=(f"--device={contexts.device}", *job.words, *asked.once, *_out_words(asked.command, job)),
            model=str(job.model),
            folder=here,
            cache=None if kept is None or not context else str(kept.folder.absolute()),
            context=context,
            verbose=session.verbose,
        )
        size = 0 if asked.fleet.ray is None else _size(job.model)
        yield Task(number=number, work=work, needs=needs_of(size, on_gpu=contexts.device.startswith("cuda")))


def _out_words(command: str, job: Job) -> tuple[str, ...]:
    return (f"--out={job.out}",) if command == "purify" and job.out is not None else ()


def _size(model: Path) -> int:
    """Bytes of its files; nothing where they are not known."""
    from sau_adapters.verdict_cache import files_of

    with suppress(OSError):
        return sum(path.stat().st_size for path in (files_of(model) or {}).values() if path.is_file())
    return 0


def _answer(command: str, job: Job, settled: Settled) -> Answer:
    """What became of a job; a job without an answer has a report that says why."""
    error: SauError = NotEvaluable(f"{name_of(job.model)}: {settled.ended}")
    if settled.answer is not None:
        try:
            return unpacked(settled.answer)
        except ValueError as broken:
            error = NotEvaluable(
                f"{name_of(job.model)}: the answer of a process cannot be read ({broken}); run it again"
            )
    return Answer(report=ended_report(command, job.model, error))


class _FleetView:
    """Shows how many models are done: a bar on a terminal, a line for each elsewhere."""

    def __init__(self, session: Session, asked: Assignment, engine: Engine) -> None:
        self._session, self._total, self._done = session, len(asked.jobs), 0
        self._counts: Counter[Verdict] = Counter()
        self._progress = Progress(
            TextColumn(_DOING[asked.command]),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TextColumn("{task.description}", markup=False),
            TimeRemainingColumn(compact=True),
            console=session.console,
            transient=True,
            disable=session.quiet or not session.console.is_terminal,
        )
        self._engine = engine
        self._task = self._progress.add_task("", total=self._total)

    def __enter__(self) -> _FleetView:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def add(self, job: Job, row: Row) -> None:
        """Say that a model is done."""
        self._done += 1
        self._counts[row.verdict] += 1
        name = printable(job.name.replace("\n", "?"))
        if not self._session.console.is_terminal:
            self._session.show(f"{self._done}/{self._total} {name}: {row.verdict.value}")
            return
        told = ", ".join(f"{count} {verdict.value}" for verdict, count in self._counts.items())
        self._progress.update(self._task, advance=1, description=f"{told}; {self._engine.standing}")
