"""``--table``: one row a model, in files that dashboards and notebooks load."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from sau_cli.commands.session import Session
from sau_cli.reporting.model_table import table_format_of

if TYPE_CHECKING:
    from sau_cli.results import Report


def write_tables_at_end(session: Session, tables: Sequence[Path]) -> None:
    """When the session ends, however it does, write what it found as tables.

    Raises:
        UsageError: one of them could not be written, which is said before the work starts.
    """
    from sau_adapters.model_tables import check_table

    for path in tables:
        table_format_of(path)
        session.reserve(path, place="table")
        check_table(path, force=session.force)
    for path in tables:
        session.at_end(partial(_write, path))


def _write(path: Path, report: Report) -> None:
    from sau_adapters.model_tables import write_table

    write_table(path, report)
