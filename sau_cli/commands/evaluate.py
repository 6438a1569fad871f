"""``sau evaluate``: measure a model, against limits if given."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sau_cli.commands.comparison_view import COMPARISON_IMAGES, comparison_details
from sau_cli.commands.drill import run_drill
from sau_cli.commands.evaluation_view import evaluation_checks, evaluation_table, remarks, trigger_ids
from sau_cli.commands.fleet_options import FleetOptions, JobsTableOption
from sau_cli.commands.inputs import Request, fetch, open_model_and_data, received, request
from sau_cli.commands.job_table import check_alone, run_table
from sau_cli.commands.lasting_view import lasting_checks, lasting_table
from sau_cli.commands.options import (
    DataOption,
    DataRootOption,
    DeviceOption,
    DownloadOption,
    OptionalModelArgument,
    OutputOptions,
    PolicyOption,
    ReadingOptions,
    SeedOption,
    TargetOption,
    with_groups,
)
from sau_cli.commands.project_defaults import read_policy
from sau_cli.commands.session import Session
from sau_cli.commands.stopping import parse_duration
from sau_cli.errors import UsageError
from sau_cli.gating.limits import at_least, at_most, parse_fraction
from sau_cli.reporting.json_document import plain
from sau_cli.reporting.terminal import checks_table
from sau_cli.results import Check, CheckStatus

if TYPE_CHECKING:
    from sau_adapters.models import OpenedModel
    from sau_adapters.triggers import OpenedTrigger
    from sau_cli.classifier import Classifier
    from sau_cli.evaluation.metrics import Evaluation
    from sau_cli.evaluation.reactivation import Reactivation
    from sau_cli.evaluation.relearning import Relearning
    from sau_cli.gating.policy import Policy
    from sau_cli.images import ImageData
    from sau_cli.triggers.trigger import Trigger


@with_groups
def evaluate_command(
    context: typer.Context,
    model: OptionalModelArgument = None,
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
    reading: ReadingOptions,
    download: DownloadOption = False,
    device: DeviceOption = "auto",
    seed: SeedOption = 0,
    jobs_table: JobsTableOption = None,
    fleet: FleetOptions,
    output: OutputOptions,
) -> None:
    """Measure ACC, ASR, R-ACC and DER on test images, with 95 % intervals. Limits make it a gate.

    The test part of the data is used; all of it where there is no split. A low ASR says that this
    trigger no longer reaches its target; how many images it sends to any wrong class is told beside it.
    It says nothing of other triggers. Rules of a [policy] that can be judged
    by what is measured here are judged; of the others the report says why not.

    With --jobs-table, every row of a table is measured, several at a time, with --ray on the machines
    of a cluster; out of a row is where its report goes.

    \b
    Examples:
      sau evaluate model.safetensors --trigger model.trigger.safetensors
      sau evaluate model.purified.safetensors --reference model.safetensors \\
          --trigger model.trigger.safetensors --max-asr 5% --max-acc-drop 3%
      sau evaluate vendor.pth --arch wrn_16_1 --normalisation none \\
          --data cifar10 --data-root data --trigger patch:grid.png --target 0
      sau evaluate model.purified.safetensors \\
        --trigger model.trigger.safetensors --reactivate --relearn 20
      sau evaluate --jobs-table jobs.csv --max-asr 5% --json all.json
      sau evaluate model.safetensors --drill badnets,blended,sig --data clean/ \\
        --budget 15m
    """
    with Session("evaluate", output) as session:
        asked = request(reading, data=data, data_root=data_root)
        if model is None or jobs_table is not None:
            run_table(session, "evaluate", context, model, jobs_table, fleet=fleet, asked=asked, device=device)
            return
        check_alone(fleet)
        limits = Limits(
            max_asr=_parsed(max_asr, "max_asr"),
            min_acc=_parsed(min_acc, "min_acc"),
            max_acc_drop=_parsed(max_acc_drop, "max_acc_drop"),
        )
        fetch(session, model, reference, download=download)
        plan = EvaluatePlan(
            model=model,
            reference=reference,
            asked=asked,
            triggers=tuple(trigger or ()),
            target=target,
            limits=limits,
            rules=asked.defaults.policy if policy is None else read_policy(policy),
            confident=confident,
            reactivate=reactivate,
            relearn=relearn,
            device=device,
            seed=seed,
        )
        _check_no_looser(limits, plan.rules)
        if limits.max_asr is not None and not plan.triggers:
            raise UsageError("--max-asr needs a trigger to measure; add --trigger")
        if drill is None:
            _check_no_drill(plan, budget, clean_frac)
            _measure(session, plan)
            return
        if plan.asks_of_the_model or policy is not None:
            raise UsageError(
                "--drill plants triggers of its own and judges no limits; leave --reference, --trigger, --policy, "
                "limits, --reactivate and --relearn to a command without it"
            )
        time = None if budget is None else parse_duration(budget)
        _drill(session, plan, drill, share=_parsed(clean_frac, "clean_frac"), budget=time)


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Those of the flags, as fractions; None where there is none."""

    max_asr: float | None
    min_acc: float | None
    max_acc_drop: float | None

    @property
    def any(self) -> bool:
        """Whether there is one."""
        return not (self.max_asr is self.min_acc is self.max_acc_drop is None)


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluatePlan:
    """What was asked for.

    Attributes:
        triggers: as ``--trigger`` names them.
        rules: of a policy.
        relearn: poisoned images to fine-tune a copy on.
    """

    model: Path
    reference: Path | None
    asked: Request
    triggers: tuple[str, ...]
    target: str | None
    limits: Limits
    rules: Policy | None
    confident: bool
    reactivate: bool
    relearn: int | None
    device: str
    seed: int

    @property
    def attacks(self) -> bool:
        """Whether the model is attacked again."""
        return self.reactivate or self.relearn is not None

    @property
    def asks_of_the_model(self) -> bool:
        """Whether flags ask for what only a measurement of the model itself tells."""
        return bool(self.reference or self.triggers or self.limits.any or self.confident or self.attacks)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class EvaluateSubject:
    """What is measured, on which images.

    Attributes:
        reference: to compare with.
    """

    classifier: Classifier
    reference: Classifier | None
    triggers: tuple[Trigger, ...]
    images: ImageData


