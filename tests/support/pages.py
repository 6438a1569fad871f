"""The pages of the project, and the commands that they show."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.conftest import ROOT

FENCE = re.compile(r"^( *)```(\S*)[^\n]*\n(.*?)^\1```", re.DOTALL | re.MULTILINE)
SHELL, TRANSCRIPT = "sh", "console"


def pages() -> list[Path]:
    """What a user or a contributor reads."""
    folders = ("docs", "examples", "adapters", "tests/benchmarks", ".github")
    found = [*ROOT.glob("*.md"), *(path for folder in folders for path in (ROOT / folder).rglob("*.md"))]
    return sorted(path for path in found if "results" not in path.parts or "docs" in path.parts)


def manual() -> str:
    """README and the pages of the manual, as one text."""
    return "\n".join(path.read_text(encoding="utf-8") for path in pages() if path.is_relative_to(ROOT / "docs")) + (
        ROOT / "README.md"
    ).read_text(encoding="utf-8")


@dataclass(frozen=True)
class Shown:
    """A command that a page shows."""

    page: str
    line: str

    @property
    def words(self) -> list[str]:
        return shlex.split(self.line, comments=True)

    def __str__(self) -> str:
        return f"{self.page}: {self.line}"


def blocks(text: str) -> Iterator[tuple[str, str]]:
    """Fenced blocks: their language, and what is in them."""
    for _, language, inside in FENCE.findall(text):
        yield language, inside


def commands() -> list[Shown]:
    """Every command of every block of shell, with lines that go on put together."""
    found = []
    for path in pages():
        for language, inside in blocks(path.read_text(encoding="utf-8")):
            if language not in {SHELL, TRANSCRIPT}:
                continue
            lines = re.sub(r"\\\n\s*", "", inside).splitlines()
            if language == TRANSCRIPT:
                lines = [line.strip().removeprefix("$ ") for line in lines if line.strip().startswith("$ ")]
            shown = [line.strip() for line in lines if line.strip() and not line.strip().startswith("#")]
            found += [Shown(str(path.relative_to(ROOT)), line) for line in shown]
    return found
