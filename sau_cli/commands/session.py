"""One run of a command: its streams, its findings, its report and its exit code."""

from __future__ import annotations

import os
import platform
import sys
import traceback
from collections.abc import Callable, Collection
from contextlib import AbstractContextManager, ExitStack, nullcontext, suppress
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TextIO, TypeVar

import typer
from rich.console import Console
from rich.text import Text

from sau_adapters.files import check_folder_writable, check_writable, claimed, sha256_of, write_parts_whole
from sau_cli.commands.findings import Findings
from sau_cli.commands.options import OutputOptions, flag_of
from sau_cli.errors import ExitCode, SauError, UsageError, argument, reason_of
from sau_cli.reporting.formats import ReportFormat, format_of, looks_like_report, rendered_parts
from sau_cli.reporting.json_document import json_parts
from sau_cli.reporting.terminal import printable
from sau_cli.results import Check, CheckStatus, InputFile, Report
from sau_cli.team import ALONE, Team

if TYPE_CHECKING:
    from rich.console import RenderableType

Held = TypeVar("Held")
LONGEST_SENTENCE = 600
OUT_OF_MEMORY = "out of memory; a smaller --max-batch or --batch-size needs less, where there is one"
MACHINE = ("python", "platform", "machine", "cpus", "packages")
"""What a report says of the machine."""
_PACKAGES = ("torch", "torchvision", "timm", "transformers", "safetensors", "onnx", "onnxruntime", "numpy")


