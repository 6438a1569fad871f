"""``sau evaluate``: measure a model, against limits if given."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sau_cli.commands.drill import run_drill
from sau_cli.commands.evaluation_view import evaluation_checks, evaluation_table, remarks, trigger_ids
from sau_cli.commands.inputs import fetch, open_model_and_data, received, request
from sau_cli.commands.lasting_view import lasting_checks, lasting_table
from sau_cli.commands.options import (
    ArchOption,
    ClassOrderOption,
    DataOption,
    DataRootOption,
    DeviceOption,
    DownloadOption,
    ForceOption,
    ImageSizeOption,
    JsonOption,
    ModelArgument,
    NormalisationOption,
    PolicyOption,
    QuietOption,
    ReportOption,
    SeedOption,
    TargetOption,
    VerboseOption,
)
from sau_cli.commands.session import Session
from sau_cli.commands.settings import read_policy
from sau_cli.commands.stopping import parse_duration
from sau_cli.errors import UsageError
from sau_cli.evaluation.limits import at_least, at_most, parse_fraction
from sau_cli.reporting.json_document import plain
from sau_cli.reporting.terminal import checks_table
from sau_cli.results import Check, CheckStatus

if TYPE_CHECKING:
    from sau_adapters.models import OpenedModel
    from sau_cli.attacks.triggers import Trigger
    from sau_cli.classifier import Classifier
    from sau_cli.evaluation.metrics import Evaluation
    from sau_cli.evaluation.reactivation import Reactivation
    from sau_cli.evaluation.relearning import Relearning
    from sau_cli.images import LabelledImages
    from sau_cli.inspection.policy import Policy


def evaluate(
    model: ModelArgument,
    *,
    reference: Annotated[
        Path | None,
        typer.Option("--reference", "-r", metavar="M0", help="The model before it was purified, to compare with."),
    ] = None,
    data: DataOption = None,
    trigger: Annotated[
        list[str] | None,
        typer.Option(
            "--trigger",
            "-t",
            metavar="T",
            help="x.trigger.safetensors from sau attack, patch:FILE.png, blend:FILE.png@0.2 or add:FILE.npy. "
            "Repeat it for several.",
        ),
    ] = None,
    target: TargetOption = None,
    max_asr: Annotated[
        str | None, typer.Option(metavar="SHARE", help="Fail if a trigger succeeds more often, such as 0.05 or 5%.")
    ] = None,
    min_acc: Annotated[
        str | None, typer.Option(metavar="SHARE", help="Fail if fewer clean images are classified correctly.")
    ] = None,
    max_acc_drop: Annotated[
        str | None, typer.Option(metavar="SHARE", help="Fail if accuracy fell by more, against the reference.")
    ] = None,
    confident: Annotated[
        bool,
        typer.Option(
            "--confident", help="Judge limits by the 95 % interval: exit 6 when the images cannot settle one."
        ),
    ] = False,
    reactivate: Annotated[
        bool,
        typer.Option(
            "--reactivate", help="Also try to wake each trigger's backdoor by a small perturbation of its images."
        ),
    ] = False,
    relearn: Annotated[
        int | None,
        typer.Option(
            "--relearn", metavar="N", min=1, help="Also fine-tune a copy on N triggered and N clean images, and look."
        ),
    ] = None,
    drill: Annotated[
        str | None,
        typer.Option(
            "--drill",
            metavar="NAME,...",
            help="In place of measuring MODEL: plant these attacks (sau attack --list) in copies of it, purify them "
            "as sau purify would, and measure what is left.",
        ),
    ] = None,
    clean_frac: Annotated[
        str | None,
        typer.Option(
            metavar="F",
            help="Of the drill: share of the data's training part to purify with. [default: what the model's history "
            "or sau.toml tells, else 0.05, or a quarter of data without a split]",
        ),
    ] = None,
    budget: Annotated[
        str | None, typer.Option(metavar="TIME", help="Stop the drill in time, such as 90s, 15m or 1h30m: exit 6.")
    ] = None,
    policy: PolicyOption = None,
    data_root: DataRootOption = None,
    arch: ArchOption = None,
    image_size: ImageSizeOption = None,
    normalisation: NormalisationOption = None,
    class_order: ClassOrderOption = None,
    download: DownloadOption = False,
    device: DeviceOption = "auto",
    seed: SeedOption = 0,
    json_: JsonOption = None,
    report: ReportOption = None,
    quiet: QuietOption = False,
    verbose: VerboseOption = False,
    force: ForceOption = False,
) -> None:
    """Measure ACC, ASR, R-ACC and DER on test images, with 95 % intervals. Limits make it a gate.

    The test part of the data is used; all of it where there is no split. A low ASR says that this
    trigger no longer reaches its target; how many images it sends to any wrong class is told beside it.
    It says nothing of other triggers. Rules of a [policy] that can be judged
    by what is measured here are judged; of the others the report says why not.

    \b
    Examples:
      sau evaluate model.safetensors --trigger model.trigger.safetensors
      sau evaluate model.purified.safetensors --reference model.safetensors \\
          --trigger model.trigger.safetensors --max-asr 5% --max-acc-drop 3%
      sau evaluate vendor.pth --arch wrn_16_1 --normalisation none \\
          --data cifar10 --data-root data --trigger patch:grid.png --target 0
      sau evaluate model.purified.safetensors --trigger model.trigger.safetensors --reactivate --relearn 20
      sau evaluate model.safetensors --drill badnets,blended,sig --data clean/ --budget 15m
    """
    with Session("evaluate", json=json_, reports=report, quiet=quiet, verbose=verbose, force=force) as session:
        limits = {
            name: None if text is None else parse_fraction(text, f"--{name}")
            for name, text in (("max-asr", max_asr), ("min-acc", min_acc), ("max-acc-drop", max_acc_drop))
        }
        fetch(session, model, reference, download=download)
        asked = request(
            data=data,
            data_root=data_root,
            arch=arch,
            image_size=image_size,
            normalisation=normalisation,
            class_order=class_order,
        )
        rules = asked.settings.policy if policy is None else read_policy(policy)
        _check_no_looser(limits, rules)
        if limits["max-asr"] is not None and not trigger:
            raise UsageError("--max-asr needs a trigger to measure; add --trigger")
        if drill is not None:
            beside = (reference, trigger, max_asr, min_acc, max_acc_drop, policy, relearn)
            if any(beside) or confident or reactivate:
                raise UsageError(
                    "--drill plants triggers of its own and judges no limits; leave --reference, --trigger, --policy, "
                    "limits, --reactivate and --relearn to a command without it"
                )
        elif budget is not None or clean_frac is not None:
            raise UsageError("--budget and --clean-frac are of a drill, and there is none; add --drill")
        if not trigger and (reactivate or relearn is not None):
            raise UsageError("--reactivate and --relearn bring a trigger's backdoor back; add --trigger")
        if target is not None and not trigger and drill is None:
            raise UsageError("--target says where a trigger sends images, and there is none; add --trigger")
        if confident and rules is None and not any(limit is not None for limit in limits.values()):
            raise UsageError("--confident says how limits are judged, and there is none; add --max-asr or another")
        if limits["max-acc-drop"] is not None and reference is None:
            raise UsageError("--max-acc-drop needs a model to compare with; add --reference")

        seconds = None if budget is None else parse_duration(budget)
        share = None if clean_frac is None else parse_fraction(clean_frac, "--clean-frac")

        from sau_cli.devices import chosen_device

        if drill is not None:
            if rules is not None:
                session.checks.append(
                    Check(
                        id="policy",
                        status=CheckStatus.SKIPPED,
                        evidence="a drill judges the defence and not the model; sau evaluate without --drill judges it",
                    )
                )
            run_drill(
                session,
                model,
                asked,
                attacks=drill,
                target=target,
                share=share,
                budget=seconds,
                device=chosen_device(device),
                seed=seed,
            )
            return

        from sau_adapters.triggers import file_of, open_trigger
        from sau_cli.attacks.targets import parse_target
        from sau_cli.evaluation.metrics import evaluate as measure
        from sau_cli.evaluation.recognition import RECOGNISED_BY, check_label_order
        from sau_cli.images import some_of
        from sau_cli.inspection.policy import judge_measures

        chosen = chosen_device(device)
        rule = None if target is None else parse_target(target)
        triggers = tuple(open_trigger(source, rule) for source in trigger or ())
        other = next((one for one in triggers if rule is not None and one.rule != rule), None)
        if other is not None and all(one.rule != rule for one in triggers):
            raise UsageError(
                f"the trigger {other.name} is {other.rule}, and --target says {target}; leave --target out"
            )
        attacked = reactivate or relearn is not None
        checkpoint = received(session, model)
        file_rules = () if rules is None else _judged_file(checkpoint, rules)
        session.checks.extend(file_rules)
        opened, images = open_model_and_data(session, model, asked, checkpoint=checkpoint, to_learn=attacked)
        triggers = tuple(one.for_classes(opened.classifier.description.class_names) for one in triggers)
        check_label_order(opened.classifier, some_of(images.for_testing, RECOGNISED_BY))
        before = None
        if reference is not None:
            known = opened.classifier.description
            before = open_model_and_data(session, reference, asked, data=images, like=known)[0].classifier
        for source in trigger or ():
            session.took(file_of(source))
        session.environment = {"device": str(chosen)}
        measured: list[Evaluation] = []
        try:
            with session.working(f"measuring on {len(images.for_testing):,} test images"):
                measure(
                    opened.classifier.to(chosen),
                    images.for_testing,
                    triggers=triggers,
                    reference=None if before is None else before.to(chosen),
                    keep=measured.append,
                )
        finally:  # what was measured before an error is told and judged
            for evaluation in measured[-1:]:
                session.details = {"data": images.name, "evaluation": plain(evaluation)}
                session.checks.extend(evaluation_checks(evaluation))
                judged = _judged(evaluation, limits, confident=confident)
                if rules is not None:
                    judged += judge_measures(session.checks, rules, unmeasured=CheckStatus.SKIPPED, confident=confident)
                session.checks.extend(judged)
                session.show(evaluation_table(evaluation, title=f"{evaluation.images} test images of {images.name}"))
                for remark in remarks(evaluation):
                    session.show(f"warning: {remark}")
                if file_rules or judged:
                    session.show(checks_table((*file_rules, *judged)))
        if attacked:
            _see_whether_it_lasts(
                session,
                opened.classifier,
                images.for_testing,
                triggers,
                trigger_ids(measured[-1]),
                reactivating=reactivate,
                poisoned=relearn,
                seed=seed,
            )


def _see_whether_it_lasts(
    session: Session,
    classifier: Classifier,
    images: LabelledImages,
    triggers: Sequence[Trigger],
    names: Sequence[str],
    *,
    reactivating: bool,
    poisoned: int | None,
    seed: int,
) -> None:
    """Attack the model on half of the test images, and measure on the other."""
    from sau_cli.evaluation.reactivation import reactivate as wake
    from sau_cli.evaluation.relearning import relearn as teach
    from sau_cli.images import parted

    made_on, measured_on = parted(images, 0.5, seed=seed)
    woken: list[Reactivation] = []
    taught: list[Relearning] = []
    try:
        with session.working("attacking it again"):
            if reactivating:
                woken.extend(wake(classifier, made_on, measured_on, one, seed=seed) for one in triggers)
            if poisoned is not None:
                taught.extend(
                    teach(classifier, made_on, measured_on, one, poisoned=poisoned, seed=seed) for one in triggers
                )
    finally:
        if woken or taught:
            session.details["lasting"] = {
                "measured_on": len(measured_on),
                "seed": seed,
                "reactivation": plain(woken),
                "relearning": plain(taught),
            }
            session.checks.extend(lasting_checks(names, woken, taught))
            session.show(lasting_table(names, woken, taught, images=len(measured_on)))


def _check_no_looser(limits: dict[str, float | None], rules: Policy | None) -> None:
    """Raises UsageError for a flag that allows what the policy forbids."""
    if rules is None:
        return
    for flag, rule, ruled in (
        ("max-asr", "max-asr", rules.max_asr),
        ("max-acc-drop", "max-drop", rules.max_drop),
        ("min-acc", "min-acc", rules.min_acc),
    ):
        asked = limits[flag]
        if asked is None or ruled is None:
            continue
        if asked < ruled if rule == "min-acc" else asked > ruled:
            raise UsageError(
                f"--{flag} {asked:g} allows what the policy's {rule} = {ruled:g} forbids; leave one of the two out"
            )


def _judged_file(checkpoint: OpenedModel, rules: Policy) -> tuple[Check, ...]:
    """Each rule about the file as a check; one that nothing here tells of is skipped, with its reason."""
    from sau_cli.inspection.policy import JudgedFile, judge_file

    file = JudgedFile(
        format=checkpoint.format,
        sha256=checkpoint.sha256,
        metadata=checkpoint.metadata,
        description=checkpoint.description,
        worst=None,
        beside=checkpoint.beside,
    )
    return judge_file(file, rules)


def _judged(evaluation: Evaluation, limits: dict[str, float | None], *, confident: bool) -> tuple[Check, ...]:
    checks = []
    if (limit := limits["max-asr"]) is not None:
        for row, name in zip(evaluation.triggers, trigger_ids(evaluation), strict=True):
            checks.append(at_most(f"limit.max-asr.{name}", row.asr, limit, confident=confident, what=f"ASR of {name}"))
    if (limit := limits["min-acc"]) is not None:
        checks.append(at_least("limit.min-acc", evaluation.accuracy, limit, confident=confident, what="ACC"))
    if (limit := limits["max-acc-drop"]) is not None and evaluation.accuracy_drop is not None:
        checks.append(
            at_most("limit.max-acc-drop", evaluation.accuracy_drop, limit, confident=confident, what="the drop of ACC")
        )
    return tuple(checks)
