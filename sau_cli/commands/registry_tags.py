"""``--mlflow-tags``: what was found, as tags of the version in the registry that the model came from."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sau_cli.commands.session import Session
from sau_cli.errors import ExitCode, SauError, UsageError
from sau_cli.reporting.model_table import reports_of, row_of
from sau_cli.results import Verdict, subject

if TYPE_CHECKING:
    from sau_cli.results import Report

TAGS = (
    *("verdict", "exit_code", "finding", "sha256", "score", "threshold", "suspected_class"),
    *("accuracy", "accuracy_low", "accuracy_high", "tool_version"),
)
"""Columns of the table of models that become tags."""


def tag_at_end(session: Session, models: Sequence[Path], *, asked: bool) -> None:
    """When the session ends, tag every registered version that was inspected with what was found.

    Raises:
        UsageError: no model is of a registry.
    """
    if not asked:
        return
    from sau_adapters.zoos.addresses import is_registered
    from sau_adapters.zoos.mlflow_registry import write_tags

    if not any(is_registered(model) for model in models):
        raise UsageError("--mlflow-tags tags models:/NAME/VERSION, and no such model is given; leave it out")

    def tag(report: Report) -> None:
        failed: SauError | None = None
        for model_report in reports_of(report):
            model = Path(subject(model_report))
            if (
                not is_registered(model)
                or model_report.verdict is Verdict.INTERRUPTED
                or model_report.exit_code is ExitCode.USAGE
            ):
                continue
            row = row_of(model_report)
            try:
                which = write_tags(model, {name: getattr(row, name) for name in TAGS})
            except SauError as error:  # the others are tagged all the same
                failed = failed or error
            else:
                session.show(f"{which} is tagged in the registry: {model_report.verdict.value}")
        if failed is not None:
            raise failed

    session.at_end(tag)
