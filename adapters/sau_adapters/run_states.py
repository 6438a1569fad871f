"""The state of an interrupted purification on disk: tensors and a JSON description, nothing that could run."""

from __future__ import annotations

import json
from pathlib import Path

from sau_adapters.files import check_readable
from sau_adapters.weights_safetensors import read_weights, recognises, write_weights
from sau_cli.errors import NotEvaluable
from sau_cli.unlearning.run_state import RunState, state_from_parts

SCHEMA = "1"


def write_state(path: Path, state: RunState) -> None:
    """Write, or replace, in one piece.

    Raises:
        UsageError: the place cannot be written to.
    """
    metadata = {"sau.run.schema": SCHEMA, "sau.run": json.dumps(state.description(), sort_keys=True)}
    write_weights(path, state.tensors(), metadata, force=True)


def read_state(path: Path) -> RunState:
    """The state that :func:`write_state` wrote.

    Raises:
        NotEvaluable: the file is damaged, or something else.
        UnsafeFile: its header lies.
    """
    check_readable(path)
    with path.open("rb") as file:
        known = recognises(file.read(16), path)
    tensors, metadata = read_weights(path) if known else ({}, {})
    if metadata.get("sau.run.schema") != SCHEMA:
        raise NotEvaluable(f"{path} is no state of an interrupted run of schema {SCHEMA}; start over with --force")
    try:
        description = json.loads(metadata["sau.run"])
    except (KeyError, ValueError, RecursionError) as error:
        raise NotEvaluable(f"{path} has no readable description; start over with --force") from error
    if not isinstance(description, dict):
        raise NotEvaluable(f"{path} has no readable description; start over with --force")
    return state_from_parts(tensors, description)
