"""The table of models in a real browser: ordered, filtered, wide, narrow, dark, printed, by keyboard and by ear."""

from __future__ import annotations

from dataclasses import replace
from importlib.resources import files
from pathlib import Path

import pytest

from sau_adapters.model_tables import write_table
from sau_cli.errors import ExitCode
from sau_cli.results import Check, CheckStatus, InputFile, Report, Verdict
from tests.integration.test_page import (  # noqa: F401 (the browser is a fixture)
    LONG,
    browser,
    inspected,
    opened,
    pytestmark,
)

NASTY = "<script>document.title = 'run'</script>"


def fleet() -> Report:
    def model(path: str, verdict: Verdict, code: ExitCode, **details: object) -> Report:
        base = replace(inspected(), outputs={}, details={}, checks=(), verdict=verdict, exit_code=code)
        return replace(base, inputs=(InputFile(path=path, sha256="0" * 64),), details=details)

    models = (
        model("m/a.safetensors", Verdict.PASSED, ExitCode.PASSED, parameters=900),
        model("m/b2.safetensors", Verdict.UNSAFE, ExitCode.UNSAFE),
        model("m/b10.safetensors", Verdict.PASSED, ExitCode.PASSED, parameters=1000),
        replace(inspected(), outputs={}, inputs=(InputFile(path=f"m/{NASTY}{LONG}", sha256="1" * 64),)),
    )
    skipped = Check(id="skipped.hidden", status=CheckStatus.SKIPPED, evidence="a hidden folder")
    return replace(inspected(), models=models, checks=(skipped,), details={"folder": "m"}, outputs={})


@pytest.fixture(scope="module")
def pages(tmp_path_factory) -> Path:
    place = tmp_path_factory.mktemp("table")
    write_table(place / "fleet.html", fleet())
    return place


def paths(page) -> list[str]:
    return page.locator("tbody tr:visible th").all_inner_texts()


@pytest.mark.parametrize(("width", "scheme"), [(1100, "light"), (1100, "dark"), (360, "light")])
def test_axe_finds_nothing_and_nothing_sticks_out(browser, pages, width, scheme):  # noqa: F811
    page = opened(browser, pages, "fleet", width=width, scheme=scheme)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    # The page lets no script run but its own, so that axe is read into it by the browser itself.
    page.evaluate((files("axe_playwright_python") / "axe.min.js").read_text(encoding="utf-8"))
    found = page.evaluate("axe.run()")
    assert found["passes"]
    assert {violation["id"]: [node["html"] for node in violation["nodes"]] for violation in found["violations"]} == {}
    page.close()


def test_the_worst_comes_first_and_a_column_orders_by_keyboard(browser, pages):  # noqa: F811
    page = opened(browser, pages, "fleet")
    first = paths(page)
    assert first[0] == "m/b2.safetensors"
    assert first[1].startswith("m/<script>")
    assert first[2:] == ["m/hidden", "m/a.safetensors", "m/b10.safetensors"]
    assert page.title() == "sau: Models under m"
    button = page.get_by_role("button", name="model", exact=True)
    button.focus()
    page.keyboard.press("Enter")
    assert paths(page)[1:] == ["m/a.safetensors", "m/b2.safetensors", "m/b10.safetensors", "m/hidden"]
    assert page.get_by_role("columnheader", name="model").get_attribute("aria-sort") == "ascending"
    page.keyboard.press("Enter")
    assert paths(page)[0] == "m/hidden"
    page.get_by_role("button", name="parameters").click()
    page.get_by_role("button", name="parameters").click()
    assert paths(page)[:2] == ["m/b10.safetensors", "m/a.safetensors"]  # and none without a number before them
    page.close()


def test_rows_are_filtered_and_that_is_said(browser, pages):  # noqa: F811
    page = opened(browser, pages, "fleet", width=360)
    page.get_by_label("Rows with the words").fill("SAFETENSORS b")
    page.get_by_label("Verdict").select_option("passed")
    assert paths(page) == ["m/b10.safetensors"]
    assert page.get_by_role("status").inner_text() == "1 of 5 are shown"
    page.get_by_label("Rows with the words").fill("")
    page.get_by_label("Order by").select_option("model")
    page.get_by_role("button", name="Turn the order round").click()
    assert paths(page) == ["m/b10.safetensors", "m/a.safetensors"]
    page.close()


def test_a_row_leads_to_its_own_page_and_what_was_not_examined_to_none(browser, pages):  # noqa: F811
    page = opened(browser, pages, "fleet")
    assert page.get_by_role("link").count() == 4
    page.get_by_role("link", name="m/b2.safetensors").click()
    assert "m/b2.safetensors" in page.locator("header").inner_text()
    assert sorted(file.name for file in (pages / "fleet.pages").iterdir()) == ["1.html", "2.html", "3.html", "4.html"]
    page.close()


def test_without_scripts_and_on_paper_it_is_a_table(browser, pages):  # noqa: F811
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto((pages / "fleet.html").as_uri())
    assert page.get_by_role("row").count() == 6
    assert not page.get_by_label("Verdict").is_visible()
    context.close()
    page = opened(browser, pages, "fleet", scheme="dark")
    page.emulate_media(media="print")
    assert not page.get_by_label("Verdict").is_visible()
    assert page.evaluate("getComputedStyle(document.body).color") == "rgb(0, 0, 0)"
    page.close()
