"""Links between files of the repository lead somewhere; those within the manual are MkDocs's to check."""

from __future__ import annotations

import re

import pytest

from tests.conftest import ROOT
from tests.support.pages import pages

OUTSIDE = [path for path in pages() if not path.is_relative_to(ROOT / "docs")]


def anchors(text: str) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    heads = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", head.lower()).strip().replace(" ", "-") for head in heads}


@pytest.mark.parametrize("path", OUTSIDE, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(path):
    text = path.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", target):
            continue
        file, _, anchor = target.partition("#")
        led = (path.parent / file).resolve() if file else path
        assert led.exists(), target
        if anchor and led.suffix == ".md":
            assert anchor in anchors(led.read_text(encoding="utf-8")), target


@pytest.mark.parametrize("path", pages(), ids=lambda path: str(path.relative_to(ROOT)))
def test_files_that_are_named_are_there(path):
    """Paths in code, such as ``examples/ci/gitlab-ci.yml``."""
    text = re.sub(r"^( *)```.*?^\1```", "", path.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    if path.name == "CHANGELOG.md" or path.is_relative_to(ROOT / "docs" / "contributing"):
        return
    for named in re.findall(r"`((?:docs|examples|tests|sau_cli|adapters)/[\w./-]+)`", text):
        assert (ROOT / named).exists() or "results/" in named, named
