"""The settings of a step in a model's history, as a line that people read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def settings_line(settings: Mapping[str, Any]) -> str:
    """Names and values in order; what is empty is left out.

    >>> settings_line({"attacks": [{"attack": "badnets", "size": 3}], "clean_frac": 0.05, "max_batch": None})
    'attacks (attack badnets, size 3), clean-frac 0.05'
    """
    told = [(key, _shown(value)) for key, value in settings.items()]
    return ", ".join(f"{key.replace('_', '-')} {text}" for key, text in told if text)


def _shown(value: object) -> str:
    match value:
        case None:
            return ""
        case bool():
            return "yes" if value else "no"
        case float():
            return f"{value:.6g}"
        case Mapping():
            return f"({settings_line({str(key): one for key, one in value.items()})})" if value else ""
        case list() | tuple():
            return " ".join(text for one in value if (text := _shown(one)))
        case _:
            return str(value)
