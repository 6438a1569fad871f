"""The manual builds: strictly, so that every page is in the navigation and every link leads somewhere, and offline."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT, made_once

pytest.importorskip("mkdocs")

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
