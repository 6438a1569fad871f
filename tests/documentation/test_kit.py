"""What the hosting site reads: workflows with pinned actions, forms for issues, our own hooks, an image."""

from __future__ import annotations

import re
import tomllib
from itertools import product

import pytest
import yaml

from tests.conftest import ROOT

WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
FORMS = sorted(path for path in (ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml") if path.name != "config.yml")


@pytest.mark.parametrize("path", [*WORKFLOWS, ROOT / "action.yml"], ids=lambda path: path.name)
def test_actions_are_pinned_by_commit_with_their_version_beside(path):
    uses = re.findall(r"^\s*(?:- )?uses: (.*)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    assert uses
    for use in uses:
        assert re.fullmatch(r"[\w./-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", use), use


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_a_workflow_may_only_read_unless_a_job_says_otherwise_and_ends_in_time(path):
    workflow = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert workflow["permissions"] == {"contents": "read"}
    assert all(job["timeout-minutes"] <= 90 for job in workflow["jobs"].values())


def test_the_tests_run_on_three_systems_and_every_python_that_is_declared():
    matrix = yaml.safe_load((ROOT / ".github" / "workflows" / "tests.yml").read_text("utf-8"))["jobs"]["tests"][
        "strategy"
    ]["matrix"]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    declared = [
        classifier.rpartition(" ")[2] for classifier in project["classifiers"] if re.search(r":: 3\.\d+$", classifier)
    ]
    assert matrix["python"] == declared
    assert len(list(product(matrix["os"], matrix["python"]))) == 9


def test_a_release_holds_no_token():
    text = (ROOT / ".github" / "workflows" / "release.yml").read_text(encoding="utf-8")
    assert "secrets." not in text
    jobs = yaml.safe_load(text)["jobs"]
    assert jobs["publish"]["permissions"] == {"id-token": "write"}
    assert "permissions" not in jobs["build"], "what builds cannot publish"


@pytest.mark.parametrize("path", FORMS, ids=lambda path: path.name)
def test_a_form_asks_with_ids_that_differ(path):
    form = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert form["name"]
    assert form["description"]
    asked = [part["id"] for part in form["body"] if part["type"] != "markdown"]
    assert len(set(asked)) == len(asked) > 1


def test_our_own_hooks_are_what_lint_runs():
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))["repos"][0]["hooks"]
    assert {"ruff-format", "ruff", "mypy"} <= {hook["id"] for hook in hooks}
    for hook in hooks:
        for named in re.findall(r"tests/\S+\.py", hook["entry"]):
            assert (ROOT / named).is_file()


def test_the_image_runs_as_an_ordinary_user_and_copies_what_there_is():
    lines = (ROOT / "Dockerfile").read_text(encoding="utf-8").splitlines()
    last = max(place for place, line in enumerate(lines) if line.startswith("FROM "))
    assert "USER gate" in lines[last:]
    kept = re.findall(r"^!(\S+)$", (ROOT / ".dockerignore").read_text(encoding="utf-8"), re.MULTILINE)
    copied = [
        name for line in lines if line.startswith("COPY ") and "--from" not in line for name in line.split()[1:-1]
    ]
    assert sorted(kept) == sorted(copied)
    assert all((ROOT / name).exists() for name in copied)


def test_the_guide_runs_the_image_as_it_says_itself():
    """A read-only image has nowhere to write but what it is given."""
    guide = (ROOT / "docs" / "guides" / "ci.md").read_text(encoding="utf-8")
    (command,) = re.findall(r"^#   (docker run .*)$", (ROOT / "Dockerfile").read_text(encoding="utf-8"), re.MULTILINE)
    assert command in guide


def test_every_citation_field_that_readers_need():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert {"cff-version", "title", "authors", "version", "license", "message"} <= set(citation)
    assert citation["preferred-citation"]["year"] == 2023
