"""``sau purify``: remove what is there, with clean images only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from math import exp
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Group

from sau_adapters.checkpoints import suffix_of_result
from sau_adapters.model_folders import weights_in
from sau_adapters.transformers_folders import FILES
from sau_cli import __version__
from sau_cli.commands.comparison_view import compare, triggers_named
from sau_cli.commands.inputs import data_source, fetch, from_hub, open_model_and_data, request
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
    QuietOption,
    ReportOption,
    SeedOption,
    TargetOption,
    TriggersOption,
    VerboseOption,
)
from sau_cli.commands.outputs import (
    check_not_input,
    check_state_place,
    check_weights_name,
    purified_name,
    state_path,
)
from sau_cli.commands.progress import ProgressView
from sau_cli.commands.residual_view import residual_of
from sau_cli.commands.session import Session
from sau_cli.commands.stopping import Stopping, parse_duration
from sau_cli.description import HistoryStep
from sau_cli.errors import Inconclusive, Interrupted, SauError, UsageError
from sau_cli.evaluation.limits import parse_fraction
from sau_cli.precision import Precision, chosen_precision
from sau_cli.reporting.json_document import plain
from sau_cli.reporting.terminal import percent, table
from sau_cli.results import Check, CheckStatus
from sau_cli.team import own_device, team_of_environment, together
from sau_cli.unlearning.methods import MethodName, settings_for
from sau_cli.unlearning.recipes import Recipe, RecipeName

if TYPE_CHECKING:
    from sau_cli.images import CleanData, LabelledImages
    from sau_cli.unlearning.purifier import Purification
    from sau_cli.unlearning.trail import PurifyProgress

ENOUGH_UNSEEN = 128
MUCH = 0.05
"""Accuracy lost of which more is remarked upon."""


def purify(
    model: ModelArgument,
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
        typer.Option(
            help="Shared Adversarial Unlearning; or, to compare with, fine-tuning, fine-tuning by sharpness-aware "
            "minimisation, unlearning of a universal perturbation, or a new head: far from the received one, or turned "
            "away from it."
        ),
    ] = MethodName.SAU,
    recipe: Annotated[
        RecipeName | None,
        typer.Option(
            help="Which settings of sau to start from: what measured best, or the paper's own. [default: default]"
        ),
    ] = None,
    epochs: Annotated[
        int | None,
        typer.Option(
            help="Passes over the clean images. [default: 12, more if they are few; paper, ft, ft-sam, d3: 100; fst: "
            "10; i-bau: 5]"
        ),
    ] = None,
    lr: Annotated[
        float | None,
        typer.Option(
            help="Learning rate. [default: 0.01, or 0.02 for images below 16x16; ft, ft-sam, d3, fst: 0.01; "
            "paper, i-bau: 1e-4]"
        ),
    ] = None,
    batch_size: Annotated[
        int | None,
        typer.Option(help="Images a step. [default: 16 to 128, by how many there are; paper, other methods: 256]"),
    ] = None,
    epsilon: Annotated[
        float | None, typer.Option(help="L-infinity radius of the perturbations. [default: 0.2]")
    ] = None,
    step: Annotated[float | None, typer.Option(help="Of each signed-gradient step. [default: epsilon]")] = None,
    steps: Annotated[int | None, typer.Option(help="Signed-gradient steps. [default: 3; paper: 5]")] = None,
    clean_weight: Annotated[
        float | None,
        typer.Option(help="λ1, of learning the clean images; λ of d3, against the distance. [default: 1; d3: 10]"),
    ] = None,
    unlearning_weight: Annotated[
        float | None,
        typer.Option(help="λ2, of unlearning; 0 for none. [default: 0.75, or 1 for images below 16x16; paper: 1]"),
    ] = None,
    adversarial_weight: Annotated[
        float | None, typer.Option(help="λ3, of fooling both models, in the search. [default: 1; paper: 0.01]")
    ] = None,
    shared_weight: Annotated[
        float | None, typer.Option(help="λ4, of fooling them alike, in the search. [default: 1]")
    ] = None,
    rho: Annotated[float | None, typer.Option(help="Radius of ft-sam, adaptive to the weights. [default: 2]")] = None,
    alpha: Annotated[
        float | None, typer.Option(help="α of fst, of turning away from the received head. [default: 0.1]")
    ] = None,
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
      sau purify vendor.pth --normalisation none --data clean/ -o fixed.safetensors
      sau purify model.safetensors --clean-frac 0.05 --report purified.html \\
          --trigger model.trigger.safetensors
      sau purify model.safetensors --clean-frac 0.05 --recipe paper --json report.json
      sau purify model.safetensors --clean-frac 0.05 --method ft-sam --rho 8
      sau purify model.safetensors --clean-frac 0.05 --time-budget 30m --resume
    """
    with Session(
        "purify", json=json_, reports=report, quiet=quiet, verbose=verbose, force=force, replace_report=resume
    ) as session:
        team = team_of_environment()
        session.join(team)
        fetch(session, model, download=download)
        suffix = suffix_of_result(model, out)
        destination = out or purified_name(model, suffix=suffix)
        check_weights_name(destination, suffix=suffix)
        check_not_input(model, destination)
        state_file = state_path(destination)
        goes_on = resume and state_file.exists()
        if not (goes_on and destination.exists()):
            session.reserve(destination, folder_of=() if suffix else FILES)
        session.claim(destination, state_file)
        check_state_place(state_file, resume=resume, force=force)
        budget = None if time_budget is None else parse_duration(time_budget)
        asked = request(
            data=data,
            data_root=data_root,
            arch=arch,
            image_size=image_size,
            normalisation=normalisation,
            class_order=class_order,
        )
        fitted = partial(
            settings_for,
            method,
            recipe,
            epochs=epochs,
            lr=lr,
            batch_size=batch_size,
            epsilon=epsilon,
            step=step if step is not None else epsilon,
            steps=steps,
            clean_weight=clean_weight,
            unlearning_weight=unlearning_weight,
            adversarial_weight=adversarial_weight,
            shared_weight=shared_weight,
            rho=rho,
            alpha=alpha,
        )
        settings = fitted()
        share = asked.settings.clean_frac if clean_frac is None else parse_fraction(clean_frac, "--clean-frac")
        if share is not None and not 0 < share <= 1:
            raise UsageError(f"--clean-frac {share:g} is impossible; give a share above 0 and at most 1, such as 0.05")

        from sau_adapters.checkpoints import save_like, written_result
        from sau_adapters.image_sources import name_of
        from sau_adapters.run_states import read_state, write_state
        from sau_cli.devices import chosen_device
        from sau_cli.images import draw_clean
        from sau_cli.inspection.residual_checks import unexamined_check
        from sau_cli.unlearning.clean_check import (
            FOREIGN,
            check_clean_data,
            classes_not_shown,
            statistics_apart,
        )
        from sau_cli.unlearning.purifier import purify as remove

        chosen = chosen_device(own_device(device))
        opened, images = open_model_and_data(session, model, asked, to_learn=True)
        triggers = triggers_named(session, trigger, target, opened.classifier.description.class_names)
        if goes_on and destination.exists() and not (force or _came_from(destination, opened.checkpoint.sha256)):
            raise UsageError(f"{destination} is not of this run; give another name with -o, or add --force")
        if share is None and images.test is not None:
            raise UsageError(
                f"{images.name} has a training part of {len(images.train)} images; add --clean-frac to say how much "
                "of it is yours, such as 0.05 (1 for all)"
            )
        clean = draw_clean(images.train, share, balanced=settings.balanced, augmentation=images.augmentation, seed=seed)
        settings = fitted(learning=clean.learning)
        single = method is MethodName.I_BAU or recipe is RecipeName.PAPER
        asked_precision = Precision.FP32 if precision is None and single else precision
        number_format = chosen_precision(asked_precision, chosen, opened.classifier)
        classifier = opened.classifier.to(chosen)
        check_clean_data(classifier, clean)
        apart = statistics_apart(classifier, clean.learning.images)
        state = read_state(state_file) if goes_on else None
        if resume and state is None:
            session.show(f"there is no {state_file} to go on from; starting from the beginning")
        session.show(
            f"{classifier.description.architecture}, {len(clean.learning)} clean images of {images.name} "
            f"to learn from, {len(clean.held_back)} others held back to watch the accuracy, on {chosen} "
            f"in {number_format}"
        )
        if lost := classes_not_shown(clean.learning):
            session.checks.append(_not_shown(lost, of=clean.learning.classes))
            session.show(f"warning: {session.checks[-1].evidence}")
        if apart > FOREIGN:
            session.show(
                "warning: the clean images look unlike those that the model learned from: its batch norms see "
                f"variances {exp(apart):.1f} times off; accuracy may fall by many points, so give images from where it "
                "is used"
            )
        if team.leads and not goes_on:
            state_file.unlink(missing_ok=True)
        session.state_file = state_file
        with (
            ProgressView(session, "purify") as view,
            Stopping(budget) as stopping,
            together(team, chosen),
        ):

            def watch(at: PurifyProgress) -> None:
                view.update(
                    epoch=at.epoch,
                    epochs=at.epochs,
                    batch=at.batch,
                    batches=at.batches,
                    measures=_measures(at, method),
                )

            purified = remove(
                classifier,
                clean,
                recipe=settings,
                seed=seed,
                precision=number_format,
                max_batch=max_batch,
                watch=watch,
                save=partial(write_state, state_file) if team.leads else None,
                stop=stopping,
                resume=state,
                team=team,
            )
            interrupted = team.any(stopping.interrupted, chosen)
        session.environment = {
            "device": str(chosen),
            "precision": number_format.value,
            "processes": team.size,
            "cuda_graphs": purified.cuda_graphs,
        }
        session.details = {
            "method": method.value,
            "settings": settings.settings(),
            "seed": seed,
            "max_batch": max_batch,
            "data": images.name,
            "learned_from": purified.learned_from,
            "held_back": purified.held_back,
            "clean_statistics_apart": apart,
            "finished": purified.finished,
            "learning_rate_factor": purified.rate,
            "epochs": plain(purified.epochs),
            "rounds": plain(purified.rounds),
        }
        session.checks.extend(_checks(purified))
        if not team.leads:
            return
        if interrupted and not purified.finished:
            raise Interrupted(
                f"interrupted after {len(purified.epochs)} of {settings.epochs} epochs, and nothing is lost; "
                "add --resume to the same command to go on"
            )
        if not purified.epochs:
            raise Inconclusive(
                "the time budget was spent before the first epoch was whole, and no weights were written; "
                "the same command with --resume goes on"
            )
        if purified.finished:
            residual, residual_details = residual_of(
                session,
                (purified.classifier, classifier),
                _unseen(clean),
                seed=seed,
                shared=True,
                unlearned=purified.unlearned,
            )
        else:
            why = "the run is not finished"
            residual, residual_details = unexamined_check(why, shared=True), {"cleared": False, "reason": why}
        session.checks.append(residual)
        session.details["residual"] = residual_details
        known = opened.classifier.description
        names = known.class_names
        history = HistoryStep(
            step="purify",
            settings=settings.settings()
            | {
                "method": method.value,
                "data": images.name,
                "clean_frac": share,
                "learned_from": len(clean.learning),
                "precision": number_format.value,
                "max_batch": max_batch,
                "epochs_run": len(purified.epochs),
                "residual": {name: value for name, value in residual_details.items() if name != "recovered"},
            }
            | from_hub(opened.checkpoint)
            | ({} if purified.unlearned is None else {"unlearned": [names[at] for at in sorted(purified.unlearned)]}),
            seed=seed,
            input_sha256=opened.checkpoint.sha256,
            tool_version=__version__,
        )
        named = known.data or name_of(data_source(asked, known))
        described = replace(known, data=named, history=(*known.history, history))
        with written_result(destination, folder=not suffix) as part:
            save_like(opened.checkpoint, part, purified.classifier, described, proof=images.for_testing)
        session.wrote("weights", weights_in(destination))
        compare(session, classifier, purified.classifier, images.test or clean.held_back, triggers)
        session.show(_summary(purified))
        if not purified.finished:
            raise Inconclusive(
                f"the time budget was spent after {len(purified.epochs)} of {settings.epochs} epochs; {destination} is "
                "what there is so far, and the same command with --resume goes on"
            )
        state_file.unlink(missing_ok=True)
        marked = "" if residual.status is CheckStatus.PASSED else ", which is not cleared"
        session.show(
            f"wrote {destination}{marked}; measure it with: sau evaluate {destination} --reference {model} "
            "[--trigger T]"
        )


