"""Searches for the easiest changes that take one step, for tests that do not depend on what they find.

At their own length they are most of the time of ``sau purify``.
"""

from __future__ import annotations

from collections.abc import Callable

from sau_cli.inspection import inverted_changes as _  # noqa: F401 (its settings are made before they are replaced)
from sau_cli.inspection import residual
from sau_cli.inversion import search
from sau_cli.inversion.search import Heat, SearchSettings
from sau_cli.unlearning import inverted_triggers

FEW = SearchSettings(heats=(Heat(arms=1, steps=1, images=4),), proposals=1, judged_on=16)


def shorten(put: Callable[[object, str, object], None] = setattr) -> None:
    """Make every search of this process short; ``put`` may be monkeypatch's own, which undoes it."""
    put(inverted_triggers, "QUICK", FEW)
    for module in (search, residual):
        put(module, "SearchSettings", lambda: FEW)
