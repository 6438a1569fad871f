"""What the pages have from elsewhere is what stands there now: tables of measurements, the reference of commands."""

from __future__ import annotations

import re
import sys
from types import ModuleType

import pytest

from tests.conftest import ROOT
from tests.support.pages import pages

WITH_TABLES = [page for page in pages() if "\n<!-- table: " in page.read_text(encoding="utf-8")]


@pytest.fixture(scope="module")
def scripts() -> tuple[ModuleType, ModuleType]:
    """``tables.py`` and ``command_line.py``."""
    folder = str(ROOT / "docs" / "generate")
    sys.path.insert(0, folder)
    try:
        import command_line
        import tables
    finally:
        sys.path.remove(folder)
    yield tables, command_line
    for name in ("tables", "command_line"):
        sys.modules.pop(name, None)


def test_no_table_is_stale(scripts):
    tables, _ = scripts
    stale = [
        path.relative_to(ROOT) for path in tables.pages() if tables.written(text := path.read_text("utf-8")) != text
    ]
    assert not stale, f"run: python docs/generate/tables.py ({', '.join(map(str, stale))})"


@pytest.mark.parametrize("page", WITH_TABLES, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_stale_number_is_seen_in_every_table(scripts, page):
    """README and CHANGELOG have some too."""
    tables, _ = scripts
    text = page.read_text(encoding="utf-8")
    for marked in re.findall(r"<!-- table: \S+ -->.*?<!-- end of table -->", text, re.DOTALL):
        number = re.findall(r"\d+", marked.partition("-->")[2])[-1]
        place = text.index(marked) + marked.rindex(number)
        stale = text[:place] + str(int(number) + 1) + text[place + len(number) :]
        assert tables.written(stale) == text


def test_readme_and_changelog_have_tables():
    assert {"README.md", "CHANGELOG.md"} <= {page.name for page in WITH_TABLES}


def test_every_table_is_used_and_each_page_ends_its_tables(scripts):
    tables, _ = scripts
    text = "\n".join(path.read_text(encoding="utf-8") for path in tables.pages())
    begun = re.findall(r"^<!-- table: (\S+) -->$", text, re.MULTILINE)
    assert set(begun) == set(tables.TABLES)
    assert len(begun) == len(re.findall(r"^<!-- end of table -->$", text, re.MULTILINE))


def test_a_table_that_there_is_not_is_an_error(scripts):
    tables, _ = scripts
    with pytest.raises(KeyError):
        tables.written("<!-- table: nothing -->\n<!-- end of table -->")


def test_means_and_ranges(scripts, monkeypatch):
    tables, _ = scripts
    cell = {"axes": {"attack": "sig", "defence": "ft"}, "status": "done"}
    first = {"checks": {"acc": {"value": 0.5}, "asr.a": {"value": 0.1}, "asr.b": {"value": 0.3}}}
    second = {"checks": {"acc": {"value": 0.6}, "asr.a": {"value": 0.5}}}
    monkeypatch.setattr(tables, "cells", lambda _: (cell | first, cell | second))
    assert tables.after(tables.such("x", {"attack": "sig"})) == "55.0 / 40.0 (30.0 to 50.0)"
    assert tables.after(tables.such("x", {"attack": "lf"})) == "not run"
    assert tables.after([{"status": "impossible"}]) == "refused"


def test_the_reference_is_that_of_the_command_line(scripts):
    _, command_line = scripts
    assert command_line.PAGE.read_text(encoding="utf-8") == command_line.page(), (
        "run: python docs/generate/command_line.py"
    )


def test_the_reference_names_every_command_and_escapes_what_is_no_markup(scripts):
    _, command_line = scripts
    page = command_line.page()
    assert re.findall(r"^## (.*)$", page, re.MULTILINE) == [
        *(f"sau {name}" for name in ("inspect", "attack", "purify", "evaluate", "export", "demo")),
        "Settings of attacks",
    ]
    assert command_line._escaped("a [b] wrn_16_1 <c> --max-asr") == r"a \[b\] wrn\_16\_1 \<c\> `--max-asr`"


def test_the_transcript_in_the_readme_tells_the_rates_that_hold(scripts):
    """Where they moved, or the words did, ``docs/generate/front_page.py`` runs it again."""
    tables, _ = scripts
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    shown = " ".join(re.search(r"<!-- transcript -->(.*?)<!-- end of transcript -->", readme, re.DOTALL)[1].split())
    rates = tables.verdict_rates(with_data=True)
    for told, held in (
        (r"called (\d+) of (\d+) backdoored ones and", (rates.found, rates.backdoored)),
        (r"called (\d+) of (\d+) clean ones and", (rates.accused, rates.clean)),
    ):
        found = re.search(told, shown)
        assert found is not None, told
        assert tuple(map(int, found.groups())) == held
