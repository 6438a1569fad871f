"""The package from the outside: what it exports, what it is built from, and that its examples run."""

from __future__ import annotations

import ast
import doctest
import importlib
import pkgutil
import re
import sys
import tomllib
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import sau_cli
from tests.conftest import ROOT


def modules() -> list[str]:
    found = []
    for package in ("sau_cli", "sau_adapters"):
        module = importlib.import_module(package)
        found += [package, *(module_info.name for module_info in pkgutil.walk_packages(module.__path__, f"{package}."))]
    return [name for name in found if not name.endswith("__main__")]


@pytest.mark.parametrize("name", modules())
def test_every_module_says_what_it_is_and_its_examples_are_true(name):
    module = importlib.import_module(name)
    assert module.__doc__ or not module.__file__.endswith(".py") or is_empty(module.__file__), name
    assert doctest.testmod(module).failed == 0


def is_empty(path: str) -> bool:
    return not Path(path).read_text(encoding="utf-8").strip()


def test_the_five_verbs_and_their_values_are_at_the_top():
    assert {"inspect", "attack", "purify", "evaluate", "export"} <= set(sau_cli.__all__)
    for name in sau_cli.__all__:
        assert getattr(sau_cli, name) is not None
    assert set(sau_cli.__all__) == set(sau_cli._HOME)
    with pytest.raises(AttributeError):
        _ = sau_cli.nothing


def imports_of(path: Path) -> set[str]:
    """Every module that a file imports, at its top or inside a function."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(str(node.module))
    return found


def test_the_library_knows_no_command_line_and_no_adapter():
    """Arrows point inward: only the commands import typer and the adapters."""
    for path in (ROOT / "sau_cli").rglob("*.py"):
        if "commands" in path.parts or path.name in {"app.py", "__main__.py"}:
            continue
        outside = {name.partition(".")[0] for name in imports_of(path)}
        assert not outside & {"typer", "sau_adapters", "safetensors", "onnx", "onnxruntime", "timm", "torchvision"}, (
            path
        )


def test_the_adapters_know_no_commands():
    for path in (ROOT / "adapters").rglob("*.py"):
        assert not any(name.startswith(("sau_cli.commands", "sau_cli.app")) for name in imports_of(path)), path


FLAG = re.compile(r"(?<![\w-])(--[a-z][a-z-]+|-[od](?![\w-]))")
OF_OTHERS = {"--revision", "--saved-model", "--output", "--address"}
"""Flags of the programs that a sentence says to run."""
OF_COMMANDS = {"sau_cli/app.py", "sau_cli/reporting/decision.py"}
"""The command line itself, and what to run next."""


def texts_of(path: Path) -> Iterator[str]:
    """Every text in a file that is no docstring."""
    nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    docstrings = {id(node.value) for node in nodes if isinstance(node, ast.Expr)}
    for node in nodes:
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
            yield node.value


def test_the_library_names_arguments_and_not_flags():
    for path in (*(ROOT / "sau_cli").rglob("*.py"), *(ROOT / "adapters").rglob("*.py")):
        if "commands" in path.parts or path.relative_to(ROOT).as_posix() in OF_COMMANDS:
            continue
        for text in texts_of(path):
            assert not set(FLAG.findall(text)) - OF_OTHERS, (path, text)


FLOORS = (
    ("errors", "seeding"),
    ("fleet",),
    ("triggers", "predictions", "inversion"),
    ("training",),
    ("evaluation", "reporting"),
    ("attacks", "unlearning", "inspection", "exporting", "gating"),
    ("drill",),
    ("commands",),
    ("app",),
)
"""From the ground up: a room knows those below it, and none beside it or above."""


def rooms_known() -> dict[str, set[str]]:
    """Each module or package right under sau_cli, with those that it imports from."""
    known: dict[str, set[str]] = {}
    for path in (ROOT / "sau_cli").rglob("*.py"):
        room = path.relative_to(ROOT / "sau_cli").with_suffix("").parts[0]
        named = (name.split(".") for name in imports_of(path) if name.startswith("sau_cli."))
        known.setdefault(room, set()).update(parts[1] for parts in named if parts[1] != room)
    return known


def test_no_room_of_the_library_leads_back_to_itself():
    order = tuple(TopologicalSorter(rooms_known()).static_order())  # raises CycleError
    assert order.index("triggers") < order.index("attacks") < order.index("commands")


def test_no_arrow_points_up():
    floor = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
    known = rooms_known()
    packages = {path.parent.name for path in (ROOT / "sau_cli").glob("*/__init__.py")}
    assert packages <= set(floor), "every package has its floor"
    assert set(floor) <= set(known)
    for room, number in floor.items():
        up = {other for other in known[room] if other in floor and floor[other] >= number}
        assert not up, f"{room} is on floor {number} and knows {', '.join(sorted(up))}"


def test_every_import_is_a_declared_dependency():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = [requirement for extra in project["optional-dependencies"].values() for requirement in extra]
    declared = {re.split(r"[><=]", requirement)[0] for requirement in [*project["dependencies"], *extras]}
    files = [path for folder in ("sau_cli", "adapters") for path in (ROOT / folder).rglob("*.py")]
    used = {name.partition(".")[0] for path in files for name in imports_of(path)}
    renamed = {"PIL": "pillow", "sklearn": "scikit-learn", "skimage": "scikit-image", "google": "onnx"}
    renamed |= {"onnx_ir": "onnx-ir", "huggingface_hub": "huggingface-hub"}
    renamed |= {"cyclonedx": "cyclonedx-python-lib", "model_signing": "model-signing"}
    outside = {renamed.get(name, name) for name in used - set(sys.stdlib_module_names) - {"sau_cli", "sau_adapters"}}
    assert outside <= declared


LONGEST_BODY = 40
"""Lines of a command's function, without its signature and docstring."""


