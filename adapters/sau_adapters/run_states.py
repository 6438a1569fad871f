"""The state of an interrupted run on disk: tensors and a JSON description, nothing that could run."""

from __future__ import annotations

from pathlib import Path

from sau_adapters.weights_safetensors import read_described, write_described
from sau_cli.attacks.attack_state import AttackState, attack_state_from_parts
from sau_cli.unlearning.run_state import RunState, state_from_parts

_WHAT, _ADVICE = "interrupted run", "start over with --force"


def write_state(path: Path, state: RunState | AttackState) -> None:
    """Write, or replace, in one piece.

    Raises:
        UsageError: the place cannot be written to.
    """
    key = "sau.run" if isinstance(state, RunState) else "sau.attack-run"
    write_described(path, state.tensors(), key, state.description(), force=True)


def read_state(path: Path) -> RunState:
    """The state of a purification that :func:`write_state` wrote.

    Raises:
        NotEvaluable: the file is damaged, or something else.
        UnsafeFile: its header lies.
    """
    return state_from_parts(*read_described(path, "sau.run", what=_WHAT, advice=_ADVICE))


def read_attack_state(path: Path) -> AttackState:
    """The same of an attack."""
    return attack_state_from_parts(*read_described(path, "sau.attack-run", what=_WHAT, advice=_ADVICE))
