"""An inspection for people: the verdict first, then what the file is, then every check."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.text import Text

from sau_adapters.classifiers.metadata import KEYS
from sau_cli.reporting.decision import Decision, decision_of
from sau_cli.reporting.history import settings_line, short_line
from sau_cli.reporting.terminal import VERDICT_STYLES, checks_table, line_table, printable, table

if TYPE_CHECKING:
    from sau_cli.description import HistoryStep
    from sau_cli.inspection.file_facts import FileFacts, Recognition
    from sau_cli.results import Report, Verdict

SHOWN_STEPS, SHOWN_TEXT, SHOWN_VALUE = 20, 1000, 200


def inspection_view(report: Report, facts: FileFacts, *, tensors: bool, whole: bool) -> Group:
    """All of it.

    Args:
        tensors: list them.
        whole: show the settings of each step in full, not on one line.
    """
    decided = decision_shown(decision_of(report), report.verdict)
    parts = [decided, file_tables(facts, tensors=tensors, whole=whole)]
    if links := report.details.get("chain"):
        rows = [(link["what"], link["sha256"][:20], link["told_by"]) for link in links]
        parts.append(table("Chain", ("", "SHA-256", "told by"), rows))
    return Group(*parts, checks_table(report.checks))


def decision_shown(decision: Decision, verdict: Verdict) -> Group:
    """The decision in a sentence, why, and what to do next."""
    told: list[RenderableType] = [Text(printable(decision.sentence), style=VERDICT_STYLES.get(verdict, "bold"))]
    if decision.reason:
        told.append(Text(printable(decision.reason)))
    for place, step in enumerate(decision.next_steps):
        told.append(Text(f"{'' if place else 'Next: '}{printable(step.says)}"))
        if step.command:
            told.append(Text(f"  {printable(step.command)}"))
    return Group(*told, Text())


def file_tables(facts: FileFacts, *, tensors: bool, whole: bool) -> Group:
    """What the file is: its facts, metadata and history; its tensors where they are asked for."""
    tables = [table("File", ("", ""), _file_rows(facts))]
    if facts.tensors and tensors:
        rows = [
            (
                tensor.name.replace("\n", "?"),
                tensor.dtype.replace("\n", "?"),
                " x ".join(map(str, tensor.shape)) or "scalar",
            )
            for tensor in facts.tensors
        ]
        tables.append(table(f"Tensors ({len(rows)})", ("name", "dtype", "shape"), rows))
    described = KEYS if facts.description else frozenset[str]()
    foreign = {key: value for key, value in facts.metadata.items() if key not in described}
    if foreign:
        told = [(key, value[:SHOWN_VALUE]) for key, value in sorted(foreign.items())]
        tables.append(table("Other metadata (as written in the file)", ("", ""), told))
    if facts.description and facts.description.history:
        tables.append(_history(facts.description.history, whole=whole))
    return Group(*tables)


def _history(history: tuple[HistoryStep, ...], *, whole: bool) -> Group:
    """A line a step, or with ``whole`` all its settings."""
    steps = history[:SHOWN_STEPS]
    left = f"; {len(history) - len(steps)} later steps are left out" if len(history) > len(steps) else ""
    if whole:
        rows = [
            (str(number), step.step, _came_from(step)[:20], settings_line(step.settings)[:SHOWN_TEXT])
            for number, step in enumerate(steps, start=1)
        ]
        return table(f"History (as the file tells it{left})", ("", "step", "input SHA-256", "settings"), rows)
    lines = [
        (str(number), step.step, _came_from(step)[:12], short_line(step.settings))
        for number, step in enumerate(steps, start=1)
    ]
    title = f"History (as the file tells it; --verbose has every setting{left})"
    return line_table(title, ("", "step", "input", "settings"), lines)


def _came_from(step: HistoryStep) -> str:
    return step.input_sha256 or "from scratch"


def _file_rows(facts: FileFacts) -> list[tuple[str, str]]:
    rows = [
        ("path", facts.path),
        ("format", facts.format),
        ("size", f"{facts.size_bytes:,} bytes"),
        ("SHA-256", facts.sha256),
    ]
    if facts.tensors is not None:
        dtypes = sorted({tensor.dtype for tensor in facts.tensors})
        rows.append(("parameters", f"{facts.parameters:,} (buffers included), {', '.join(dtypes)}"))
    rows.extend(("weights", note) for note in facts.notes)
    known = facts.description
    if known is None:
        rows.extend(_recognised_rows(facts.recognition))
        return rows
    names = ", ".join(known.class_names[:10]) + (", ..." if known.classes > 10 else "")
    spec = known.input
    rows += [
        ("architecture", known.architecture),
        ("classes", f"{known.classes}: {names}"),
        ("input", f"{spec.channels} x {spec.size}, mean {list(spec.mean)}, std {list(spec.std)}"),
        ("data", known.data or "not named by the file"),
    ]
    return rows


def _recognised_rows(found: Recognition | None) -> list[tuple[str, str]]:
    """What the tensors tell of the architecture."""
    if found is None or not (found.fitting or found.nearest):
        return [("architecture", "not named by the file")]
    if not found.fitting:
        near = ", ".join(f"{architecture.name} ({architecture.share:.0%})" for architecture in found.nearest)
        unlike = found.nearest[0].unlike
        told = f"{near}{f'. Of the first, {unlike}' if unlike else ''}"
        return [("architecture", f"not named by the file, and none that is known; nearest by its tensors: {told}")]
    first = found.fitting[0]
    rows = [
        (
            "architecture",
            " or ".join(architecture.name for architecture in found.fitting)
            + ", by the names and shapes of its tensors",
        )
    ]
    if found.prefix:
        rows.append(("prefix", f"names begin with {' or '.join(found.prefix)}"))
    if found.told:
        rows.append(("read as", found.told))
    rows.append(("classes", "not told by the tensors" if first.classes is None else str(first.classes)))
    size = f"{first.size}x{first.size}" if first.size else "any size, or not told"
    channels = first.channels or 3
    plane = "1 channel" if channels == 1 else f"{channels} channels"
    rows.append(("input", f"{plane}, {size}; the normalisation is not told by tensors"))
    return rows
