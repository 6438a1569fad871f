"""Every command that a page shows can be typed: its words parse, and what it names is there."""

from __future__ import annotations

import ast
import re
import shlex
import tomllib
from functools import cache
from itertools import takewhile
from pathlib import Path

import pytest
import typer

from sau_cli.app import composed
from sau_cli.attacks.table import ATTACKS, attack_class
from sau_cli.commands.fleet_options import with_ray_address
from sau_cli.errors import UsageError
from tests.conftest import ROOT
from tests.support.pages import Shown, blocks, commands, manual, pages

LANGUAGES = {"sh", "console", "text", "toml", "python", "json", "yaml"}
ONLY_ELSEWHERE = {"docker", "echo", "openssl"}
"""Programs whose words are theirs alone."""


def parse(words: list[str]) -> None:
    """The words of one ``sau`` command, as the command line would read them, without running it.

    Raises:
        Exception: of Typer, where they do not parse.
    """
    words = with_ray_address(list(takewhile(lambda word: word not in {"|", ">", "2>", "||", "&&", ";"}, words)))
    group = typer.main.get_command(composed(words))
    if not words or words[0].startswith("-"):
        group.make_context("sau", words, resilient_parsing=True)
        return
    command = group.commands[words[0]]  # type: ignore[attr-defined]
    asks = bool({"--help", "-h", "--list"} & set(words))
    with command.make_context(words[0], words[1:], resilient_parsing=asks):
        if asks:
            known = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)} | {
                "--help",
                "-h",
            }
            assert {word for word in words if word.startswith("-")} <= known, words


def test_the_checker_rejects_what_is_not_there():
    parse(["inspect", "x.pth", "--data", "clean/"])
    parse(["attack", "--attack", "sig", "--frequency", "3", "-o", "x.safetensors"])
    for wrong in (
        ["inspect", "x.pth", "--dta", "clean/"],
        ["inspect"],
        ["purify", "x.pth", "y.pth"],
        ["purify", "x.pth", "--method", "magic"],
        ["purify", "x.pth", "--epochs", "many"],
        ["attack", "--attack", "badnets", "--frequency", "3"],
        ["attack", "--attack", "badnets", "--frequency", "--help"],
        ["cure", "x.pth"],
    ):
        with pytest.raises((typer.TyperException, AssertionError, KeyError, UsageError)):
            parse(wrong)


@pytest.mark.parametrize("shown", commands(), ids=str)
def test_a_command_shown_can_be_typed(shown, monkeypatch):
    monkeypatch.chdir(ROOT)
    check(shown, shown.words)


ADDED = {
    "attack.md": ("stripe", "examples/own_attack.py:Stripe"),
    "method.md": ("bn", "ft"),
    "behaviour-test.md": ("noise-answers", "maximum-margin"),
}
"""What a page for contributors adds, and what stands for it here; ``test_contributing.py`` runs commands like these."""


def check(shown: Shown, words: list[str]) -> None:
    if shown.page.startswith("docs/contributing/"):
        added, known = ADDED.get(Path(shown.page).name, ("", ""))
        words = [known if word == added else word for word in words]
    while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
        words = words[1:]
    match words:
        case ["sau", *rest]:
            parse(rest)
        case ["torchrun", *rest] | ["accelerate", *rest] if "sau_cli" in rest:
            parse(rest[rest.index("sau_cli") + 1 :])
        case ["python", "-m", "pytest", *rest]:
            assert all((ROOT / word).exists() for word in rest if word.startswith("tests/")), shown
        case ["python", "-m", module, *rest]:
            source = next(
                (
                    ROOT / base / f"{module.replace('.', '/')}.py"
                    for base in (".", "adapters")
                    if (ROOT / base / f"{module.replace('.', '/')}.py").is_file()
                ),
                None,
            )
            assert source is not None, shown
            assert_flags(rest, source)
        case ["python", script, *rest]:
            assert_flags(rest, ROOT / script)
        case ["make", *targets]:
            makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
            assert all(re.search(rf"^{target}:", makefile, re.MULTILINE) for target in targets), shown
        case ["pip", "install", *what]:
            assert_extras(what)
        case [program, *_] if program in ONLY_ELSEWHERE:
            pass
        case _:
            pytest.fail(f"{shown}: no check knows this program; add one")


