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


_TELLING = ("attack", "method", "recipe", "data", "learned_from", "epochs_run", "epochs")
"""The settings that say most of a step, in order."""


def short_line(settings: Mapping[str, Any]) -> str:
    """The settings that say most of a step, for a line; the others follow where they are a word or a number.

    >>> short_line({"residual": {"cleared": True, "score": 0.5}, "attacks": [1], "lr": 0.1, "method": "sau"})
    'method sau, cleared yes, lr 0.1'
    """
    residual = settings.get("residual")
    cleared = {"cleared": residual.get("cleared")} if isinstance(residual, Mapping) else {}
    first = {name: settings[name] for name in _TELLING if name in settings}
    plain = {name: value for name, value in settings.items() if not isinstance(value, Mapping | list | tuple)}
    return settings_line(first | cleared | {name: value for name, value in plain.items() if name not in first})


def _shown(value: object) -> str:
    match value:
        case None:
            return ""
        case bool():
            return "yes" if value else "no"
        case float():
            return f"{value:.6g}"
        case Mapping():
            return f"({settings_line({str(key): inner for key, inner in value.items()})})" if value else ""
        case list() | tuple():
            return " ".join(text for item in value if (text := _shown(item)))
        case _:
            return str(value)
