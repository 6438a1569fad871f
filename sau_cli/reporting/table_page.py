"""Models as one page with a table that sorts and filters, each row with a link to the model's own page."""

from __future__ import annotations

import base64
import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from importlib.resources import files

from sau_cli.reporting.html import pages
from sau_cli.reporting.model_table import SKIPPED, ModelRow
from sau_cli.results import Verdict

VERDICT_ORDER = (
    *(Verdict.UNSAFE, Verdict.FAILED, Verdict.ERROR, Verdict.NOT_EVALUATED, Verdict.INCONCLUSIVE),
    *(Verdict.INTERRUPTED, SKIPPED, Verdict.MEASURED, Verdict.PASSED),
)
"""The worst first, which is the order of the table."""


def table_page(rows: Sequence[ModelRow], links: Sequence[str], *, title: str, version: str) -> Iterator[str]:
    """The page, piece by piece. It reads without its script, which is part of it and alone may run.

    Args:
        links: the address of each row's own page; nothing where it has none.
        title: what the models are, for people.
        version: of the tool.
    """
    script = (files("sau_cli.reporting") / "table.js").read_text(encoding="utf-8")
    counts = Counter(row.verdict for row in rows)
    found = [str(verdict) for verdict in VERDICT_ORDER if counts[str(verdict)]]
    ordered = sorted(zip(rows, links, strict=True), key=lambda pair: (found.index(pair[0].verdict), pair[0].path))
    return (
        pages()
        .get_template("table.html.jinja")
        .generate(
            title=title,
            told=", ".join(f"{counts[verdict]} {verdict}" for verdict in found),
            verdicts=[(verdict, counts[verdict]) for verdict in found],
            rows=ordered,
            ranks={verdict: rank for rank, verdict in enumerate(found)},
            script=script,
            script_hash=_hash_of(script),
            version=version,
        )
    )


def page_names(rows: Iterable[ModelRow]) -> list[str]:
    """A file name for each row's own page, such as ``1.html``; nothing for what was not examined."""
    return ["" if row.verdict == SKIPPED else f"{number}.html" for number, row in enumerate(rows, start=1)]


def _hash_of(script: str) -> str:
    """As a content security policy names the one script that may run."""
    return f"sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}"