def assert_flags(words: list[str], source: Path) -> None:
    """Options of a script of ours stand in its source."""
    text = source.read_text(encoding="utf-8")
    for word in words:
        if word.startswith("--") and word != "--help":
            assert f'"{word.partition("=")[0]}"' in text, (word, source)


def assert_extras(what: list[str]) -> None:
    known = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    for requirement in what:
        for extra in re.findall(r"\[(.*?)\]", requirement):
            assert extra in known, requirement


def test_every_block_names_its_language():
    for path in pages():
        for language, inside in blocks(path.read_text(encoding="utf-8")):
            assert language in LANGUAGES, (path, language, inside[:80])


@pytest.mark.parametrize(
    ("path", "inside"),
    [(path, inside) for path in pages() for language, inside in blocks(path.read_text()) if language == "python"],
    ids=lambda path: path.name if isinstance(path, Path) else "",
)
def test_python_shown_is_python(path, inside):
    lines = inside.splitlines()
    indent = min((len(line) - len(line.lstrip()) for line in lines if line.strip()), default=0)
    text = "\n".join(line[indent:] for line in lines)
    ast.parse(f"_ = {{{text}}}" if re.fullmatch(r'"[\w-]+": .*,', text.strip()) else text, str(path))


@pytest.mark.parametrize(
    ("path", "inside"),
    [(path, inside) for path in pages() for language, inside in blocks(path.read_text()) if language == "toml"],
    ids=lambda path: path.name if isinstance(path, Path) else "",
)
def test_settings_shown_are_settings(path, inside, tmp_path):
    from sau_cli.commands.project_defaults import read_defaults

    found = tomllib.loads(inside)
    if "grid" in found or "project" in found:  # examples/reproduce has settings of its own
        return
    (tmp_path / "sau.toml").write_text(inside, encoding="utf-8")
    assert read_defaults(tmp_path).policy is not None


@cache
def known_flags() -> set[str]:
    """Every option of ``sau`` and of the scripts that come with it."""
    found = {"--help", "--version", "--install-completion", "--show-completion"}
    for command in typer.main.get_command(composed()).commands.values():  # type: ignore[attr-defined]
        found |= {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}
    for name in ATTACKS:
        found |= {f"--{flag.replace('_', '-')}" for flag in attack_class(name).flags()}
    scripts = [*(ROOT / "examples").rglob("*.py"), *(ROOT / "tests" / "benchmarks").glob("*.py")]
    return found | {flag for path in scripts for flag in re.findall(r'"(--[a-z][a-z-]*)"', path.read_text("utf-8"))}


def test_every_flag_in_a_sentence_exists():
    foreign = {"--nproc_per_node", "--multi_gpu"}  # of torchrun and accelerate
    for path in pages():
        if path.name == "CHANGELOG.md":  # what once was
            continue
        text = re.sub(r"^( *)```.*?^\1```", "", path.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
        for code in re.findall(r"`([^`\n]+)`", text):
            for flag in re.findall(r"(?<![\w-])--[a-z][a-z_-]*", code):
                assert flag in known_flags() | foreign, (str(path), code)


def test_every_sau_command_in_a_sentence_parses_or_is_cut_short():
    """Whole commands in running text; those with ``...``, ``|`` or ``NAME`` are patterns."""
    for path in pages():
        text = re.sub(r"^( *)```.*?^\1```", "", path.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
        for code in re.findall(r"`(sau [a-z]+ [^`]+)`", text):
            words = shlex.split(code)
            if not any("..." in word or "|" in word or word == "NAME" for word in words):
                parse(words[1:])


def test_every_option_is_in_the_manual():
    text = manual()
    for command in typer.main.get_command(composed()).commands.values():  # type: ignore[attr-defined]
        for parameter in command.params:
            if parameter.param_type_name == "option":
                assert any(re.search(rf"(?<![\w-]){name}(?![\w-])", text) for name in parameter.opts), parameter.opts
