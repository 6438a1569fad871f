"""The state of an interrupted run on disk: tensors and a JSON description, nothing that could run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from sau_adapters.weights.safetensors import metadata_of, read_described, write_described
from sau_cli.attacks.attack_state import AttackState, attack_state_from_parts
from sau_cli.errors import SauError, UnsafeFile, argument
from sau_cli.unlearning.run_state import RunState, state_from_parts

_PURIFICATION, _ATTACK = "sau.run", "sau.attack-run"
_WHAT, _ADVICE = "interrupted run", f"start over with {argument('force')}"


def write_state(path: Path, state: RunState | AttackState) -> None:
    """Write, or replace, in one piece.

    Raises:
        UsageError: the place cannot be written to.
    """
    key = _PURIFICATION if isinstance(state, RunState) else _ATTACK
    write_described(path, state.tensors(), key, state.description(), force=True)


def may_be_state(path: Path) -> bool:
    """Whether a file is the state of a run, or too damaged to tell. Reads its header alone."""
    try:
        metadata = metadata_of(path)
    except SauError:
        return True
    return any(f"{key}.schema" in metadata for key in (_PURIFICATION, _ATTACK))


def read_state(path: Path) -> RunState:
    """The state of a purification that :func:`write_state` wrote.

    Raises:
        NotEvaluable: the file is damaged, or something else.
        UnsafeFile: its header lies.
    """
    return state_from_parts(*_read(path, _PURIFICATION))


def read_attack_state(path: Path) -> AttackState:
    """The same of an attack."""
    return attack_state_from_parts(*_read(path, _ATTACK))


def _read(path: Path, key: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    try:
        return read_described(path, key, what=_WHAT, advice=_ADVICE)
    except UnsafeFile as error:
        raise UnsafeFile(f"{error}, or {_ADVICE}") from error
