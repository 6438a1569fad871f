"""What exists is documented, and what is documented exists."""

from __future__ import annotations

import re
import tomllib

import pytest

from sau_adapters.weights.formats import FORMATS
from sau_cli.attacks.table import ATTACKS
from sau_cli.errors import ExitCode
from sau_cli.inspection.behaviour_tests import TESTS
from sau_cli.inspection.calibration import CHANNEL_BOUNDS
from sau_cli.inspection.effort import EASIEST_CHANGE
from sau_cli.reporting.formats import ReportFormat
from sau_cli.unlearning.methods import MethodName
from tests.conftest import ROOT

COMMANDS = ("inspect", "attack", "purify", "evaluate", "export", "demo")
EVERYWHERE = {"--json", "--quiet", "--verbose", "--force", "--help"}
README = (ROOT / "README.md").read_text(encoding="utf-8")


def options(text: str) -> set[str]:
    return set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", text))


@pytest.fixture(scope="module")
def help_of(sau, tmp_path_factory):
    folder = tmp_path_factory.mktemp("help")
    return {name: sau(name, "--help", cwd=folder, COLUMNS="200").out for name in COMMANDS}


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_with_examples_and_the_common_options(help_of, name):
    text = help_of[name]
    assert "Examples:" in text
    assert f"sau {name}" in text
    assert options(text) >= EVERYWHERE
    assert "\\b" not in text
    examples = text[text.index("Examples:") : text.index("Arguments:" if "Arguments:" in text else "Options:")]
    assert sum(line.startswith(f"    sau {name} ") for line in examples.splitlines()) >= 2
    assert max(map(len, examples.splitlines())) <= 80


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_is_shown_in_the_readme(name):
    assert f"`sau {name}" in README


def test_every_extra_is_on_the_page_that_says_how_to_install():
    page = (ROOT / "docs" / "start.md").read_text(encoding="utf-8")
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    assert set(re.findall(r"sau-cli\[(\w+)\]", page)) == set(extras)


def test_every_attack_is_in_its_guide():
    guide = (ROOT / "docs" / "guides" / "attack.md").read_text(encoding="utf-8")
    for name in ATTACKS:
        assert f"`{name}`" in guide, name


def test_every_method_is_in_its_guide_and_told_by_the_help(help_of):
    guide = (ROOT / "docs" / "guides" / "purify.md").read_text(encoding="utf-8")
    told = "".join(help_of["purify"].split())
    for method in MethodName:
        assert f"`{method}`" in guide or f"`--method {method}`" in guide, method
        assert method.what.replace(" ", "") in told, method


def test_every_format_is_a_value_of_a_policy():
    page = (ROOT / "docs" / "reference" / "settings.md").read_text(encoding="utf-8")
    (row,) = re.findall(r"^\| `allowed-formats` .*$", page, re.MULTILINE)
    assert [name for name in FORMATS if f'"{name}"' not in row] == []


def test_every_form_of_a_report_is_in_the_reference():
    page = (ROOT / "docs" / "reference" / "report.md").read_text(encoding="utf-8")
    for form in ReportFormat:
        assert f"`{form}`" in page, form


def test_every_test_of_behaviour_is_explained():
    page = (ROOT / "docs" / "concepts" / "behaviour-tests.md").read_text(encoding="utf-8")
    for name in (*(test.id for test in TESTS), CHANNEL_BOUNDS, EASIEST_CHANGE):
        assert f"`{name}`" in page, name


def test_the_examples_of_the_help_use_options_that_exist(help_of):
    for name, text in help_of.items():
        example = text[text.index("Examples:") : text.index("Options:")]
        assert options(example) <= options(text[text.index("Options:") :]), name


def test_every_exit_code_is_in_the_readme_the_manual_and_the_help(sau, tmp_path):
    text = sau("--help", cwd=tmp_path).out
    reference = (ROOT / "docs" / "reference" / "exit-codes.md").read_text(encoding="utf-8")
    for code in ExitCode:
        assert re.search(rf"\| {code.value} \|", README), code
        assert re.search(rf"\| {code.value} \|", reference), code
        assert re.search(rf"\b{code.value} ", text), code


def test_every_command_is_in_the_first_help(sau, tmp_path):
    text = sau("--help", cwd=tmp_path, COLUMNS="80").out
    assert set(COMMANDS) <= set(text.split())
    assert max(map(len, text.splitlines())) <= 80
    assert "...\n" not in text[text.index("Commands:") :], "what a command does is not cut short"


def test_completion_can_be_installed(sau, tmp_path):
    assert "--install-completion" in sau("--help", cwd=tmp_path).out


def test_the_version_is_that_of_the_package(sau, tmp_path):
    import sau_cli

    assert sau("--version", cwd=tmp_path).out == f"sau {sau_cli.__version__}\n"
    assert f'version = "{sau_cli.__version__}"' in (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert f"\nversion: {sau_cli.__version__}\n" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"## {sau_cli.__version__} - " in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
