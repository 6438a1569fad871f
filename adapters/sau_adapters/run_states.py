"""The state of an interrupted purification on disk: tensors and a JSON description, nothing that could run."""

from __future__ import annotations

from pathlib import Path

from sau_adapters.weights_safetensors import read_described, write_described
from sau_cli.unlearning.run_state import RunState, state_from_parts


def write_state(path: Path, state: RunState) -> None:
    """Write, or replace, in one piece.

    Raises:
        UsageError: the place cannot be written to.
    """
    write_described(path, state.tensors(), "sau.run", state.description(), force=True)


def read_state(path: Path) -> RunState:
    """The state that :func:`write_state` wrote.

    Raises:
        NotEvaluable: the file is damaged, or something else.
        UnsafeFile: its header lies.
    """
    return state_from_parts(*read_described(path, "sau.run", what="interrupted run", advice="start over with --force"))
