"""The sidecars of an exported file: its in-toto statement and its CycloneDX bill of materials."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from sau_adapters.files import sha256_of
from sau_cli.errors import NotEvaluable
from sau_cli.exporting.provenance import Origin

MOST_BYTES_READ = 16_000_000
"""Bytes of a statement that is still read."""


def statement_path(path: Path) -> Path:
    """``NAME.onnx.intoto.json``."""
    return path.with_name(f"{path.name}.intoto.json")


def bill_path(path: Path) -> Path:
    """``NAME.onnx.cdx.json``."""
    return path.with_name(f"{path.name}.cdx.json")


def write_statement(path: Path, statement: Mapping[str, Any]) -> None:
    """Write the statement of a file beside it."""
    text = json.dumps(statement, indent=2, allow_nan=False) + "\n"
    statement_path(path).write_text(text, encoding="utf-8")


def write_bill(path: Path, document: str) -> None:
    """Write the bill of materials of a file beside it."""
    bill_path(path).write_text(document, encoding="utf-8")


def read_statement(path: Path) -> dict[str, Any] | None:
    """The statement beside a file; None where there is none.

    Raises:
        NotEvaluable: it is no JSON object, or far too large.
    """
    return _read(statement_path(path))


def bill_hashes(path: Path) -> set[str] | None:
    """The SHA-256 of what the bill of materials beside a file is about; None where there is none.

    Raises:
        NotEvaluable: it is no JSON object, or far too large.
    """
    document = _read(bill_path(path))
    if document is None:
        return None
    found = set()
    metadata = document.get("metadata")
    component = metadata.get("component") if isinstance(metadata, dict) else None
    inside = component.get("components") if isinstance(component, dict) else None
    for part in [component, *(inside if isinstance(inside, list) else [])]:
        hashes = part.get("hashes") if isinstance(part, dict) else None
        listed = hashes if isinstance(hashes, list) else []
        found |= {str(entry.get("content")) for entry in listed if isinstance(entry, dict)}
    return found


def hashes_beside(path: Path, origins: Sequence[Origin]) -> dict[str, str]:
    """The SHA-256 of those files of a statement that lie in the file's own folder, by name.

    A statement is input from a stranger: a name that is more than a name is not looked at, nor is a link.
    """
    found = {}
    for origin in origins:
        name = origin.name
        if not name or name != Path(name).name or name in {".", ".."} or "\0" in name or len(name) > 200:
            continue
        beside = path.parent / name
        with suppress(OSError, ValueError):  # a name that no file could have
            if beside.is_file() and not beside.is_symlink():
                found[name] = sha256_of(beside)
    return found


def _read(path: Path) -> dict[str, Any] | None:
    if not os.path.lexists(path):
        return None
    if not path.is_file():
        raise NotEvaluable(f"{path} is no file that can be read; get it again")
    try:
        if path.stat().st_size > MOST_BYTES_READ:
            raise NotEvaluable(f"{path} is no sidecar of sau: it is too large; get it again")
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise NotEvaluable(f"{path} cannot be read as JSON; get it again") from error
    if not isinstance(document, dict):
        raise NotEvaluable(f"{path} is no JSON object; get it again")
    return document