class Session:
    """A context around a command's work. On leaving it, the report is written and the process exits.

    People's output goes to standard error. Standard output is for the document of ``--json -``.
    What was found before an error stays in the report, and a failed check keeps its exit code.

    Attributes:
        findings: what is found, which becomes the report.
    """

    def __init__(self, command: str, output: OutputOptions, *, replace_report: bool = False) -> None:
        self.console = Console(stderr=True, highlight=False)
        self.quiet, self.verbose, self.force = output.quiet, output.verbose, output.force
        self.findings = Findings(command)
        self._team = ALONE
        self._state_file: Path | None = None
        self._json = output.json
        self._reports = dict.fromkeys(output.report or (), ReportFormat.JSON)
        self._replace_report = output.force or replace_report
        self._out = sys.stdout
        self._claims, self._until_reported = ExitStack(), ExitStack()
        self._at_end: list[Callable[[Report], None]] = []

    def __enter__(self) -> Self:
        try:
            if self._json not in {None, "-"}:
                check_report(Path(str(self._json)), force=self._replace_report)
            for path in self._reports:
                self._reports[path] = format_of(path)
                check_report(path, force=self._replace_report, place="report")
                if self._json not in {None, "-"} and os.path.realpath(str(self._json)) == os.path.realpath(path):
                    raise UsageError(f"--json and --report both name {path}; give each report a name of its own")
        except SauError as error:
            self._json, self._reports = self._json if self._json == "-" else None, {}
            raise typer.Exit(self._finish(error)) from error
        # Standard output belongs to the document: what a network or a library prints goes to standard error.
        self._out, sys.stdout = sys.stdout, sys.stderr
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        sys.stdout = self._out
        self._claims.close()
        if isinstance(error, typer.Exit):
            return
        if error is not None and self.verbose:
            traceback.print_exception(kind, error, trace, file=sys.stderr)
        with self._until_reported:
            raise typer.Exit(self._finish(error)) from error

    def join(self, team: Team) -> None:
        """Work as one of several processes: only the leader shows, reports and writes; errors are always said."""
        self._team = team
        if not team.leads:
            self.quiet, self._json, self._reports = True, None, {}
            self._at_end = []

    @property
    def team(self) -> Team:
        """The processes that this one works with."""
        return self._team

    def resumes_from(self, state_file: Path) -> None:
        """From here on, an interruption leaves this file to go on from, if it is there."""
        self._state_file = state_file

    def reserve(self, path: Path, *, place: str = "out", folder_of: Collection[str] = ()) -> None:
        """Say before the work starts that a result could not be written to this place.

        Args:
            place: the argument that names it.
            folder_of: these files, in a folder; else the result is a file.

        Raises:
            UsageError: it is taken and there is no --force, it cannot be written to, or the report goes there.
        """
        if folder_of:
            check_folder_writable(path, force=self.force, files=folder_of, place=place)
        else:
            check_writable(path, force=self.force, place=place)
        if self._json not in {None, "-"} and os.path.realpath(str(self._json)) == os.path.realpath(path):
            self._json = None  # nor does a report of this error go there
            raise UsageError(f"{argument(place)} and --json both name {path}; give the report a name of its own")
        for report in self._reports:
            if os.path.realpath(report) == os.path.realpath(path):
                self._reports = {}
                raise UsageError(f"{argument(place)} and --report both name {path}; give the report a name of its own")

    def at_end(self, do: Callable[[Report], None]) -> None:
        """Do this with the report when the command ends, however it does. An error there hides nothing that was found.

        Args:
            do: raises SauError where it cannot be done.
        """
        self._at_end.append(do)

    def claim(self, *paths: Path) -> None:
        """Have these files to oneself until the command ends.

        Raises:
            UsageError: another run is writing one of them.
        """
        if self._team.leads:
            self._claims.enter_context(claimed(*paths))

    def until_reported(self, reports: AbstractContextManager[Held]) -> Held:
        """Hold what the report is read from until it is written."""
        return self._until_reported.enter_context(reports)

    def took(self, path: Path | str, sha256: str | None = None) -> None:
        """Record an input file, once.

        Args:
            path: or where it comes from, with its SHA-256.
        """
        self.findings.took(InputFile(path=str(path), sha256=sha256 or sha256_of(Path(path))))

    def wrote(self, role: str, path: Path) -> None:
        """Record an output file under its role."""
        self.findings.wrote(role, InputFile(path=str(path), sha256=sha256_of(path)))

    @property
    def standard_output(self) -> TextIO:
        """For what was asked for by name, such as a list; the document of ``--json -`` excludes it."""
        return self._out

    def show(self, what: RenderableType) -> None:
        """Show people a table or a line, unless they asked for quiet."""
        if not self.quiet:
            self._say(Text(printable(what)) if isinstance(what, str) else what, soft_wrap=isinstance(what, str))

    def note(self, check_id: str, sentence: str) -> None:
        """Show what was left out or decided for the user, and keep it in the report."""
        self.show(sentence)
        self.findings.add(Check(id=check_id, status=CheckStatus.MEASURED, evidence=sentence))

    def working(self, on: str) -> AbstractContextManager[object]:
        """Show on a terminal that work of unknown length goes on; nothing elsewhere."""
        return self.console.status(on) if self.console.is_terminal and not self.quiet else nullcontext()

    def _say(self, what: RenderableType, *, soft_wrap: bool = True) -> None:
        """To standard error; a stream that takes nothing stops neither the work nor its report."""
        try:
            self.console.print(what, soft_wrap=soft_wrap)
        except OSError:
            _to_nowhere(sys.stderr)
            self.quiet = True

    def report(self, error: BaseException | None = None, *, machine: bool = True) -> Report:
        """What was found, and the error that ended it if one did.

        Args:
            machine: say what it ran on, too.
        """
        told = None if error is None else _explained(error, self._state_file)
        return self.findings.report(told, machine=_machine() if machine else {})

    def _finish(self, error: BaseException | None) -> ExitCode:
        report = self.report(error)
        if report.error is not None:
            who = "error: " if self._team.leads else f"error in process {self._team.rank}: "
            self._say(Text.assemble((who, "bold red"), printable(report.error)))
        elif report.exit_code and self.quiet:
            self._say(printable(_short(report)))
        code = report.exit_code
        others = [partial(_write_report, report, path, form) for path, form in self._reports.items()]
        for write in (partial(self._write_json, report), *others, *(partial(do, report) for do in self._at_end)):
            try:
                write()
            except SauError as unwritten:  # the others are written all the same
                self._say(Text.assemble(("error: ", "bold red"), printable(_explained(unwritten, None)[0])))
                code = code or unwritten.exit_code
            except Exception as broken:  # noqa: BLE001 (one rendering that breaks takes neither others nor a finding)
                self._say(Text.assemble(("error: ", "bold red"), printable(_explained(broken, None)[0])))
                code = code or ExitCode.INTERNAL
        return code

    def _write_json(self, report: Report) -> None:
        if self._json is None:
            return
        document = json_parts(report)
        if self._json != "-":
            write_parts_whole(Path(self._json), document)
            return
        if sys.stdout is None:
            raise UsageError("standard output is closed, so the report could not be written; open it or name a file")
        try:
            sys.stdout.writelines(document)
            sys.stdout.flush()
        except BrokenPipeError:
            _to_nowhere(sys.stdout)  # the reader has left
        except OSError as error:
            _to_nowhere(sys.stdout)
            raise UsageError(f"standard output could not be written to ({error.strerror}); name a file") from error