def _unseen(clean: CleanData) -> LabelledImages:
    """Clean images for the residual test: those that were not learned from, where they are enough."""
    if len(clean.held_back) >= ENOUGH_UNSEEN:
        return clean.held_back
    return clean.held_back.and_those_of(clean.learning)


def _came_from(weights: Path, sha256: str) -> bool:
    """Whether a file says that it was purified from the model with this SHA-256."""
    from sau_adapters.checkpoints import file_facts

    try:
        told = file_facts(weights).description
    except SauError:
        return False
    last = told.history[-1] if told and told.history else None
    return last is not None and (last.step, last.input_sha256) == ("purify", sha256)


def _measures(at: PurifyProgress, method: MethodName) -> str:
    """What a line of progress says."""
    if at.searching:
        return f"searching {at.searching.kind} changes, {percent(at.searching.done / at.searching.of)}"
    own = f" sar {at.unlearning_loss:.3f} SAE {percent(at.shared_share)}" if method is MethodName.SAU else ""
    if at.rounds:
        last = at.rounds[-1]
        found = ", ".join(f"{one.kind.value} to {one.wanted}" for one in last.suspects) or "none"
        own += f" round {len(at.rounds)}: {found}"
    return f"cl {at.clean_loss:.3f}{own} acc {percent(at.held_back_accuracy)}"