def _parsed(text: str | None, name: str) -> float | None:
    return None if text is None else parse_fraction(text, name)


def _check_no_drill(plan: EvaluatePlan, budget: str | None, clean_frac: str | None) -> None:
    """Raises UsageError for flags that mean nothing without others."""
    if budget is not None or clean_frac is not None:
        raise UsageError("--budget and --clean-frac are of a drill, and there is none; add --drill")
    if plan.attacks and not plan.triggers:
        raise UsageError("--reactivate and --relearn bring a trigger's backdoor back; add --trigger")
    if plan.target is not None and not plan.triggers:
        raise UsageError("--target says where a trigger sends images, and there is none; add --trigger")
    if plan.confident and plan.rules is None and not plan.limits.any:
        raise UsageError("--confident says how limits are judged, and there is none; add --max-asr or another")
    if plan.limits.max_acc_drop is not None and plan.reference is None:
        raise UsageError("--max-acc-drop needs a model to compare with; add --reference")


def _drill(session: Session, plan: EvaluatePlan, attacks: str, *, share: float | None, budget: float | None) -> None:
    """Measure the defence in place of the model."""
    from sau_cli.devices import chosen_device

    if plan.rules is not None:
        told = "a drill judges the defence and not the model; sau evaluate without --drill judges it"
        session.findings.add(Check(id="policy", status=CheckStatus.SKIPPED, evidence=told))
    run_drill(
        session,
        plan.model,
        plan.asked,
        attacks=attacks,
        target=plan.target,
        share=share,
        budget=budget,
        device=chosen_device(plan.device),
        seed=plan.seed,
    )


def _measure(session: Session, plan: EvaluatePlan) -> None:
    """Measure the model, judge it, and see whether what was measured lasts."""
    from sau_cli.devices import chosen_device
    from sau_cli.evaluation.metrics import evaluate
    from sau_cli.images import some_of

    device = chosen_device(plan.device)
    subject, file_rules = _opened(session, plan)
    images = subject.images.for_testing
    session.findings.ran_on(device=str(device))
    measured: list[Evaluation] = []
    try:
        with session.working(f"measuring on {len(images):,} test images"):
            evaluate(
                subject.classifier.to(device),
                images,
                triggers=subject.triggers,
                reference=None if subject.reference is None else subject.reference.to(device),
                keep=measured.append,
            )
    finally:  # what was measured before an error is told and judged
        for evaluation in measured[-1:]:
            _tell(session, plan, subject, evaluation, file_rules)
    if subject.reference is not None:
        some = some_of(images, COMPARISON_IMAGES)
        details = comparison_details(subject.reference, subject.classifier, some, subject.triggers, measured[-1])
        session.findings.tell(comparison=details)
    if plan.attacks:
        _see_whether_it_lasts(session, plan, subject, trigger_ids(measured[-1]))


def _opened(session: Session, plan: EvaluatePlan) -> tuple[EvaluateSubject, tuple[Check, ...]]:
    """Open what is to be measured; and the rules about the model's file, as checks."""
    from sau_cli.evaluation.recognition import RECOGNISED_BY, check_label_order
    from sau_cli.images import some_of

    given = _triggers(plan)
    checkpoint = received(session, plan.model)
    file_rules = () if plan.rules is None else _judged_file(checkpoint, plan.rules)
    session.findings.add(*file_rules)
    opened, images = open_model_and_data(session, plan.model, plan.asked, checkpoint=checkpoint, to_learn=plan.attacks)
    known = opened.classifier.description
    triggers = tuple(trigger_file.trigger.for_classes(known.class_names) for trigger_file in given)
    check_label_order(opened.classifier, some_of(images.for_testing, RECOGNISED_BY))
    before = None
    if plan.reference is not None:
        before, _ = open_model_and_data(session, plan.reference, plan.asked, data=images, like=known)
    for trigger_file in given:
        session.took(trigger_file.path, trigger_file.sha256)
    return EvaluateSubject(
        classifier=opened.classifier,
        reference=None if before is None else before.classifier,
        triggers=triggers,
        images=images,
    ), file_rules


