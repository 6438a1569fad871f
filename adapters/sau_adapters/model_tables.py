"""Tables of models as files: JSON lines, CSV, Parquet, or a page with a page for each model beside it."""

from __future__ import annotations

import csv
import json
import os
import re
from collections.abc import Iterable
from dataclasses import asdict, fields
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import Any, assert_never, get_type_hints
from urllib.parse import quote

from sau_adapters.files import check_folder_writable, folder_written_whole, written_whole
from sau_cli.errors import UsageError
from sau_cli.reporting.model_table import COLUMNS, ModelRow, TableFormat, reports_of, rows_of, table_format_of
from sau_cli.results import Report, subject

ROWS_AT_A_TIME = 10_000
"""Rows of a group of Parquet."""
_FORMULA = tuple("=+-@\t\r")
"""What a text begins with that a spreadsheet takes for a formula."""


def pages_of(path: Path) -> Path:
    """Where the page of each model goes, beside a table that is a page: ``models.pages`` beside ``models.html``."""
    return path.with_suffix(".pages")


def check_table(path: Path, *, force: bool) -> None:
    """Say before the work starts that no table of this name could be written. That of the file itself is not looked at.

    Raises:
        UsageError: the name tells no form, the form needs what is not installed, or the folder of pages is taken.
    """
    form = table_format_of(path)
    if form is TableFormat.PARQUET and find_spec("pyarrow") is None:
        raise UsageError(
            'Parquet needs pyarrow, which is not installed; pip install "sau-cli[parquet]", or end in .jsonl'
        )
    if form is TableFormat.HTML:
        pages = pages_of(path)
        check_folder_writable(pages, force=force, files={"1.html"} | _pages_in(pages), place="table")


def write_table(path: Path, report: Report) -> None:
    """Write a row for each model, in one piece.

    Raises:
        UsageError: the place cannot be written to.
    """
    match table_format_of(path):
        case TableFormat.JSON_LINES:
            _write_json_lines(path, rows_of(report))
        case TableFormat.CSV:
            _write_csv(path, rows_of(report))
        case TableFormat.PARQUET:
            _write_parquet(path, rows_of(report))
        case TableFormat.HTML:
            _write_pages(path, report)
        case _ as never:
            assert_never(never)


def _write_json_lines(path: Path, rows: Iterable[ModelRow]) -> None:
    with written_whole(path) as temporary, temporary.open("w", encoding="utf-8", errors="replace") as file:
        file.writelines(json.dumps(asdict(row), allow_nan=False) + "\n" for row in rows)


def _write_csv(path: Path, rows: Iterable[ModelRow]) -> None:
    with written_whole(path) as temporary, temporary.open("w", encoding="utf-8", errors="replace", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        writer.writerows([_spreadsheet_safe(value) for value in asdict(row).values()] for row in rows)


def _spreadsheet_safe(value: Any) -> Any:
    """A text that a spreadsheet would compute gets an apostrophe in front: a stranger names files.

    >>> _spreadsheet_safe("=1+1"), _spreadsheet_safe(-1.0)
    ("'=1+1", -1.0)
    """
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value


def _write_parquet(path: Path, rows: Iterable[ModelRow]) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    kinds = {str: pa.string(), int: pa.int64(), float: pa.float64()}
    hints = get_type_hints(ModelRow)
    schema = pa.schema(
        [
            pa.field(field.name, next(form for kind, form in kinds.items() if kind in _kinds(hints[field.name])))
            for field in fields(ModelRow)
        ]
    )
    with written_whole(path) as temporary, parquet.ParquetWriter(temporary, schema) as writer:
        left = iter(rows)
        while some := [_in_utf8(asdict(row)) for row in islice(left, ROWS_AT_A_TIME)]:
            writer.write_table(pa.Table.from_pylist(some, schema=schema))


def _kinds(hint: Any) -> tuple[Any, ...]:
    """The types that a hint such as ``str | None`` allows."""
    return getattr(hint, "__args__", (hint,))


def _in_utf8(row: dict[str, Any]) -> dict[str, Any]:
    return {
        name: value.encode(errors="replace").decode() if isinstance(value, str) else value
        for name, value in row.items()
    }


def _write_pages(path: Path, report: Report) -> None:
    """The pages first, so that the table never leads to one that is not there."""
    from sau_cli.reporting.html import to_html
    from sau_cli.reporting.table_page import page_names, table_page

    rows, folder = list(rows_of(report)), pages_of(path)
    names = page_names(rows)
    with folder_written_whole(folder, files={"1.html", *names} | _pages_in(folder)) as temporary:
        for name, model in zip(names, reports_of(report), strict=False):
            (temporary / name).write_text(to_html(model), encoding="utf-8", errors="replace")
    place = report.details.get("folder")
    title = f"Models under {place}" if place else "Models" if report.models else subject(report)
    links = [f"{quote(os.fsencode(folder.name))}/{name}" if name else "" for name in names]
    with written_whole(path) as temporary, temporary.open("w", encoding="utf-8", errors="replace") as file:
        file.writelines(table_page(rows, links, title=title, version=report.tool_version))


def _pages_in(folder: Path) -> set[str]:
    """The pages that another run left there, which a new one replaces."""
    if not folder.is_dir():
        return set()
    return {page.name for page in folder.iterdir() if re.fullmatch(r"\d+\.html", page.name)}