def _not_shown(classes: Sequence[str], *, of: int) -> Check:
    some = ", ".join(repr(name) for name in classes[:5]) + ", ..." * (len(classes) > 5)
    sentence = (
        f"no clean image to learn from is of {len(classes)} of {of} classes ({some}): their accuracy is likely to "
    )
    return Check(
        id="clean-classes", status=CheckStatus.SKIPPED, evidence=f"{sentence}be lost, so give an image of every class"
    )


def _checks(purified: Purification) -> tuple[Check, ...]:
    checks = [
        Check(
            id="held-back-accuracy.before",
            status=CheckStatus.MEASURED,
            value=purified.held_back_accuracy_before,
            evidence=f"of the received model on {purified.held_back} clean images that are not learned from",
        ),
        Check(
            id="held-back-accuracy",
            status=CheckStatus.MEASURED,
            value=purified.held_back_accuracy,
            evidence="of the purified model on the same images",
        ),
    ]
    if purified.epochs and isinstance(purified.recipe, Recipe):
        checks.append(
            Check(
                id="shared-adversarial-examples",
                status=CheckStatus.MEASURED,
                value=purified.epochs[-1].shared_share,
                evidence="share of the clean images with an adversarial example common to both models, last epoch",
            )
        )
    return tuple(checks)


