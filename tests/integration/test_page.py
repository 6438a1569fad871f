"""The page in a real browser: wide, narrow, dark, printed, by keyboard, and as a screen reader has it."""

from __future__ import annotations

import shutil
from base64 import b64encode
from collections.abc import Iterator
from dataclasses import replace
from importlib.resources import files
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sau_cli.errors import ExitCode
from sau_cli.reporting.formats import ReportFormat, rendered
from sau_cli.results import Check, CheckStatus, InputFile, Report, Verdict

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")
QUIET = ("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update")
PATIENCE = 300_000
"""Milliseconds, for machines that do other work besides."""


def picture(width: int = 8, height: int = 8) -> str:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    stream = BytesIO()
    Image.fromarray(pixels).save(stream, format="PNG")
    return b64encode(stream.getvalue()).decode()


RECOVERED = [{"kind": "square to stop sign", "success": 0.98, "png": picture(3 * 8 + 4)}]
LONG = "a-very-long-name-without-a-break/" * 8 + "model.safetensors"


def inspected() -> Report:
    """Everything that a page of one model can have."""
    seeds = [{"anomaly_index": {"maximum-margin": [float(n) for n in range(20)], "inverted-patch": [-1.0] * 20}}]
    kinds = {"square": {"class": "stop sign", "score": 4.1, "success": 0.98}}
    step = {"step": "purify", "settings": {"method": "sau", "x": "y" * 300}, "seed": 0, "input_sha256": "1" * 64}
    description = {"architecture": "small_cnn", "class_names": ["a"] * 20, "history": [step]}
    description["input"] = {"channels": 3, "height": 32, "width": 32}
    checks = [
        Check(id=f"check.{status.value}", status=status, evidence=f"so it {status.value} " * 9, value=0.5)
        for status in CheckStatus
    ]
    checks += [
        Check(id=f"{prefix}acc", status=CheckStatus.MEASURED, evidence="x", value=value, ci95=(value - 0.1, value))
        for prefix, value in (("", 0.9), ("reference.", 0.95))
    ]
    return Report(
        tool_version="0.1.0",
        command="inspect",
        inputs=(InputFile(path=LONG, sha256="0" * 64),),
        verdict=Verdict.FAILED,
        exit_code=ExitCode.LIMIT_FAILED,
        checks=tuple(checks),
        environment={},
        outputs={"weights": InputFile(path=LONG, sha256="2" * 64)},
        details={
            "file": {"format": "safetensors", "size_bytes": 123456, "tensors": [1], "description": description},
            "chain": [{"what": "received", "sha256": "3" * 64, "told_by": "the statement"}],
            "behaviour": {
                "seeds": seeds,
                "classes_examined": [f"class {number}" for number in range(20)],
                "most_suspicious_class": "class 3",
                "suspected_class": "class 3",
                "recovered": RECOVERED,
            },
            "residual": {
                "cleared": False,
                "suspected_class": "stop sign",
                "score": 4.1,
                "limit": 0.9,
                "kinds": kinds,
                "recovered": RECOVERED,
            },
            "comparison": {
                "images": 100,
                "changed": 1,
                "lost": 1,
                "gained": 0,
                "shown": [{"png": picture(), "class": "a", "before": "a", "after": "b"}],
                "triggers": [RECOVERED[0] | {"says": "badnets: 100.0 % before, 0.0 % after"}],
            },
        },
    )


def folder() -> Report:
    one = replace(inspected(), outputs={})
    return replace(one, models=(one, replace(one, verdict=Verdict.MEASURED)), details={"folder": "m"}, outputs={})


def refused() -> Report:
    lost = replace(inspected(), checks=(), details={}, outputs={}, verdict=Verdict.NOT_EVALUATED)
    return replace(lost, error=f"{LONG} does not exist; give another")


REPORTS = {"inspected": inspected, "folder": folder, "refused": refused}


@pytest.fixture(scope="module")
def browser() -> Iterator:
    driver = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with driver.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=CHROMIUM, args=list(QUIET), timeout=PATIENCE)
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def pages(tmp_path_factory) -> Path:
    place = tmp_path_factory.mktemp("pages")
    for name, make in REPORTS.items():
        (place / f"{name}.html").write_text(rendered(make(), ReportFormat.HTML), encoding="utf-8")
    return place


def opened(browser, pages: Path, name: str, *, width: int = 1100, scheme: str = "light"):
    page = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
    page.set_default_timeout(PATIENCE)
    page.goto((pages / f"{name}.html").as_uri())
    return page


@pytest.mark.long
@pytest.mark.parametrize("name", REPORTS)
@pytest.mark.parametrize(("width", "scheme"), [(1100, "light"), (1100, "dark"), (360, "light")])
def test_axe_finds_nothing_and_nothing_sticks_out(browser, pages, name, width, scheme):
    page = opened(browser, pages, name, width=width, scheme=scheme)
    page.evaluate("document.querySelectorAll('details').forEach(one => { one.open = true })")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.add_script_tag(content=(files("axe_playwright_python") / "axe.min.js").read_text(encoding="utf-8"))
    found = page.evaluate("axe.run()")
    told = {violation["id"]: [node["html"] for node in violation["nodes"]] for violation in found["violations"]}
    assert found["passes"]
    assert told == {}
    page.close()


def test_nothing_is_fetched(browser, pages):
    page = browser.new_page()
    page.set_default_timeout(PATIENCE)
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto((pages / "inspected.html").as_uri(), wait_until="networkidle")
    assert [url for url in asked if not url.startswith("data:")] == [(pages / "inspected.html").as_uri()]
    assert page.evaluate("[...document.images].every(one => one.complete && one.naturalWidth > 0)")
    page.close()


def test_the_decision_comes_first_for_those_who_hear_it(browser, pages):
    """A narrow page lays tables out as blocks; they are tables for a screen reader all the same."""
    page = opened(browser, pages, "inspected", width=360)
    heads = page.get_by_role("heading").all_inner_texts()
    assert heads[0].startswith("Do not use this model")
    assert heads[1:3] == ["What to do next", "What was not examined"]
    assert page.get_by_role("main").count() == 1
    assert page.get_by_role("table", name="Checks").get_by_role("row").count() == len(inspected().checks) + 1
    assert page.get_by_role("img", name="The difference of the two").count() == 3
    page.close()


def test_the_keyboard_opens_what_is_folded(browser, pages):
    page = opened(browser, pages, "inspected")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    assert page.get_by_role("region", name="The whole report").is_visible()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.tagName") == "PRE"
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    page.close()
    page = opened(browser, pages, "folder")
    assert not page.get_by_role("table", name="Checks").first.is_visible()
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    assert page.get_by_role("table", name="Checks").first.is_visible()
    page.close()


def test_paper_shows_what_is_folded_but_not_the_document(browser, pages):
    page = opened(browser, pages, "folder")
    page.emulate_media(media="print")
    assert page.evaluate("document.querySelector('details table').getBoundingClientRect().height") > 0
    assert len(page.pdf(format="A4")) > 1000
    page.close()
    page = opened(browser, pages, "inspected", scheme="dark")
    page.emulate_media(media="print")
    assert not page.get_by_text("JSON").is_visible()
    assert page.evaluate("getComputedStyle(document.body).color") == "rgb(0, 0, 0)"
    page.close()
