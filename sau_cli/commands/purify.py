"""``sau purify``: remove what is there, with clean images only."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from math import exp
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sau_adapters.classifiers.saving import suffix_of_result
from sau_adapters.zoos import addresses
from sau_adapters.zoos.folders import weights_in
from sau_adapters.zoos.transformers_folders import TRANSFORMERS_FILES
from sau_cli import __version__
from sau_cli.commands.comparison_view import compare, triggers_named
from sau_cli.commands.fleet_options import FleetOptions, JobsTableOption
from sau_cli.commands.inputs import (
    ReadyModel,
    Request,
    data_source,
    fetch,
    from_hub,
    open_model_and_data,
    received,
    request,
)
from sau_cli.commands.job_table import check_alone, run_table
from sau_cli.commands.method_flags import methods_told, with_method_flags
from sau_cli.commands.options import (
    DataOption,
    DataRootOption,
    DeviceOption,
    DownloadOption,
    OptionalModelArgument,
    OutputOptions,
    ReadingOptions,
    SeedOption,
    TargetOption,
    TriggersOption,
    with_groups,
)
from sau_cli.commands.outputs import (
    check_not_input,
    check_state_place,
    check_weights_name,
    purified_name,
    state_path,
)
from sau_cli.commands.progress import ProgressView
from sau_cli.commands.purification_view import (
    measures_of,
    not_shown_check,
    purification_checks,
    purification_summary,
)
from sau_cli.commands.residual_view import residual_of
from sau_cli.commands.session import Session
from sau_cli.commands.stopping import Stopping, parse_duration
from sau_cli.description import HistoryStep
from sau_cli.errors import Inconclusive, Interrupted, SauError, UsageError
from sau_cli.gating.limits import parse_fraction
from sau_cli.precision import Precision, chosen_precision
from sau_cli.reporting.json_document import plain
from sau_cli.results import Check, CheckStatus
from sau_cli.team import own_device, team_of_environment, together
from sau_cli.unlearning.methods import MethodName, MethodSettings, settings_for
from sau_cli.unlearning.recipes import RecipeName

if TYPE_CHECKING:
    import torch

    from sau_adapters.models import OpenedModel
    from sau_cli.classifier import Classifier
    from sau_cli.images import CleanData, ImageData, LabelledImages
    from sau_cli.triggers.trigger import Trigger
    from sau_cli.unlearning.purifier import Purification
    from sau_cli.unlearning.run_state import RunState
    from sau_cli.unlearning.trail import PurifyProgress

ENOUGH_UNSEEN = 128


@with_method_flags
@with_groups
def purify_command(
    context: typer.Context,
    model: OptionalModelArgument = None,
    *,
    data: DataOption = None,
    clean_frac: Annotated[
        str | None,
        typer.Option(
            metavar="F",
            help="Share of the data's training part to learn from, such as 0.05 or 5%. "
            "[default: sau.toml, else all of a data set without a split]",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            metavar="OUT.safetensors",
            help="[default: MODEL.purified.safetensors; .onnx of ONNX; a folder MODEL.purified of one of transformers]",
        ),
    ] = None,
    trigger: TriggersOption = None,
    target: TargetOption = None,
    method: Annotated[
        MethodName,
        typer.Option(help=methods_told()),
    ] = MethodName.SAU,
    recipe: Annotated[
        RecipeName | None,
        typer.Option(
            help="Which settings of sau to start from: what measured best, or the paper's own. [default: default]"
        ),
    ] = None,
    settings: Mapping[str, Any],
    precision: Annotated[
        Precision | None,
        typer.Option(help="Of the networks. [default: bf16 where that is faster, else fp32; paper, i-bau: fp32]"),
    ] = None,
    max_batch: Annotated[
        int | None,
        typer.Option(
            min=1, help="Most images in memory at a time, to the same result from 32 on. [default: the batch size]"
        ),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from where an interrupted run stopped.")] = False,
    time_budget: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="Of learning, such as 90s, 10m or 1h30m: stop in time, exit 6, resumable."),
    ] = None,
    data_root: DataRootOption = None,
    reading: ReadingOptions,
    download: DownloadOption = False,
    device: DeviceOption = "auto",
    seed: SeedOption = 0,
    jobs_table: JobsTableOption = None,
    fleet: FleetOptions,
    output: OutputOptions,
) -> None:
    """Remove a backdoor by Shared Adversarial Unlearning. No trigger is needed, and none is learned from.

    It finds adversarial examples that the received and the purified model share, and unlearns them
    (Wei et al., NeurIPS 2023): among them the easiest changes of all images, class by class. The
    accuracy is watched on clean images that are held back from learning.

    In the end the residual test says, with clean images alone, whether one class is still far easier
    to lead images to than the others, in both models. A model that it does not clear is written,
    marked in its history, and exit 6. One that it clears is not certified clean: measure it with sau
    evaluate. The report compares both models on images that were not learned from, with each --trigger,
    too. --method has other ways to do it, from the same clean images, to compare with.

    The state is kept beside OUT after every epoch. Ctrl-C stops after the step at hand; the same
    command with --resume goes on, to the same result.

    \b
    Examples:
      sau purify model.safetensors --clean-frac 0.05
      sau purify vendor.pth --normalisation none --data clean/ \\
        -o fixed.safetensors
      sau purify model.safetensors --clean-frac 0.05 --report purified.html \\
          --trigger model.trigger.safetensors
      sau purify model.safetensors --clean-frac 0.05 --recipe paper \\
        --json report.json
      sau purify model.safetensors --clean-frac 0.05 --method ft-sam --rho 8
      sau purify model.safetensors --clean-frac 0.05 --time-budget 30m --resume
      sau purify --jobs-table jobs.csv --clean-frac 0.05 --ray head-node:6379
    """
    with Session("purify", output, replace_report=resume) as session:
        session.join(team_of_environment())
        asked = request(reading, data=data, data_root=data_root)
        if model is None or jobs_table is not None:
            run_table(session, "purify", context, model, jobs_table, fleet=fleet, asked=asked, device=device)
            return
        check_alone(fleet)
        fetch(session, model, download=download)
        checkpoint = received(session, model)
        place = _place(session, model, checkpoint, out, resume=resume)
        budget = None if time_budget is None else parse_duration(time_budget)
        fitted = partial(settings_for, method, recipe, **settings)
        plan = PurifyPlan(
            model=model,
            checkpoint=checkpoint,
            asked=asked,
            place=place,
            triggers=tuple(trigger or ()),
            target=target,
            method=method,
            settings=fitted(),
            fitted=fitted,
            share=_share(asked, clean_frac),
            budget=budget,
            precision=precision,
            max_batch=max_batch,
            device=device,
            seed=seed,
        )
        start = _started(session, plan)
        purified, interrupted = _purified(session, plan, start)
        _tell(session, plan, start, purified)
        if session.team.leads:
            _check_there_is_something(start, purified, interrupted=interrupted)
            residual = _residual(session, plan, start, purified)
            _write(session, plan, start, purified, residual)


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputPlace:
    """Where the result goes, and beside it the state of a run that is not done.

    Attributes:
        suffix: of the result; none of a folder.
        resume: whether to go on with a run, if there is one.
        goes_on: whether there is.
    """

    path: Path
    suffix: str
    state_file: Path
    resume: bool
    goes_on: bool


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PurifyPlan:
    """What was asked for, and makes sense as far as can be told before anything is opened.

    Attributes:
        triggers, target: to measure with, as ``--trigger`` and ``--target`` name them.
        settings, fitted: of the method, and how they are fitted to what there is to learn from.
        share: of the training part to learn from; None for all of data without a split.
        budget: seconds to learn in; None for as long as it takes.
    """

    model: Path
    checkpoint: OpenedModel
    asked: Request
    place: OutputPlace
    triggers: tuple[str, ...]
    target: str | None
    method: MethodName
    settings: MethodSettings
    fitted: Callable[..., MethodSettings]
    share: float | None
    budget: float | None
    precision: Precision | None
    max_batch: int | None
    device: str
    seed: int


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PurifyStart:
    """What a purification starts from.

    Attributes:
        classifier: the received one, on the device to work on.
        apart: how far the clean images are from those that it learned from; see
            :func:`~sau_cli.unlearning.clean_check.statistics_apart`.
        state: of an interrupted run, to go on from.
    """

    opened: ReadyModel
    classifier: Classifier
    images: ImageData
    clean: CleanData
    triggers: tuple[Trigger, ...]
    settings: MethodSettings
    precision: Precision
    device: torch.device
    apart: float
    state: RunState | None


def _place(session: Session, model: Path, checkpoint: OpenedModel, out: Path | None, *, resume: bool) -> OutputPlace:
    """Where the result goes, after a look at whether it can be written there."""
    suffix = suffix_of_result(checkpoint, out)
    path = out or purified_name(model, suffix=suffix)
    check_weights_name(path, suffix=suffix)
    check_not_input(model, path)
    state_file = state_path(path)
    goes_on = resume and state_file.exists()
    if not (goes_on and path.exists()):
        session.reserve(path, folder_of=() if suffix else TRANSFORMERS_FILES)
    session.claim(path, state_file)
    check_state_place(state_file, resume=resume, force=session.force)
    return OutputPlace(path=path, suffix=suffix, state_file=state_file, resume=resume, goes_on=goes_on)


def _share(asked: Request, clean_frac: str | None) -> float | None:
    """Of the training part, what to learn from."""
    share = asked.defaults.clean_frac if clean_frac is None else parse_fraction(clean_frac, "clean_frac")
    if share is not None and not 0 < share <= 1:
        raise UsageError(f"--clean-frac {share:g} is impossible; give a share above 0 and at most 1, such as 0.05")
    return share


def _started(session: Session, plan: PurifyPlan) -> PurifyStart:
    """Open the model and its clean images, and say what they are like.

    Raises:
        UsageError: what is written already is not of this run, or nobody says how much of the images to learn from.
    """
    from sau_adapters.run_states import read_state
    from sau_cli.devices import chosen_device
    from sau_cli.images import draw_clean
    from sau_cli.unlearning.clean_check import check_clean_data, statistics_apart

    device, place = chosen_device(own_device(plan.device)), plan.place
    opened, images = open_model_and_data(session, plan.model, plan.asked, checkpoint=plan.checkpoint, to_learn=True)
    triggers = triggers_named(session, plan.triggers, plan.target, opened.classifier.description.class_names)
    _check_nothing_is_lost(session, place, opened)
    _check_share_is_told(plan, images)
    clean = draw_clean(
        images.train,
        plan.share,
        balanced=plan.settings.balanced,
        augmentation=images.augmentation,
        seed=plan.seed,
    )
    settings = plan.fitted(learning=clean.learning)
    precision = chosen_precision(plan.precision or settings.own_precision, device, opened.classifier)
    classifier = opened.classifier.to(device)
    check_clean_data(classifier, clean)
    start = PurifyStart(
        opened=opened,
        classifier=classifier,
        images=images,
        clean=clean,
        triggers=triggers,
        settings=settings,
        precision=precision,
        device=device,
        apart=statistics_apart(classifier, clean.learning.images),
        state=read_state(place.state_file) if place.goes_on else None,
    )
    _say_what_it_is_like(session, plan, start)
    return start


def _check_nothing_is_lost(session: Session, place: OutputPlace, opened: ReadyModel) -> None:
    """Raises UsageError where what a run that goes on would replace is not its own."""
    overwrites = place.goes_on and place.path.exists() and not session.force
    if overwrites and not _came_from(place.path, opened.checkpoint.sha256):
        raise UsageError(f"{place.path} is not of this run; give another name with -o, or add --force")


def _check_share_is_told(plan: PurifyPlan, images: ImageData) -> None:
    """Raises UsageError where nobody says how much of a training part to learn from."""
    if plan.share is None and images.test is not None:
        raise UsageError(
            f"{images.name} has a training part of {len(images.train)} images; add --clean-frac to say how much "
            "of it is yours, such as 0.05 (1 for all)"
        )


def _purified(session: Session, plan: PurifyPlan, start: PurifyStart) -> tuple[Purification, bool]:
    """Do it; and whether somebody stopped it before its end."""
    from sau_adapters.run_states import write_state
    from sau_cli.unlearning.purifier import purify

    team, place = session.team, plan.place
    if team.leads and start.state is None:
        place.state_file.unlink(missing_ok=True)
    session.resumes_from(place.state_file)
    with ProgressView(session, "purify") as view, Stopping(plan.budget) as stopping, together(team, start.device):

        def watch(at: PurifyProgress) -> None:
            view.show(at, measures=measures_of(at, plan.method))

        purified = purify(
            start.classifier,
            start.clean,
            recipe=start.settings,
            seed=plan.seed,
            precision=start.precision,
            max_batch=plan.max_batch,
            watch=watch,
            save=partial(write_state, place.state_file) if team.leads else None,
            stop=stopping,
            resume=start.state,
            team=team,
        )
        return purified, team.any(stopping.interrupted, start.device)


def _check_there_is_something(start: PurifyStart, purified: Purification, *, interrupted: bool) -> None:
    """Raises Interrupted or Inconclusive where there is nothing to write yet."""
    if interrupted and not purified.finished:
        raise Interrupted(
            f"interrupted after {len(purified.epochs)} of {start.settings.epochs} epochs, and nothing is lost; "
            "add --resume to the same command to go on"
        )
    if not purified.epochs:
        raise Inconclusive(
            "the time budget was spent before the first epoch was whole, and no weights were written; "
            "the same command with --resume goes on"
        )


def _residual(
    session: Session, plan: PurifyPlan, start: PurifyStart, purified: Purification
) -> tuple[Check, Mapping[str, Any]]:
    """Whether anything is left that both models share, as a check and as details for reports and histories."""
    from sau_cli.inspection.residual_checks import unexamined_check

    if purified.finished:
        check, details = residual_of(
            session,
            (purified.classifier, start.classifier),
            _unseen(start.clean),
            seed=plan.seed,
            shared=True,
            unlearned=purified.unlearned,
        )
    else:
        why = "the run is not finished"
        check, details = unexamined_check(why, shared=True), {"cleared": False, "reason": why}
    session.findings.add(check)
    session.findings.tell(residual=details)
    return check, details


def _write(
    session: Session,
    plan: PurifyPlan,
    start: PurifyStart,
    purified: Purification,
    residual: tuple[Check, Mapping[str, Any]],
) -> None:
    """Write the weights, with their history, and say where.

    Raises:
        Inconclusive: they are not those of a finished run.
    """
    from sau_adapters.classifiers.saving import save_like, written_result
    from sau_adapters.images.sources import is_named, name_of

    place, opened = plan.place, start.opened
    known = opened.classifier.description
    step = _history_step(plan, start, purified, residual[1])
    data = known.data or name_of(data_source(plan.asked, known))
    described = replace(known, data=data, history=(*known.history, step))
    with written_result(place.path, folder=not place.suffix) as part:
        save_like(opened.checkpoint, part, purified.classifier, described, proof=start.images.for_testing)
    session.wrote("weights", weights_in(place.path))
    session.findings.tell(described_data=data)
    unseen = start.images.test or start.clean.held_back
    compare(session, start.classifier, purified.classifier, unseen, start.triggers)
    session.show(purification_summary(purified))
    if not purified.finished:
        raise Inconclusive(
            f"the time budget was spent after {len(purified.epochs)} of {start.settings.epochs} epochs; {place.path} "
            "is what there is so far, and the same command with --resume goes on"
        )
    place.state_file.unlink(missing_ok=True)
    marked = "" if residual[0].status is CheckStatus.PASSED else ", which is not cleared"
    where = "" if is_named(data) else " --data FOLDER"
    measuring = f"sau evaluate {place.path} --reference {addresses.name_of(plan.model)}{where} [--trigger T]"
    session.show(f"wrote {place.path}{marked}; measure it with: {measuring}")


def _history_step(
    plan: PurifyPlan, start: PurifyStart, purified: Purification, residual: Mapping[str, Any]
) -> HistoryStep:
    names, unlearned = start.classifier.description.class_names, purified.unlearned
    return HistoryStep(
        step="purify",
        settings=start.settings.settings()
        | {
            "method": plan.method.value,
            "data": start.images.name,
            "clean_frac": plan.share,
            "learned_from": len(start.clean.learning),
            "precision": start.precision.value,
            "max_batch": plan.max_batch,
            "epochs_run": len(purified.epochs),
            "residual": {name: value for name, value in residual.items() if name != "recovered"},
        }
        | from_hub(start.opened.checkpoint)
        | ({} if unlearned is None else {"unlearned": [names[place] for place in sorted(unlearned)]}),
        seed=plan.seed,
        input_sha256=start.opened.checkpoint.sha256,
        tool_version=__version__,
    )


def _tell(session: Session, plan: PurifyPlan, start: PurifyStart, purified: Purification) -> None:
    """What the report says of the run, also of one that is not done."""
    session.findings.ran_on(
        device=str(start.device),
        precision=start.precision.value,
        processes=session.team.size,
        cuda_graphs=purified.cuda_graphs,
    )
    session.findings.tell(
        method=plan.method.value,
        settings=start.settings.settings(),
        seed=plan.seed,
        max_batch=plan.max_batch,
        data=start.images.name,
        learned_from=purified.learned_from,
        held_back=purified.held_back,
        clean_statistics_apart=start.apart,
        finished=purified.finished,
        learning_rate_factor=purified.rate,
        epochs=plain(purified.epochs),
        rounds=plain(purified.rounds),
    )
    session.findings.add(*purification_checks(purified))


def _say_what_it_is_like(session: Session, plan: PurifyPlan, start: PurifyStart) -> None:
    """Where it starts from, with a warning of images that teach too little."""
    from sau_cli.unlearning.clean_check import FOREIGN, classes_not_shown

    place, clean = plan.place, start.clean
    if place.resume and not place.goes_on:
        session.show(f"there is no {place.state_file} to go on from; starting from the beginning")
    session.show(
        f"{start.classifier.description.architecture}, {len(clean.learning)} clean images of {start.images.name} "
        f"to learn from, {len(clean.held_back)} others held back to watch the accuracy, on {start.device} "
        f"in {start.precision}"
    )
    if lost := classes_not_shown(clean.learning):
        check = not_shown_check(lost, of=clean.learning.classes)
        session.findings.add(check)
        session.show(f"warning: {check.evidence}")
    if start.apart > FOREIGN:
        session.show(
            "warning: the clean images look unlike those that the model learned from: its batch norms see "
            f"variances {exp(start.apart):.1f} times off; accuracy may fall by many points, so give images from where "
            "it is used"
        )


def _unseen(clean: CleanData) -> LabelledImages:
    """Clean images for the residual test: those that were not learned from, where they are enough."""
    if len(clean.held_back) >= ENOUGH_UNSEEN:
        return clean.held_back
    return clean.held_back.and_those_of(clean.learning)


def _came_from(weights: Path, sha256: str) -> bool:
    """Whether a file says that it was purified from the model with this SHA-256."""
    from sau_adapters.models import locate, open_model

    try:
        told = open_model(locate(weights)).facts.description
    except SauError:
        return False
    last = told.history[-1] if told and told.history else None
    return last is not None and (last.step, last.input_sha256) == ("purify", sha256)
