"""The manual builds: strictly, so that every page is in the navigation and every link leads somewhere, and offline."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT, made_once

pytest.importorskip("mkdocs")

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
QUIET = ("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update")
PATIENCE = 300_000
OF_THE_THEME = {"aria-hidden-focus", "landmark-unique", "scrollable-region-focusable"}
"""Faults of Material itself: its hidden switches, its navigation, and its scrolled tables."""
OFFLINE = """
import socket, sys

def refuse(*_, **__):
    raise OSError("the build asked for the network")

socket.socket.connect = socket.socket.connect_ex = socket.getaddrinfo = socket.create_connection = refuse
from mkdocs.__main__ import cli
cli(["build", "--strict", "--quiet", "--site-dir", sys.argv[1]])
"""


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    def build(folder: Path) -> None:
        settings = {**os.environ, "NO_MKDOCS_2_WARNING": "1", "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'adapters'}"}
        done = subprocess.run(
            [sys.executable, "-c", OFFLINE, str(folder)],
            cwd=ROOT,
            env=settings,
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )
        assert done.returncode == 0, done.stdout + done.stderr

    return made_once(tmp_path_factory, "site", build)


def test_it_builds_strictly_without_a_network(site):
    assert (site / "index.html").is_file()
    assert "acc" in (site / "search" / "search_index.json").read_text(encoding="utf-8").lower()


def test_a_reader_needs_no_network(site):
    asks = re.compile(
        r"<(?:script|img|iframe)[^>]*src=\"(?:https?:)?//|<link[^>]*rel=\"stylesheet\"[^>]*href=\"(?:https?:)?//"
    )
    for path in site.rglob("*.html"):
        assert not asks.search(path.read_text(encoding="utf-8")), path


def test_every_verb_and_value_at_the_top_of_the_package_is_in_the_reference(site):
    import sau_cli

    text = (site / "reference" / "python.html").read_text(encoding="utf-8")
    for name in sau_cli.__all__:
        assert f'id="sau_cli.{name}"' in text, name


def test_the_scripts_of_the_manual_are_no_part_of_it(site):
    assert not list(site.rglob("*.py"))


@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")
@pytest.mark.parametrize(("scheme", "width"), [("light", 1200), ("dark", 390)])
def test_pages_can_be_read_by_all(site, scheme, width):
    """By axe-core, wide and by day, narrow and by night; and nothing is wider than a telephone."""
    from axe_playwright_python.sync_playwright import Axe
    from playwright.sync_api import sync_playwright

    with sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=list(QUIET))
        context = browser.new_context(color_scheme=scheme, viewport={"width": width, "height": 800}, offline=True)
        page = context.new_page()
        page.set_default_timeout(PATIENCE)
        for name in ("index", "start", "reference/command-line", "contributing/method", "results/verdict"):
            page.goto((site / f"{name}.html").as_uri())
            found = Axe().run(page).response["violations"]
            ours = {rule["id"]: rule["nodes"][0]["html"] for rule in found if rule["id"] not in OF_THE_THEME}
            assert not ours, (name, ours)
            assert page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth"), name
        browser.close()
