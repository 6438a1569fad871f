"""``sau inspect``: what is this file, and is it safe to open?"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Group

from sau_adapters.metadata import KEYS
from sau_cli.commands.chain_view import check_chain
from sau_cli.commands.inputs import Request, open_model_and_data, request
from sau_cli.commands.options import (
    ArchOption,
    DataOption,
    DataRootOption,
    DeviceOption,
    ForceOption,
    ImageSizeOption,
    JsonOption,
    ModelArgument,
    NormalisationOption,
    QuietOption,
    ReportOption,
    VerboseOption,
)
from sau_cli.commands.progress import ReadingView
from sau_cli.commands.session import Session
from sau_cli.commands.settings import read_policy
from sau_cli.reporting.json_document import plain
from sau_cli.reporting.terminal import checks_table, table
from sau_cli.results import Check, CheckStatus, verdict_of

if TYPE_CHECKING:
    from sau_cli.inspection.file_facts import FileFacts, Recognition
    from sau_cli.inspection.policy import Policy

SHOWN_TENSORS, SHOWN_STEPS, SHOWN_TEXT = 12, 20, 1000


def inspect(
    model: ModelArgument,
    *,
    data: DataOption = None,
    policy: Annotated[
        Path | None,
        typer.Option(
            "--policy", metavar="P", help="TOML file with a [policy] table to judge by. [default: that of sau.toml]"
        ),
    ] = None,
    all_tensors: Annotated[bool, typer.Option("--tensors", help="List every tensor, not the first few.")] = False,
    public_key: Annotated[
        Path | None, typer.Option(metavar="KEY.pem", help="Of ONNX: the key that its signature must be of.")
    ] = None,
    data_root: DataRootOption = None,
    arch: ArchOption = None,
    image_size: ImageSizeOption = None,
    normalisation: NormalisationOption = None,
    device: DeviceOption = "auto",
    json_: JsonOption = None,
    report: ReportOption = None,
    quiet: QuietOption = False,
    verbose: VerboseOption = False,
    force: ForceOption = False,
) -> None:
    """Say what a model file is, and whether it is safe to open. No code from the file is run.

    The format is told by content, never by extension. Shown are the tensors, the architecture,
    classes, size, dtype, SHA-256, metadata and history, and with --data the accuracy. Whether the
    model behaves like a backdoored one is not examined, and the report says so.

    Of ONNX that sau export wrote, the chain is shown that it comes from; a link that is broken is exit 1.

    A [policy] may have allowed-formats, allowed-sha256 and min-acc; a rule that is broken is exit 1.

    \b
    Examples:
      sau inspect model.safetensors
      sau inspect vendor.pth --tensors
      sau inspect model.safetensors --data digits --policy policy.toml
      sau inspect model.safetensors --json - | jq .verdict
    """
    with Session("inspect", json=json_, reports=report, quiet=quiet, verbose=verbose, force=force) as session:
        asked = request(data=data, data_root=data_root, arch=arch, image_size=image_size, normalisation=normalisation)
        rules = asked.settings.policy if policy is None else read_policy(policy)

        from sau_adapters.checkpoints import file_facts
        from sau_cli.inspection.inspector import inspect as inspect_file
        from sau_cli.inspection.inspector import inspection_verdict
        from sau_cli.inspection.policy import judge_file

        with ReadingView(session) as reading:
            facts = file_facts(model, watch=reading.update)
        session.took(model, facts.sha256)
        session.checks.extend(inspect_file(facts))
        session.verdict = inspection_verdict(facts)
        session.details = {"file": plain(facts), "parameters": facts.parameters}
        judged = () if rules is None else judge_file(facts, rules)
        session.checks.extend(judged)
        for shown in _tables(facts, every_tensor=all_tensors or verbose):
            session.show(shown)
        chain = check_chain(session, model, facts, public_key=public_key)
        session.checks.extend(chain)
        judged += tuple(check for check in chain if check.status is CheckStatus.FAILED)
        if facts.safe and (data is not None or (rules is not None and rules.min_acc is not None)):
            measured = _accuracy_checks(session, model, asked, chosen_device_name=device, rules=rules)
            session.checks.extend(measured)
            judged += measured
        if facts.safe and any(check.status is not CheckStatus.MEASURED for check in judged):
            session.verdict = verdict_of(judged)
        session.show(checks_table(session.checks))


def _accuracy_checks(
    session: Session, model: Path, asked: Request, *, chosen_device_name: str, rules: Policy | None
) -> tuple[Check, ...]:
    """Load the model, measure its accuracy, and judge it where the policy has a limit."""
    from sau_cli.devices import chosen_device
    from sau_cli.evaluation.limits import at_least
    from sau_cli.evaluation.metrics import evaluate

    chosen = chosen_device(chosen_device_name)
    opened, images = open_model_and_data(session, model, asked)
    accuracy = evaluate(opened.classifier.to(chosen), images.for_testing).accuracy
    session.environment = {"device": str(chosen)}
    evidence = f"top-1 accuracy on {accuracy.total} images of {images.name}"
    found = Check(id="acc", status=CheckStatus.MEASURED, value=accuracy.value, ci95=accuracy.ci95, evidence=evidence)
    if rules is None or rules.min_acc is None:
        return (found,)
    return found, at_least("policy.min-acc", accuracy, rules.min_acc, confident=False, what="ACC")


def _tables(facts: FileFacts, *, every_tensor: bool) -> list[Group]:
    tables = [table("File", ("", ""), _file_rows(facts))]
    if facts.tensors:
        shown = facts.tensors if every_tensor else facts.tensors[:SHOWN_TENSORS]
        title = f"Tensors ({len(facts.tensors)})"
        if len(shown) < len(facts.tensors):
            title = f"Tensors ({len(shown)} of {len(facts.tensors)}; --tensors lists all)"
        rows = [
            (one.name.replace("\n", "?"), one.dtype.replace("\n", "?"), " x ".join(map(str, one.shape)) or "scalar")
            for one in shown
        ]
        tables.append(table(title, ("name", "dtype", "shape"), rows))
    described = KEYS if facts.description else frozenset[str]()
    foreign = {key: value for key, value in facts.metadata.items() if key not in described}
    if foreign:
        told = [(key, value[:200]) for key, value in sorted(foreign.items())]
        tables.append(table("Other metadata (as written in the file)", ("", ""), told))
    if facts.description and facts.description.history:
        steps = [
            (
                str(number),
                step.step,
                (step.input_sha256 or "trained from scratch")[:20],
                json.dumps(dict(step.settings), sort_keys=True)[:SHOWN_TEXT],
            )
            for number, step in enumerate(facts.description.history[:SHOWN_STEPS], start=1)
        ]
        left = len(facts.description.history) - len(steps)
        title = f"History (as the file tells it{f'; {left} later steps are left out' if left else ''})"
        tables.append(table(title, ("", "step", "input SHA-256", "settings"), steps))
    return tables


def _file_rows(facts: FileFacts) -> list[tuple[str, str]]:
    rows = [
        ("path", facts.path),
        ("format", facts.format),
        ("size", f"{facts.size_bytes:,} bytes"),
        ("SHA-256", facts.sha256),
    ]
    if facts.tensors is not None:
        dtypes = sorted({one.dtype for one in facts.tensors})
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
        near = ", ".join(f"{one.name} ({one.share:.0%})" for one in found.nearest)
        unlike = found.nearest[0].unlike
        told = f"{near}{f'. Of the first, {unlike}' if unlike else ''}"
        return [("architecture", f"not named by the file, and none that is known; nearest by its tensors: {told}")]
    first = found.fitting[0]
    rows = [
        ("architecture", " or ".join(one.name for one in found.fitting) + ", by the names and shapes of its tensors")
    ]
    if found.prefix:
        rows.append(("prefix", f"names begin with {' or '.join(found.prefix)}"))
    rows.append(("classes", "not told by the tensors" if first.classes is None else str(first.classes)))
    size = f"{first.size}x{first.size}" if first.size else "any size, or not told"
    rows.append(("input", f"{first.channels or 3} channels, {size}; the normalisation is not told by tensors"))
    return rows
