"""``sau inspect``: what is this file, and is it safe to open?"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Group
from rich.markup import escape

from sau_cli.commands.options import (
    ForceOption,
    JsonOption,
    ModelArgument,
    QuietOption,
    VerboseOption,
)
from sau_cli.commands.session import Session, printable
from sau_cli.reporting.json_document import plain
from sau_cli.reporting.terminal import checks_table, table

if TYPE_CHECKING:
    from sau_cli.inspection.file_facts import FileFacts

SHOWN_TENSORS = 12


def inspect(
    model: ModelArgument,
    *,
    all_tensors: Annotated[bool, typer.Option("--tensors", help="List every tensor, not the first few.")] = False,
    json_: JsonOption = None,
    quiet: QuietOption = False,
    verbose: VerboseOption = False,
    force: ForceOption = False,
) -> None:
    r"""Say what a model file is, and whether it is safe to open. No code from the file is run.

    The format is told by content, never by extension. Shown are the tensors, the architecture,
    classes, size, dtype, SHA-256, metadata and history. Whether the model behaves like a
    backdoored one is not examined, and the report says so.

    \b
    Examples:
      sau inspect model.safetensors
      sau inspect vendor.pth --tensors
      sau inspect model.safetensors --json - | jq .verdict
    """
    with Session("inspect", json=json_, quiet=quiet, verbose=verbose, force=force) as session:
        from sau_adapters.checkpoints import file_facts
        from sau_cli.inspection.inspector import inspect as inspect_file
        from sau_cli.inspection.inspector import inspection_verdict

        facts = file_facts(model)
        session.took(model, facts.sha256)
        session.checks.extend(inspect_file(facts))
        session.verdict = inspection_verdict(facts)
        session.details = {"file": plain(facts), "parameters": facts.parameters}
        for shown in _tables(facts, every_tensor=all_tensors or verbose):
            session.show(shown)
        session.show(checks_table(session.checks))


def _tables(facts: FileFacts, *, every_tensor: bool) -> list[Group]:
    tables = [table("File", ("", ""), _file_rows(facts))]
    if facts.tensors:
        shown = facts.tensors if every_tensor else facts.tensors[:SHOWN_TENSORS]
        title = f"Tensors ({len(facts.tensors)})"
        if len(shown) < len(facts.tensors):
            title = f"Tensors ({len(shown)} of {len(facts.tensors)}; --tensors lists all)"
        rows = [(_safe(one.name), one.dtype, " x ".join(map(str, one.shape)) or "scalar") for one in shown]
        tables.append(table(title, ("name", "dtype", "shape"), rows))
    foreign = {key: value for key, value in facts.metadata.items() if not key.startswith("sau.")}
    if foreign:
        told = [(_safe(key), _safe(value[:200])) for key, value in sorted(foreign.items())]
        tables.append(table("Other metadata (as written in the file)", ("", ""), told))
    if facts.description and facts.description.history:
        steps = [
            (
                str(number),
                _safe(step.step),
                (step.input_sha256 or "trained from scratch")[:20],
                _safe(json.dumps(dict(step.settings), sort_keys=True)),
            )
            for number, step in enumerate(facts.description.history, start=1)
        ]
        tables.append(table("History (as the file tells it)", ("", "step", "input SHA-256", "settings"), steps))
    return tables


def _file_rows(facts: FileFacts) -> list[tuple[str, str]]:
    rows = [
        ("path", _safe(facts.path)),
        ("format", facts.format),
        ("size", f"{facts.size_bytes:,} bytes"),
        ("SHA-256", facts.sha256),
    ]
    if facts.tensors is not None:
        dtypes = sorted({one.dtype for one in facts.tensors})
        rows.append(("parameters", f"{facts.parameters:,} (buffers included), {', '.join(dtypes)}"))
    known = facts.description
    if known is None:
        rows.append(("architecture", "not named by the file"))
        return rows
    names = ", ".join(known.class_names[:10]) + (", ..." if known.classes > 10 else "")
    spec = known.input
    rows += [
        ("architecture", _safe(known.architecture)),
        ("classes", _safe(f"{known.classes}: {names}")),
        ("input", f"{spec.channels} x {spec.size}, mean {list(spec.mean)}, std {list(spec.std)}"),
        ("data", _safe(known.data or "not named by the file")),
    ]
    return rows


def _safe(text: str) -> str:
    """A stranger's text: no control characters, no markup."""
    return escape(printable(text))
