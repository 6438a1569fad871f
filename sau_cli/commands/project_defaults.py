"""Defaults and policy of a project: ``sau.toml``, or ``[tool.sau]`` in ``pyproject.toml``, in the working folder."""

from __future__ import annotations

import difflib
import tomllib
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from sau_adapters.weights.formats import FORMATS
from sau_cli.errors import UsageError, reason_of
from sau_cli.gating.policy import Policy, parse_policy


@dataclass(frozen=True, slots=True, kw_only=True)
class ProjectDefaults:
    """What the file may set: each key is the flag of that name, and counts after the flag and the model's metadata."""

    data: str | None = None
    data_root: str | None = None
    arch: str | None = None
    image_size: str | int | None = None
    normalisation: str | None = None
    clean_frac: float | None = None
    policy: Policy | None = None


def read_defaults(folder: Path) -> ProjectDefaults:
    """The defaults of a folder; none where it has no such file.

    Raises:
        UsageError: the file is no TOML, or has a key or a value that means nothing here.
    """
    own, shared = folder / "sau.toml", folder / "pyproject.toml"
    if own.is_file():
        return _checked(_parsed(own), own)
    if shared.is_file():
        tools = _parsed(shared).get("tool", {})
        table = tools.get("sau", {}) if isinstance(tools, dict) else None
        if not isinstance(table, dict):
            raise UsageError(f"{shared.name} has a [tool.sau] that is no table; repair or remove it")
        return _checked(table, shared)
    return ProjectDefaults()


def read_policy(path: Path) -> Policy:
    """The policy of a TOML file that was named: its ``[policy]`` table.

    Raises:
        UsageError: there is no such file or table, or a rule means nothing.
    """
    if not path.is_file():
        raise UsageError(f"--policy {path} is no file that exists; give a TOML file with a [policy] table")
    table = _parsed(path).get("policy")
    if not isinstance(table, dict):
        raise UsageError(f"--policy {path} has no [policy] table; add one")
    return parse_policy(table, path.name, formats=FORMATS)


def _parsed(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError, RecursionError, OverflowError) as error:
        raise UsageError(f"{path.name} cannot be read ({reason_of(error)}); repair it") from error


def _checked(table: dict[str, Any], path: Path) -> ProjectDefaults:
    policy = table.pop("policy", None)
    if policy is not None and not isinstance(policy, dict):
        raise UsageError(f"{path.name} sets policy to {policy!r}; give a [policy] table")
    known = {field.name.replace("_", "-"): field.name for field in fields(ProjectDefaults) if field.name != "policy"}
    for key, value in table.items():
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"known keys are {', '.join(known)}"
            raise UsageError(f"{path.name} has a key {key!r} that sau does not know; {hint}")
        allowed: tuple[type, ...] = (str,)
        if key == "clean-frac":
            allowed = (int, float)
        elif key == "image-size":
            allowed = (int, str)
        if not isinstance(value, allowed) or isinstance(value, bool) or len(str(value)) > 4000:
            raise UsageError(f"{path.name} sets {key} to {value!r}; give it as the flag --{key} takes it")
    return ProjectDefaults(
        **{known[key]: value for key, value in table.items()},
        policy=None if policy is None else parse_policy(policy, path.name, formats=FORMATS),
    )
