"""Options of commands that work on many models: on how many at a time, on which machines, and what is done already."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeAlias

import typer

from sau_cli.fleet.engine import Engine, Needs, cores

LOCAL = "local"
"""The address of a Ray of one's own on this machine."""
_CLUSTER_ADDRESS = re.compile(rf"{LOCAL}|auto|ray://\S+|[\w.-]+:\d+|\[[0-9a-fA-F:]+\]:\d+")
_MANY = "Many models"

JobsOption: TypeAlias = Annotated[
    int | None,
    typer.Option(
        "--jobs", min=1, help="Of several models, how many at a time. [default: one a core]", rich_help_panel=_MANY
    ),
]
RayOption: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--ray",
        metavar="[ADDRESS]",
        help="Of several models, one task each on the Ray cluster at HOST:PORT, or auto for that of this machine; "
        "without an address on a Ray of its own. Needs sau-cli[fleet].",
        rich_help_panel=_MANY,
    ),
]
NoCacheOption: TypeAlias = Annotated[
    bool,
    typer.Option(
        "--no-cache",
        help="Of several models, do each anew, also where the verdict on the same content is known.",
        rich_help_panel=_MANY,
    ),
]
JobsTableOption: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        "--jobs-table",
        metavar="FILE",
        help="In place of MODEL: a CSV or JSON-lines file with a row for each model, with the columns model, data, "
        "trigger, options and out. Options of the command hold for every row that does not give its own.",
        rich_help_panel=_MANY,
    ),
]


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetOptions:
    """How work on several models is spread, and whether what is known is done again."""

    jobs: JobsOption = None
    ray: RayOption = None
    no_cache: NoCacheOption = False


OF_THE_RUN = frozenset(
    (
        *("jobs", "ray", "no_cache", "jobs_table", "json", "report", "quiet", "verbose", "force", "resume"),
        *("download", "tensors", "table", "attest", "sign_key", "mlflow_tags"),
    )
)
"""Options of a run on many models, which are none of each model's and change no verdict."""


def with_ray_address(words: Sequence[str]) -> list[str]:
    """The words of a command line, with an address for each ``--ray`` that has none.

    >>> with_ray_address(["inspect", "--ray", "models/"])
    ['inspect', '--ray=local', 'models/']
    >>> with_ray_address(["inspect", "models/", "--ray", "10.0.0.7:6379"])
    ['inspect', 'models/', '--ray=10.0.0.7:6379']
    """
    found: list[str] = []
    left = list(words)
    while left:
        word = left.pop(0)
        if word == "--":
            return [*found, word, *left]
        if word == "--ray":
            word = f"--ray={left.pop(0) if left and _CLUSTER_ADDRESS.fullmatch(left[0]) else LOCAL}"
        found.append(word)
    return found


def given_words(context: typer.Context, *, without: Collection[str]) -> tuple[str, ...]:
    """The options that a command was given, by the command line or the environment, as words to give it again.

    Args:
        without: these, by the names of their parameters; arguments are left out anyway.
    """
    words: list[str] = []
    for parameter in context.command.params:
        option: Any = parameter
        source = context.get_parameter_source(option.name)
        if option.param_type_name != "option" or option.name in without or source is None:
            continue
        if source.name in {"COMMANDLINE", "ENVIRONMENT"}:
            words += _words_of(option, context.params.get(option.name))
    return tuple(words)


def _words_of(option: Any, value: Any) -> list[str]:
    flag = next((name for name in option.opts if name.startswith("--")), option.opts[0])
    if option.is_flag:
        return [flag] if value else option.secondary_opts[:1]
    values = value if isinstance(value, list | tuple) else [value]
    return [f"{flag}={getattr(item, 'value', item)}" for item in values if item is not None]


def engine_of(fleet: FleetOptions, *, most: int) -> Engine:
    """The engine that was asked for.

    Args:
        most: tasks that there are.

    Raises:
        UsageError: Ray is not installed, or nobody answers at the address.
    """
    if fleet.ray is None:
        from sau_cli.fleet.pool import Pool

        return Pool(max(1, min(fleet.jobs or cores(), most)))
    from sau_cli.fleet.ray_cluster import RayCluster

    return RayCluster(None if fleet.ray == LOCAL else fleet.ray, jobs=fleet.jobs)


GPU_BYTES, GPU_PARTS = 16 << 30, 8
"""Memory that a GPU is taken to have, and the parts that it is shared in."""
BASE_BYTES, BYTES_A_BYTE, STEP_BYTES = 1 << 30, 6, 1 << 28
"""What a process takes before it has a model, and then for each byte of its file, in steps: Ray has a process do one
task after another as long as they ask for the same."""


def needs_of(size: int, *, on_gpu: bool) -> Needs:
    """What work on a model of this size in bytes asks for.

    >>> needs_of(100_000_000, on_gpu=True)
    Needs(cpus=1.0, memory=1879048192, gpus=0.125)
    """
    memory = BASE_BYTES + -(-BYTES_A_BYTE * size // STEP_BYTES) * STEP_BYTES
    parts = -(-memory * GPU_PARTS // GPU_BYTES) if on_gpu else 0
    return Needs(memory=memory, gpus=min(parts, GPU_PARTS) / GPU_PARTS)
