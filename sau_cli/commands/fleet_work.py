"""A command on one model of many, as a process of a fleet does it: its report is all that comes back."""

from __future__ import annotations

import json
import os
import platform
import zlib
from collections.abc import Callable, Mapping
from contextlib import ExitStack, redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass
from functools import cache
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from sau_adapters.files import sha256_of
from sau_adapters.zoos.addresses import name_of
from sau_cli.commands.options import OutputOptions
from sau_cli.commands.session import MACHINE, OUT_OF_MEMORY, Session
from sau_cli.errors import ExitCode, NotEvaluable, SauError, UsageError
from sau_cli.fleet.engine import OutOfMemory
from sau_cli.reporting.json_document import plain, report_of
from sau_cli.results import Report

if TYPE_CHECKING:
    from sau_adapters.verdict_cache import SeenFiles, VerdictCache

COMMANDS = ("inspect", "purify", "evaluate")


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a process says of its model.

    Attributes:
        seen: the files of the model, where the verdict may be kept under them.
        known: the verdict was known already.
        spoiled: entries of the cache that were not believed.
    """

    report: Report
    seen: SeenFiles | None = None
    known: bool = False
    spoiled: tuple[str, ...] = ()

    def packed(self) -> bytes:
        """As bytes, without any code in them."""
        return zlib.compress(json.dumps(plain(self)).encode(), 1)


def unpacked(packed: bytes) -> Answer:
    """The answer that :meth:`Answer.packed` packed. Raises ValueError for anything else."""
    from sau_adapters.verdict_cache import SeenFiles

    try:
        told = json.loads(zlib.decompress(packed))
        seen = told["seen"]
        if seen is not None:
            stats = {path: (tuple(stat), sha256) for path, (stat, sha256) in seen["stats"].items()}
            seen = SeenFiles(files=seen["files"], stats=stats)
        return Answer(
            report=report_of(told["report"]), seen=seen, known=bool(told["known"]), spoiled=tuple(told["spoiled"])
        )
    except (zlib.error, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"no answer ({error})") from error


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandWork:
    """A command to run on one model. See :class:`sau_cli.fleet.engine.Task`.

    Attributes:
        words: its options.
        folder: that it is run in, as its user did.
        cache: the folder of the cache; None to do without.
        context: of the cache's entry.
        verbose: say what the command says, too.
    """

    command: str
    words: tuple[str, ...]
    model: str
    folder: str
    cache: str | None
    context: str
    verbose: bool = False

    def __call__(self) -> bytes:
        """Run it.

        Raises:
            NotEvaluable: this machine does not have the folder.
            OutOfMemory: it needs more memory.
            KeyboardInterrupt: it was told to end.
        """
        self._go_there()
        model, kept = Path(self.model), _cache(self.cache)
        seen = None
        if kept is not None:
            from sau_adapters.verdict_cache import seen_files

            seen = seen_files(model)
            known = None if seen is None else kept.read(model, self.context, seen.files)
            spoiled = tuple(str(path) for path in kept.spoiled)
            kept.spoiled.clear()
            if known is not None:
                return Answer(report=known, seen=seen, known=True, spoiled=spoiled).packed()
        else:
            spoiled = ()
        report = report_on(self.command, self.words, model, verbose=self.verbose)
        if seen is not None and not seen.unchanged():
            seen = None
        answer = Answer(report=report, seen=seen, spoiled=spoiled).packed()
        if report.exit_code is ExitCode.INTERRUPTED:
            raise KeyboardInterrupt
        if report.error == OUT_OF_MEMORY:
            raise OutOfMemory(answer)
        return answer

    def _go_there(self) -> None:
        if str(Path.cwd()) == self.folder:
            return
        try:
            os.chdir(self.folder)
        except OSError as error:
            sentence = f"the folder {self.folder} is not on {platform.node()} ({error.strerror})"
            raise NotEvaluable(f"{sentence}; models must lie where every machine of the cluster finds them") from error


def _cache(folder: str | None) -> VerdictCache | None:
    """The cache, where this machine has it."""
    if folder is None:
        return None
    from sau_adapters.verdict_cache import VerdictCache

    with suppress(SauError):
        return VerdictCache(Path(folder))
    return None


def report_on(command: str, words: tuple[str, ...], model: Path, *, verbose: bool = False) -> Report:
    """Run a command on one model in this process, and return its report."""
    asked = [*words, "--json", "-", "--quiet", "--", str(model)]
    document = StringIO()
    with ExitStack() as streams:
        streams.enter_context(redirect_stdout(document))
        if not verbose:
            streams.enter_context(redirect_stderr(StringIO()))
        try:
            _entry(command)(args=asked, prog_name=f"sau {command}", standalone_mode=False)
        except typer.Exit:
            pass
        except Exception as error:
            sentence = getattr(error, "format_message", None)
            if sentence is None:
                raise
            return _refused(command, model, str(sentence()))
    try:
        told = json.loads(document.getvalue())
    except ValueError:
        return _refused(command, model, "it ended without a report")
    told["environment"] = {name: value for name, value in told["environment"].items() if name not in MACHINE}
    if not told["inputs"]:
        told["inputs"] = _input(model)
        told["details"].setdefault("path", name_of(model))
    return report_of(told)


def _input(model: Path) -> list[Mapping[str, str]]:
    """A file that could not be read as a model."""
    with suppress(OSError, SauError):  # it may be gone by now
        if model.is_file():
            return [{"path": str(model), "sha256": sha256_of(model)}]
    return []


def _refused(command: str, model: Path, sentence: str) -> Report:
    """Of options that are none."""
    told = " ".join(sentence.split()).replace("Value error, ", "").rstrip(".")
    return ended_report(command, model, UsageError(f"{told}; see sau {command} --help"))


def ended_report(command: str, model: Path, error: SauError) -> Report:
    """On a model of which nothing but this is known."""
    session = Session(command, OutputOptions(quiet=True))
    with suppress(OSError, SauError):
        if model.is_file():
            session.took(model)
    session.findings.tell(path=name_of(model))
    return session.report(error, machine=False)


@cache
def _entry(command: str) -> Callable[..., Any]:
    """The command line of one command."""
    app = typer.Typer(pretty_exceptions_enable=False, rich_markup_mode=None, add_completion=False)
    app.command(command)(_function(command))
    return typer.main.get_command(app)


def _function(command: str) -> Callable[..., None]:
    match command:
        case "inspect":
            from sau_cli.commands.inspect import inspect_command

            return inspect_command
        case "purify":
            from sau_cli.commands.purify import purify_command

            return purify_command
        case "evaluate":
            from sau_cli.commands.evaluate import evaluate_command

            return evaluate_command
    raise NotEvaluable(f"no fleet does {command}; those that it does are {', '.join(COMMANDS)}")
