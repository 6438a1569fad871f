"""Where sau keeps what it may need again, and how much of it."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from sau_cli.errors import UsageError

FOLDER_VARIABLE = "SAU_CACHE_DIR"
_UNITS = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}


def cache_folder() -> Path:
    """Where caches lie: ``SAU_CACHE_DIR``, or ``sau`` where this system keeps caches."""
    told = os.environ.get(FOLDER_VARIABLE)
    if told:
        return Path(told).expanduser()
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "sau"
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local") / "sau"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sau"


def limit_of(variable: str, default: int) -> int:
    """Bytes that a cache may take, by a variable of the environment such as ``500MB``.

    Raises:
        UsageError: it is no size.
    """
    told = os.environ.get(variable, "").strip()
    if not told:
        return default
    number = told.rstrip("KMGTBkmgtb")
    unit = told[len(number) :].upper()
    if not number.strip().isdigit() or unit not in _UNITS:
        raise UsageError(f"{variable}={told!r} is no size; write it like 500MB or 2GB")
    return int(number) * _UNITS[unit]
