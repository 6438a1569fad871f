"""A report as one strict JSON document."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass, replace
from enum import Enum
from math import isfinite
from pathlib import PurePath
from textwrap import indent
from typing import Any

from sau_cli import __version__
from sau_cli.errors import ExitCode
from sau_cli.results import SCHEMA_VERSION, Check, CheckStatus, InputFile, Report, Severity, Verdict

_AS_THEY_ARE = frozenset((str, int, bool, type(None)))
_NO_MODELS = '\n  "models": []'


def to_json(report: Report) -> str:
    """The document, ending in a newline. Numbers that JSON lacks (NaN, infinity) become null."""
    return "".join(json_parts(report))


def json_parts(report: Report) -> Iterator[str]:
    """The document piece by piece, of which the reports on several models are one each."""
    before, _, behind = _dumped(replace(report, models=())).partition(_NO_MODELS)
    yield f"{before}{_NO_MODELS[:-1]}"
    for number, model in enumerate(report.models):
        apart = ",\n" if number else "\n"
        yield f"{apart}{indent(_dumped(model), '    ')}"
    end = "\n  ]" if report.models else "]"
    yield f"{end}{behind}\n"


def _dumped(report: Report) -> str:
    return json.dumps(plain(report), indent=2, allow_nan=False)


def report_of(document: object, *, trusted: bool = False) -> Report:
    """The report that a document is of: what :func:`plain` makes of a report, turned back.

    Args:
        trusted: this process made it.

    Raises:
        ValueError: it is no such document, or of another version of sau.
    """
    try:
        report = _report_of(document)
        exact = trusted or plain(report) == document
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"no report of sau ({error})") from error
    if not exact or report.schema_version != SCHEMA_VERSION or report.tool_version != __version__:
        raise ValueError("no report of this version of sau")
    return report


def _report_of(document: Any) -> Report:
    told = dict(document)
    if not all(isinstance(told[name], dict) for name in ("outputs", "environment", "details")):
        raise TypeError("a part of it is no object")
    told["inputs"] = tuple(InputFile(**file) for file in told["inputs"])
    told["outputs"] = {role: InputFile(**file) for role, file in told["outputs"].items()}
    told["verdict"], told["exit_code"] = Verdict(told["verdict"]), ExitCode(told["exit_code"])
    told["checks"] = tuple(_check_of(check) for check in told["checks"])
    told["models"] = tuple(_report_of(model) for model in told["models"])
    return Report(**told)


def _check_of(document: Mapping[str, Any]) -> Check:
    told = dict(document)
    told["status"] = CheckStatus(told["status"])
    told["severity"] = None if told["severity"] is None else Severity(told["severity"])
    told["ci95"] = None if told["ci95"] is None else tuple(told["ci95"])
    return Check(**told)


def plain(value: Any) -> Any:
    """Dataclasses, enums, paths and tuples as what JSON has.

    >>> plain({"rate": float("nan"), "shape": (1, 2)})
    {'rate': None, 'shape': [1, 2]}
    """
    if type(value) in _AS_THEY_ARE or isinstance(value, float):
        return None if isinstance(value, float) and not isfinite(value) else value
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, Enum):
        return value.value
    return str(value) if isinstance(value, PurePath) else value