def bodies_of(path: Path) -> Iterator[tuple[str, int]]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef):
            code = [part for part in node.body if not isinstance(part, ast.Expr) or not _is_text(part)]
            yield node.name, (node.end_lineno or 0) - code[0].lineno + 1 if code else 0


def _is_text(part: ast.Expr) -> bool:
    return isinstance(part.value, ast.Constant) and isinstance(part.value.value, str)


def test_no_function_of_a_command_is_longer_than_a_screen():
    for path in (ROOT / "sau_cli" / "commands").glob("*.py"):
        longest = [(name, lines) for name, lines in bodies_of(path) if lines > LONGEST_BODY]
        assert not longest, path


CONVENTIONS = {"BLOCKS", "BOTTLENECK", "EXPANSION", "SQUEEZE", "STAGES", "STEM", "WIDTHS"}
"""Sizes of a network, in each file of ``architectures/cifar_networks`` that has such."""
SAYS_NOTHING = {"it", "one", "thing"}


def defined_in(path: Path) -> Iterator[str]:
    """Every class of a module, and every constant."""
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ClassDef):
            yield node.name
        for target in getattr(node, "targets", [getattr(node, "target", None)]):
            for part in ast.walk(target) if isinstance(target, ast.AST) else ():
                if isinstance(part, ast.Name) and part.id.isupper():
                    yield part.id


def test_a_name_of_a_class_or_a_constant_has_one_meaning():
    homes: dict[str, set[str]] = {}
    for path in (path for folder in ("sau_cli", "adapters") for path in (ROOT / folder).rglob("*.py")):
        for name in defined_in(path):
            homes.setdefault(name, set()).add(path.relative_to(ROOT).as_posix())
    several = {name: sorted(paths) for name, paths in homes.items() if len(paths) > 1}
    assert {name: paths for name, paths in several.items() if name not in CONVENTIONS} == {}
    outside = [path for name in CONVENTIONS for path in several[name] if "/cifar_networks/" not in path]
    assert not outside


def loop_variables(path: Path) -> Iterator[tuple[int, str]]:
    """Of loops, comprehensions and lambdas."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Lambda):
            yield from ((node.lineno, part.arg) for part in ast.walk(node.args) if isinstance(part, ast.arg))
        elif isinstance(node, ast.For | ast.comprehension):
            yield from ((part.lineno, part.id) for part in ast.walk(node.target) if isinstance(part, ast.Name))


def test_a_loop_variable_says_what_it_holds():
    for folder in ("sau_cli", "adapters", "examples", "docs", "tests"):
        for path in (ROOT / folder).rglob("*.py"):
            assert not [(line, name) for line, name in loop_variables(path) if name in SAYS_NOTHING], path