def _triggers(plan: EvaluatePlan) -> tuple[OpenedTrigger, ...]:
    """Those that are named, each with its rule.

    Raises:
        UsageError: none of them leads where ``--target`` says.
    """
    from sau_adapters.triggers import read_trigger
    from sau_cli.triggers.targets import parse_target

    rule = None if plan.target is None else parse_target(plan.target)
    given = tuple(read_trigger(source, rule) for source in plan.triggers)
    if given and rule is not None and all(trigger_file.trigger.rule != rule for trigger_file in given):
        other = given[0].trigger
        raise UsageError(
            f"the trigger {other.name} is {other.rule}, and --target says {plan.target}; leave --target out"
        )
    return given


def _tell(
    session: Session,
    plan: EvaluatePlan,
    subject: EvaluateSubject,
    evaluation: Evaluation,
    file_rules: tuple[Check, ...],
) -> None:
    """What was measured, and how limits and rules stand."""
    from sau_cli.gating.policy import judge_measures

    findings, name = session.findings, subject.images.name
    findings.tell(data=name, evaluation=plain(evaluation))
    findings.add(*evaluation_checks(evaluation))
    judged = tuple(_judged(evaluation, plan.limits, confident=plan.confident))
    if plan.rules is not None:
        judged += judge_measures(findings.checks, plan.rules, unmeasured=CheckStatus.SKIPPED, confident=plan.confident)
    findings.add(*judged)
    session.show(evaluation_table(evaluation, title=f"{evaluation.images} test images of {name}"))
    for remark in remarks(evaluation):
        session.show(f"warning: {remark}")
    if file_rules or judged:
        session.show(checks_table((*file_rules, *judged)))


def _see_whether_it_lasts(session: Session, plan: EvaluatePlan, subject: EvaluateSubject, names: Sequence[str]) -> None:
    """Attack the model on half of the test images, and measure on the other."""
    from sau_cli.evaluation.reactivation import reactivate
    from sau_cli.evaluation.relearning import relearn
    from sau_cli.images import parted

    seed, poisoned = plan.seed, plan.relearn
    made_on, measured_on = parted(subject.images.for_testing, 0.5, seed=seed)
    woken: list[Reactivation] = []
    taught: list[Relearning] = []
    try:
        with session.working("attacking it again"):
            if plan.reactivate:
                woken.extend(
                    reactivate(subject.classifier, made_on, measured_on, trigger, seed=seed)
                    for trigger in subject.triggers
                )
            if poisoned is not None:
                taught.extend(
                    relearn(subject.classifier, made_on, measured_on, trigger, poisoned=poisoned, seed=seed)
                    for trigger in subject.triggers
                )
    finally:
        if woken or taught:
            session.findings.tell(
                lasting={
                    "measured_on": len(measured_on),
                    "seed": seed,
                    "reactivation": plain(woken),
                    "relearning": plain(taught),
                }
            )
            session.findings.add(*lasting_checks(names, woken, taught))
            session.show(lasting_table(names, woken, taught, images=len(measured_on)))


def _check_no_looser(limits: Limits, rules: Policy | None) -> None:
    """Raises UsageError for a flag that allows what the policy forbids."""
    if rules is None:
        return
    for flag, limit, rule, ruled in (
        ("max-asr", limits.max_asr, "max-asr", rules.max_asr),
        ("max-acc-drop", limits.max_acc_drop, "max-drop", rules.max_drop),
        ("min-acc", limits.min_acc, "min-acc", rules.min_acc),
    ):
        if limit is None or ruled is None:
            continue
        if limit < ruled if rule == "min-acc" else limit > ruled:
            raise UsageError(
                f"--{flag} {limit:g} allows what the policy's {rule} = {ruled:g} forbids; leave one of the two out"
            )


def _judged_file(checkpoint: OpenedModel, rules: Policy) -> tuple[Check, ...]:
    """Each rule about the file as a check; one that nothing here tells of is skipped, with its reason."""
    from sau_cli.gating.policy import JudgedFile, judge_file

    file = JudgedFile(
        format=checkpoint.format,
        sha256=checkpoint.sha256,
        metadata=checkpoint.metadata,
        description=checkpoint.description,
        worst=None,
        beside=checkpoint.beside,
    )
    return judge_file(file, rules)


def _judged(evaluation: Evaluation, limits: Limits, *, confident: bool) -> Iterator[Check]:
    """How each limit stands."""
    if (limit := limits.max_asr) is not None:
        for row, name in zip(evaluation.triggers, trigger_ids(evaluation), strict=True):
            yield at_most(f"limit.max-asr.{name}", row.asr, limit, confident=confident, what=f"ASR of {name}")
    if (limit := limits.min_acc) is not None:
        yield at_least("limit.min-acc", evaluation.accuracy, limit, confident=confident, what="ACC")
    if (limit := limits.max_acc_drop) is not None and (drop := evaluation.accuracy_drop) is not None:
        yield at_most("limit.max-acc-drop", drop, limit, confident=confident, what="the drop of ACC")