def _summary(purified: Purification) -> Group:
    first, last = purified.epochs[0], purified.epochs[-1]
    before, after = percent(purified.held_back_accuracy_before), percent(purified.held_back_accuracy)
    halved = f" The learning rate fell to {purified.rate:g} of itself, as the loss stopped being finite."
    accuracy = table(
        f"Clean accuracy on {purified.held_back} images held back", ("received", "purified"), [(before, after)]
    )
    rows, legend = [("clean loss (cl)", f"{first.clean_loss:.3f}", f"{last.clean_loss:.3f}")], ""
    if isinstance(purified.recipe, Recipe):
        rows.insert(0, ("shared adversarial examples (SAE)", percent(first.shared_share), percent(last.shared_share)))
        rows.append(("unlearning loss (sar)", f"{first.unlearning_loss:.3f}", f"{last.unlearning_loss:.3f}"))
        legend = (
            "A trigger works by adversarial examples that both models share: the fewer\n"
            "are found, the less of a backdoor within epsilon is left."
        )
    title = f"{len(purified.epochs)} epoch{'s' * (len(purified.epochs) != 1)}"
    legend += halved if purified.rate < 1 else ""
    epochs = table(title, ("", "first epoch", "last epoch"), rows, legend=legend.strip())
    lost = purified.held_back_accuracy_before - purified.held_back_accuracy
    much = f"The accuracy on clean images fell by {percent(lost)}; more clean images help most, then more --epochs.\n"
    return Group(accuracy, epochs, *([much] if lost > MUCH else []))
