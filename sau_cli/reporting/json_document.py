"""A report as one strict JSON document."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from math import isfinite
from pathlib import PurePath
from typing import Any

from sau_cli.results import Report


def to_json(report: Report) -> str:
    """The document, ending in a newline. Numbers that JSON lacks (NaN, infinity) become null."""
    return json.dumps(plain(report), indent=2, allow_nan=False) + "\n"


def plain(value: Any) -> Any:
    """Dataclasses, enums, paths and tuples as what JSON has.

    >>> plain({"rate": float("nan"), "shape": (1, 2)})
    {'rate': None, 'shape': [1, 2]}
    """
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, float):
        return value if isfinite(value) else None
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [plain(one) for one in value]
    return str(value) if isinstance(value, PurePath) else value
