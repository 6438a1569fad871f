"""The forms that a report comes in, by the name of its file."""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import assert_never

from sau_cli.errors import UsageError, argument
from sau_cli.results import Report


class ReportFormat(StrEnum):
    """By suffix. JSON is the document, and the others are renderings of it."""

    JSON = ".json"
    SARIF = ".sarif"
    JUNIT = ".xml"
    MARKDOWN = ".md"
    HTML = ".html"


def format_of(path: Path) -> ReportFormat:
    """The form that a file's name asks for.

    Raises:
        UsageError: it asks for none.
    """
    try:
        return ReportFormat(path.suffix.lower())
    except ValueError as error:
        known = ", ".join(one.value for one in ReportFormat)
        raise UsageError(f"{argument('report')} {path}: the name tells no form of report; end it in {known}") from error


def rendered(report: Report, form: ReportFormat) -> str:
    """The report in this form."""
    return "".join(rendered_parts(report, form))


def rendered_parts(report: Report, form: ReportFormat) -> Iterator[str]:
    """The same piece by piece, of which a report on many models has many."""
    match form:
        case ReportFormat.JSON:
            from sau_cli.reporting.json_document import json_parts

            yield from json_parts(report)
        case ReportFormat.SARIF:
            from sau_cli.reporting.sarif import to_sarif

            yield to_sarif(report)
        case ReportFormat.JUNIT:
            from sau_cli.reporting.junit import to_junit

            yield to_junit(report)
        case ReportFormat.MARKDOWN:
            from sau_cli.reporting.markdown import to_markdown

            yield to_markdown(report)
        case ReportFormat.HTML:
            from sau_cli.reporting.html import html_parts

            yield from html_parts(report)
        case _ as never:
            assert_never(never)
