"""A table of jobs: a row for each model, with what is particular to it."""

from __future__ import annotations

import csv
import json
import os
import shlex
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from io import StringIO
from pathlib import Path
from typing import Any

import typer

from sau_cli.commands.fleet import Assignment, Job, run_fleet
from sau_cli.commands.fleet_options import OF_THE_RUN, FleetOptions, given_words
from sau_cli.commands.inputs import Request
from sau_cli.commands.session import Session
from sau_cli.errors import UsageError, reason_of
from sau_cli.reporting.formats import format_of

JOB_COLUMNS = ("model", "data", "trigger", "options", "out")
_NEEDED = {"purify": ("model", "out"), "evaluate": ("model",)}
_SHORT = {"-o": "out", "-q": "quiet", "-v": "verbose"}
_Row = Mapping[str, Any]


def run_table(
    session: Session,
    command: str,
    context: typer.Context,
    model: Path | None,
    table: Path | None,
    *,
    fleet: FleetOptions,
    asked: Request,
    device: str,
) -> None:
    """Do the command for every row of a table.

    Args:
        model: the command's MODEL, which is not to be given beside a table.

    Raises:
        UsageError: there is no table, it is none, or its rows cannot be done together.
    """
    if table is None:
        raise UsageError("there is no MODEL; give one, or a table of jobs with --jobs-table (see --help)")
    if model is not None:
        raise UsageError("MODEL and --jobs-table are both given; leave one out")
    if context.params.get("out") is not None:
        raise UsageError("-o names one file, and a table of jobs has many; give each row its out")
    common = given_words(context, without=OF_THE_RUN)
    run_fleet(
        session,
        Assignment(
            command=command,
            jobs=read_jobs(table, command, common),
            fleet=fleet,
            defaults=asked.defaults,
            device=device,
            second="out" if command == "purify" else "report",
            once=tuple(f"--{name}" for name in ("force", "resume") if context.params.get(name)),
        ),
    )


def check_alone(fleet: FleetOptions) -> None:
    """Raises UsageError where machines are given for one model."""
    if fleet.ray is not None:
        raise UsageError("--ray is for several models; give them with --jobs-table")


def read_jobs(table: Path, command: str, common: Sequence[str]) -> list[Job]:
    """The jobs of a table, in its order.

    Args:
        table: CSV with a head, or JSON lines, which content tells.
        common: options that hold for every row that does not give its own.

    Raises:
        UsageError: it cannot be read, lacks a column that the command needs or has one that is none, a row makes no
            sense, or two rows write the same file.
    """
    rows = _rows(table)
    if not rows:
        raise UsageError(f"{table} has no jobs; give a row for each model")
    for name in _NEEDED[command]:
        if all(name not in row for row in rows):
            raise UsageError(f"{table} has no column {name}; sau {command} needs {' and '.join(_NEEDED[command])}")
    often = Counter(_text(row, "model") for row in rows)
    jobs = [
        _job(row, f"row {number} of {table}", command, common, several=often[_text(row, "model")] > 1, number=number)
        for number, row in enumerate(rows, start=1)
    ]
    _check_apart(table, jobs)
    return jobs


def _rows(table: Path) -> list[_Row]:
    try:
        text = table.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"--jobs-table {table} cannot be read ({reason_of(error)}); give CSV or JSON lines") from error
    rows: list[_Row] = []
    try:
        if text.lstrip().startswith("{"):
            rows += (json.loads(line) for line in text.splitlines() if line.strip())
        else:
            rows += csv.DictReader(StringIO(text), strict=True, skipinitialspace=True)
    except (ValueError, csv.Error, RecursionError) as error:
        raise UsageError(
            f"--jobs-table {table} is neither CSV nor JSON lines ({reason_of(error)}); repair it"
        ) from error
    for number, row in enumerate(rows, start=1):
        strange = [key for key in row if key not in JOB_COLUMNS] if isinstance(row, dict) else [str(row)[:50]]
        if strange:
            what = f"column {strange[0]!r}" if strange[0] is not None else "value too many"
            raise UsageError(f"row {number} of {table} has a {what}; columns are {', '.join(JOB_COLUMNS)}")
    return rows


def _job(row: _Row, where: str, command: str, common: Sequence[str], *, several: bool, number: int) -> Job:
    for name in _NEEDED[command]:
        if not _text(row, name):
            raise UsageError(f"{where} has no {name}; sau {command} needs {' and '.join(_NEEDED[command])}")
    model, out = _text(row, "model"), _text(row, "out")
    if out and command == "evaluate":
        format_of(Path(out))
    data = (f"--data={_text(row, 'data')}",) if _text(row, "data") else ()
    triggers = (f"--trigger={name}" for name in _words(row, "trigger", where))
    return Job(
        name=f"{model} (row {number})" if several else model,
        model=Path(model),
        words=(*common, *data, *triggers, *_options(row, where)),
        out=Path(out) if out else None,
    )


def _options(row: _Row, where: str) -> Iterator[str]:
    for word in _words(row, "options", where):
        name = _SHORT.get(word, word.partition("=")[0].removeprefix("--").replace("-", "_"))
        if word.startswith("-") and (name in OF_THE_RUN or name == "out"):
            raise UsageError(
                f"{where} has {word} among its options, which is of the run or a column; leave it out there"
            )
        yield word


def _text(row: _Row, name: str) -> str:
    value = row.get(name)
    return value.strip() if isinstance(value, str) else ""


def _words(row: _Row, name: str, where: str) -> list[str]:
    """Words as in a shell; of JSON lines perhaps a list."""
    value = row.get(name)
    if isinstance(value, list) and all(isinstance(word, str) for word in value):
        return value
    if value is not None and not isinstance(value, str):
        raise UsageError(
            f"{where} has a {name} that is neither text nor a list of texts; write it like on a command line"
        )
    try:
        return shlex.split(value or "")
    except ValueError as error:
        raise UsageError(f"{where}: {name} cannot be read as words ({reason_of(error)}); mend its quotes") from error


def _check_apart(table: Path, jobs: Sequence[Job]) -> None:
    """Raises UsageError where two rows write the same file, or one the model of another."""
    models = {os.path.realpath(job.model): number for number, job in enumerate(jobs, start=1)}
    written: dict[str, int] = {}
    for number, job in enumerate(jobs, start=1):
        if job.out is None:
            continue
        place = os.path.realpath(job.out)
        if place in written:
            raise UsageError(
                f"rows {written[place]} and {number} of {table} both write {job.out}; give each a name of its own"
            )
        if place in models:
            raise UsageError(f"row {number} of {table} writes {job.out}, which is the model of row {models[place]}")
        written[place] = number
