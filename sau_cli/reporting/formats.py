"""The forms that a report comes in, by the name of its file. A new one is a file beside this one, and a line here."""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum
from importlib import import_module
from pathlib import Path
from typing import Self

from sau_cli.errors import UsageError, argument
from sau_cli.results import Report


class ReportFormat(StrEnum):
    """By suffix. JSON is the document, and the others are renderings of it.

    Attributes:
        renders: ``MODULE:FUNCTION`` that makes text of a report, or pieces of it, in this package.
        sign: what is near the beginning of each, by which one is known.
    """

    renders: str
    sign: bytes

    def __new__(cls, suffix: str, renders: str, sign: bytes) -> Self:
        form = str.__new__(cls, suffix)
        form._value_, form.renders, form.sign = suffix, renders, sign
        return form

    HTML = ".html", "html:html_parts", b"<!doctype html>"
    MARKDOWN = ".md", "markdown:to_markdown", b"## sau "
    SARIF = ".sarif", "sarif:to_sarif", b"sarif-schema"
    JUNIT = ".xml", "junit:to_junit", b"<testsuites"
    JSON = ".json", "json_document:json_parts", b'"tool_version"'


def format_of(path: Path) -> ReportFormat:
    """The form that a file's name asks for.

    Raises:
        UsageError: it asks for none.
    """
    known = {form.value: form for form in ReportFormat}
    if path.suffix.lower() not in known:
        raise UsageError(f"{argument('report')} {path}: the name tells no form of report; end it in {', '.join(known)}")
    return known[path.suffix.lower()]


def rendered(report: Report, form: ReportFormat) -> str:
    """The report in this form."""
    return "".join(rendered_parts(report, form))


def rendered_parts(report: Report, form: ReportFormat) -> Iterator[str]:
    """The same piece by piece, of which a report on many models has many."""
    module, _, function = form.renders.partition(":")
    made: str | Iterator[str] = getattr(import_module(f"sau_cli.reporting.{module}"), function)(report)
    yield from (made,) if isinstance(made, str) else made


def looks_like_report(start: bytes) -> bool:
    """Whether a file that starts like this is a report in any of the forms."""
    return any(form.sign in start for form in ReportFormat)