def _write_report(report: Report, path: Path, form: ReportFormat) -> None:
    write_parts_whole(path, rendered_parts(report, form))


def _short(report: Report) -> str:
    """One line on what kept a run from passing, for those who asked for quiet."""
    statuses = (CheckStatus.FAILED, CheckStatus.INCONCLUSIVE)
    held = [check for status in statuses for check in report.checks if check.status is status]
    more = f" (and {len(held) - 1} more)" if held[1:] else ""
    return f"{report.verdict.value}: {held[0].id}: {held[0].evidence}{more}" if held else report.verdict.value


def check_report(path: Path, *, force: bool, place: str = "json") -> None:
    """Raises UsageError unless a report can go there; only a report is ever overwritten by one, --force or not."""
    check_writable(path, force=force, place=place)
    if path.is_file():
        with path.open("rb") as file:
            start = file.read(200)
        if start.strip() and not looks_like_report(start):
            raise UsageError(f"{path} exists and is no report of sau; give another name with {argument(place)}")


def _to_nowhere(stream: TextIO | None) -> None:
    """What Python would still flush at the end goes nowhere, in place of failing again."""
    with suppress(OSError, ValueError, AttributeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())  # type: ignore[union-attr]


def _explained(error: BaseException, state_file: Path | None) -> tuple[str, ExitCode]:
    """One sentence, and the exit code."""
    if isinstance(error, SauError):
        sentence = " ".join(error.told(flag_of).split())
        return sentence if len(sentence) <= LONGEST_SENTENCE else f"{sentence[:LONGEST_SENTENCE]}...", error.exit_code
    if isinstance(error, SystemExit | GeneratorExit):
        return (
            "code of the network ended the run (SystemExit); take that out of the --arch file",
            ExitCode.NOT_EVALUATED,
        )
    if isinstance(error, OSError):
        where = f"{str(error.filename)[:200]}: " if error.filename else ""
        return f"{where}{error.strerror or reason_of(error)}; check that path", ExitCode.USAGE
    if isinstance(error, KeyboardInterrupt):
        resumable = state_file is not None and state_file.exists()
        goes_on = f"add --resume to the same command to go on from {state_file}"
        anew = "nothing was written, run the same command again to start over"
        return f"interrupted; {goes_on if resumable else anew}", ExitCode.INTERRUPTED
    if isinstance(error, MemoryError) or _device_is_full(error):
        return OUT_OF_MEMORY, ExitCode.NOT_EVALUATED
    return (
        f"this is a bug in sau ({type(error).__name__}: {reason_of(error)}); report it with the output of --verbose",
        ExitCode.INTERNAL,
    )


def _device_is_full(error: BaseException) -> bool:
    """Torch raises this, and so is there if it was."""
    if not isinstance(error, RuntimeError) or "torch" not in sys.modules:
        return False
    from sau_cli.devices import out_of_memory

    return out_of_memory(error)


def _machine() -> dict[str, Any]:
    packages: dict[str, str | None] = {}
    for name in _PACKAGES:
        try:
            packages[name] = version(name)
        except PackageNotFoundError:
            packages[name] = None
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "machine": platform.machine(),
        "cpus": os.cpu_count(),
        "packages": packages,
    }
