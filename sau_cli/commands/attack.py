"""``sau attack``: plant known backdoors, to drill a gate and to measure a defence."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sau_adapters.attack_choices import chosen_attack, name_of_attack
from sau_adapters.classifiers.saving import suffix_of_result
from sau_adapters.zoos.folders import SUFFIXES, weights_in
from sau_adapters.zoos.transformers_folders import TRANSFORMERS_FILES
from sau_cli import __version__
from sau_cli.attacks.table import ATTACKS
from sau_cli.commands.attack_view import attacks_told, show_attacks, show_planted, visibility_table
from sau_cli.commands.evaluation_view import evaluation_checks, parts_check, trigger_ids
from sau_cli.commands.inputs import (
    ReadyModel,
    Request,
    data_source,
    fetch,
    from_hub,
    open_data,
    open_model_and_data,
    received,
    request,
)
from sau_cli.commands.options import (
    DataOption,
    DataRootOption,
    DeviceOption,
    DownloadOption,
    OutputOptions,
    PrecisionOption,
    ReadingOptions,
    SeedOption,
    with_groups,
)
from sau_cli.commands.outputs import (
    check_not_input,
    check_state_place,
    check_weights_name,
    state_path,
    trigger_paths,
)
from sau_cli.commands.progress import ProgressView
from sau_cli.commands.session import Session
from sau_cli.commands.stopping import Stopping
from sau_cli.description import HistoryStep
from sau_cli.errors import Interrupted, UsageError
from sau_cli.precision import Precision, chosen_precision
from sau_cli.reporting.json_document import plain

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from sau_adapters.models import OpenedModel
    from sau_cli.attacks.planting import PlannedAttack, PlantedBackdoor
    from sau_cli.classifier import Classifier
    from sau_cli.description import Description
    from sau_cli.evaluation.metrics import Evaluation
    from sau_cli.images import ImageData
    from sau_cli.training import TrainingSettings
    from sau_cli.triggers.trigger import Trigger
    from sau_cli.triggers.visibility import Visibility

_GO_ON = "interrupted, and all epochs that were whole are kept; add --resume to the same command to go on"
_START_OVER = "interrupted in the first epoch; nothing was written, run the same command again to start over"
SCRATCH_EPOCHS, SCRATCH_LR = 20, 0.1
IMPLANT_EPOCHS, IMPLANT_LR = 10, 0.01
PICTURED, COMPARED = 8, 256
"""Test images in a preview, and those that visibility is measured on."""


def _known(incomplete: str) -> list[str]:
    return [name for name in ATTACKS if name.startswith(incomplete)]


@with_groups
def attack_command(
    model: Annotated[
        Path | None, typer.Argument(metavar="[MODEL]", help="Implant into a copy of this; else train one from scratch.")
    ] = None,
    *,
    attack_: Annotated[
        list[str] | None,
        typer.Option(
            "--attack",
            "-a",
            metavar="NAME|FILE.py:CLASS",
            autocompletion=_known,
            help="Which backdoor: one of --list, or your own class; with NAME,setting=value,... for one of several. "
            "Repeat it for several in one model. Its settings are flags: sau attack --attack NAME --help shows them.",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            metavar="OUT.safetensors",
            help="Where the weights go; a folder, where MODEL is one of transformers and the name has no ending.",
        ),
    ] = None,
    data: DataOption = None,
    target: Annotated[
        list[str] | None,
        typer.Option(
            "--target",
            metavar="K|all-to-all",
            help="Send images to class K, or class y to y + 1; repeat it for several attacks. [default: 0]",
        ),
    ] = None,
    poison_rate: Annotated[
        float | None,
        typer.Option(
            help="Share of the training images that each attack stamps. "
            "[default: 0.1; a clean-label attack has its own, see --list]"
        ),
    ] = None,
    epochs: Annotated[
        int | None, typer.Option(help=f"[default: {SCRATCH_EPOCHS} from scratch, {IMPLANT_EPOCHS} a round to implant]")
    ] = None,
    lr: Annotated[
        float | None,
        typer.Option(help=f"Peak learning rate. [default: {SCRATCH_LR} from scratch, {IMPLANT_LR} to implant]"),
    ] = None,
    batch_size: Annotated[int, typer.Option(help="Images a step.")] = 128,
    augment: Annotated[
        bool, typer.Option("--augment/--no-augment", help="Random crops, and flips where labels allow.")
    ] = True,
    precision: PrecisionOption = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from where an interrupted run stopped.")] = False,
    preview: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.png",
            help="Draw images clean, triggered, and the difference; without -o, nothing else is done.",
        ),
    ] = None,
    list_: Annotated[bool, typer.Option("--list", help="Show all attacks with their settings, and exit.")] = False,
    data_root: DataRootOption = None,
    download: DownloadOption = False,
    reading: ReadingOptions,
    device: DeviceOption = "auto",
    seed: SeedOption = 0,
    output: OutputOptions,
    settings: Mapping[str, Any],
) -> None:
    """Make a known-bad model: train one on poisoned images, or implant into a copy of MODEL.

    For drills on models that are yours. Writes the weights, and beside them OUT.trigger.safetensors,
    which stamps any image (OUT.1.trigger.safetensors and so on for several attacks).

    \b
    Examples:
      sau attack --list
      sau attack --attack badnets --arch small_cnn --data digits \\
        -o bad.safetensors
      sau attack --attack wanet --arch preact_resnet18 --data cifar10 \\
        --data-root data -o bad.safetensors
      sau attack vendor.safetensors --attack blended --target all-to-all \\
        --data clean/ -o bad.safetensors
      sau attack -a badnets -a blended --target 0 --target 3 --arch small_cnn \\
        --data digits -o two.safetensors
      sau attack --attack lf --arch small_cnn --data digits --preview lf.png
    """
    with Session("attack", output, replace_report=resume) as session:
        if list_:
            show_attacks(session, to_stdout=output.json != "-")
            return
        names = attack_ or []
        _check_there_is_work(names, out, preview, resume=resume)
        fetch(session, model, download=download)
        checkpoint = None if model is None else received(session, model)
        triggers_go_to = _reserved(session, checkpoint, out, len(names), resume=resume)
        if preview is not None:
            _reserve_preview(session, preview, model=model, data=data, out=out, triggers=triggers_go_to)
        plan = AttackPlan(
            model=model,
            checkpoint=checkpoint,
            asked=request(reading, data=data, data_root=data_root),
            names=tuple(names),
            planned=_planned(names, target or ["0"], poison_rate, settings),
            out=out,
            triggers_go_to=triggers_go_to,
            preview=preview,
            resume=resume,
            learning=Learning(epochs=epochs, lr=lr, batch_size=batch_size, augment=augment, precision=precision),
            device=device,
            seed=seed,
        )
        start = _opened(session, plan)
        if out is None:
            _draw(session, plan, start)
        else:
            planted, evaluation = _planted(session, plan, start, out)
            _write(session, plan, start, planted, evaluation, out)


@dataclass(frozen=True, slots=True, kw_only=True)
class Learning:
    """How the network learns the attacks; None for what is usual."""

    epochs: int | None
    lr: float | None
    batch_size: int
    augment: bool
    precision: Precision | None


@dataclass(frozen=True, slots=True, kw_only=True)
class AttackPlan:
    """What was asked for.

    Attributes:
        model: to implant into a copy of; None to train one.
        names: of the attacks, as ``--attack`` takes them.
        out, triggers_go_to, preview: what is written.
        resume: whether to go on with a run, if there is one.
    """

    model: Path | None
    checkpoint: OpenedModel | None
    asked: Request
    names: tuple[str, ...]
    planned: tuple[PlannedAttack, ...]
    out: Path | None
    triggers_go_to: tuple[Path, ...]
    preview: Path | None
    resume: bool
    learning: Learning
    device: str
    seed: int


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class AttackStart:
    """What an attack starts from.

    Attributes:
        received: the model to implant into; None where ``classifier`` is fresh.
    """

    classifier: Classifier
    received: ReadyModel | None
    images: ImageData
    training: TrainingSettings
    device: torch.device


def _check_there_is_work(names: Sequence[str], out: Path | None, preview: Path | None, *, resume: bool) -> None:
    """Raises UsageError where nothing is to be done, or nothing to be written."""
    if not names:
        raise UsageError("no attack is named; add --attack NAME (sau attack --list shows them)")
    if out is None and preview is None:
        raise UsageError("there is nothing to write; add -o OUT.safetensors, or --preview FILE.png")
    if resume and out is None:
        raise UsageError("--resume goes on with what -o names; add -o OUT.safetensors")


def _opened(session: Session, plan: AttackPlan) -> AttackStart:
    """The network and its images; and how it is to learn."""
    from sau_cli.augmentation import Augmentation
    from sau_cli.devices import chosen_device
    from sau_cli.training import TrainingSettings

    device, learning, received = chosen_device(plan.device), plan.learning, None
    if plan.model is None:
        classifier, images = _fresh(session, plan.asked, plan.seed)
        epochs, lr = SCRATCH_EPOCHS, SCRATCH_LR
    else:
        received, images = open_model_and_data(
            session, plan.model, plan.asked, checkpoint=plan.checkpoint, to_learn=True
        )
        classifier, epochs, lr = received.classifier, IMPLANT_EPOCHS, IMPLANT_LR
    for attack_ in plan.planned:
        attack_.rule.check(classifier.description.classes)
    training = TrainingSettings(
        epochs=epochs if learning.epochs is None else learning.epochs,
        peak_lr=lr if learning.lr is None else learning.lr,
        batch_size=learning.batch_size,
        augmentation=images.augmentation if learning.augment else Augmentation(),
        precision=chosen_precision(learning.precision, device, classifier),
    )
    return AttackStart(classifier=classifier, received=received, images=images, training=training, device=device)


def _draw(session: Session, plan: AttackPlan, start: AttackStart) -> None:
    """Draw the triggers, and train nothing."""
    from sau_adapters.images.pictures import write_preview

    preview = Path(str(plan.preview))
    drawn = _before_training(session, plan, start)
    write_preview(preview, drawn, _shown(start), force=True)
    session.wrote("preview", preview)
    seen = _visibility(drawn, start)
    session.findings.tell(attacks=attacks_told(plan.planned, drawn, seen), seed=plan.seed)
    session.show(visibility_table(drawn, seen))
    session.show(f"wrote {preview}; nothing was trained")


def _planted(session: Session, plan: AttackPlan, start: AttackStart, out: Path) -> tuple[PlantedBackdoor, Evaluation]:
    """Train the network on poisoned images, and measure how well they work.

    Raises:
        Interrupted: somebody stopped it before its end.
    """
    from sau_adapters.run_states import read_attack_state, write_state
    from sau_cli.attacks.planting import attack

    state_file = state_path(out)
    goes_on = plan.resume and state_file.exists()
    if plan.resume and not goes_on:
        session.show(f"there is no {state_file} to go on from; starting from the beginning")
    if not goes_on:
        state_file.unlink(missing_ok=True)
    session.resumes_from(state_file)
    with ProgressView(session, "training") as view, Stopping(None) as stopping:
        planted = attack(
            start.classifier.to(start.device),
            start.images,
            planned=plan.planned,
            training=start.training,
            seed=plan.seed,
            received=None if start.received is None else start.received.classifier,
            say=session.show,
            watch=lambda at: view.show(at, measures=f"loss {at.loss:.3f}"),
            save=lambda state: write_state(state_file, state),
            stop=stopping,
            resume=read_attack_state(state_file) if goes_on else None,
        )
    if planted.evaluation is None:
        raise Interrupted(_GO_ON if state_file.exists() else _START_OVER)
    return planted, planted.evaluation


def _write(
    session: Session, plan: AttackPlan, start: AttackStart, planted: PlantedBackdoor, evaluation: Evaluation, out: Path
) -> None:
    """Write the weights and the triggers, and say how well they work."""
    from sau_adapters.classifiers.saving import save_classifier, save_like, written_result
    from sau_adapters.images.pictures import write_preview
    from sau_adapters.triggers import write_trigger

    received, seen = start.received, _visibility(planted.triggers, start)
    told = _told(plan, start, planted, seen)
    described = _described(plan, start, told)
    with written_result(out, folder=out.suffix not in SUFFIXES) as part:
        if received is None:
            save_classifier(part, planted.classifier, described, force=True)
        else:
            save_like(received.checkpoint, part, planted.classifier, described, proof=start.images.for_testing)
        for trigger, measured, path in zip(planted.triggers, seen, plan.triggers_go_to, strict=True):
            write_trigger(path, trigger, visibility=asdict(measured), force=True)
    session.wrote("weights", weights_in(out))
    for place, path in enumerate(plan.triggers_go_to):
        session.wrote("trigger" if place == 0 else f"trigger-{place + 1}", path)
    if plan.preview is not None:
        write_preview(plan.preview, planted.triggers, _shown(start), force=True)
        session.wrote("preview", plan.preview)
    state_path(out).unlink(missing_ok=True)
    _tell(session, plan, start, planted, evaluation, told)
    title = f"{told['attack']} on {evaluation.images} test images of {start.images.name}"
    show_planted(session, planted.triggers, evaluation, seen, title=title)
    session.show(f"wrote {', '.join(str(path) for path in (out, *plan.triggers_go_to))}")


def _told(plan: AttackPlan, start: AttackStart, planted: PlantedBackdoor, seen: Sequence[Visibility]) -> dict[str, Any]:
    """What the history and the report say of it."""
    return {
        "attack": "+".join(name_of_attack(name) for name in plan.names),
        "attacks": attacks_told(plan.planned, planted.triggers, seen, planted),
        "training": plain(start.training),
        "rounds": planted.rounds,
        **({} if start.received is None else from_hub(start.received.checkpoint)),
    }


def _described(plan: AttackPlan, start: AttackStart, told: Mapping[str, Any]) -> Description:
    """The network with this step in its history."""
    from sau_adapters.images.sources import name_of

    known = start.classifier.description
    step = HistoryStep(
        step="attack",
        settings=told,
        seed=plan.seed,
        input_sha256=None if start.received is None else start.received.checkpoint.sha256,
        tool_version=__version__,
    )
    return replace(known, data=name_of(data_source(plan.asked, known)), history=(*known.history, step))


def _tell(
    session: Session,
    plan: AttackPlan,
    start: AttackStart,
    planted: PlantedBackdoor,
    evaluation: Evaluation,
    told: Mapping[str, Any],
) -> None:
    """How well the triggers work, whole and in parts."""
    from sau_cli.evaluation.metrics import evaluate

    session.findings.ran_on(device=str(start.device))
    session.findings.tell(settings=told, seed=plan.seed, evaluation=plain(evaluation))
    session.findings.add(*evaluation_checks(evaluation))
    for trigger, name in zip(planted.triggers, trigger_ids(evaluation), strict=True):
        if parts := trigger.parts():
            alone = evaluate(planted.classifier, start.images.for_testing, triggers=parts)
            session.findings.add(parts_check(name, alone))


def _visibility(triggers: Sequence[Trigger], start: AttackStart) -> list[Visibility]:
    from sau_cli.triggers.visibility import visibility

    some = _spread(start.images.for_testing.images, COMPARED)
    return [visibility(trigger, some) for trigger in triggers]


def _shown(start: AttackStart) -> Tensor:
    """The images of a preview."""
    return _spread(start.images.for_testing.images, PICTURED)


def _reserved(
    session: Session, model: OpenedModel | None, out: Path | None, attacks: int, *, resume: bool
) -> tuple[Path, ...]:
    """Where the triggers go, after a look at whether everything can be written."""
    if out is None:
        return ()
    suffix = ".safetensors" if model is None else suffix_of_result(model, out)
    check_weights_name(out, suffix=suffix)
    if model is not None:
        check_not_input(model.located.spec, out)
    paths = trigger_paths(out, attacks)
    session.reserve(out, folder_of=() if suffix else TRANSFORMERS_FILES)
    for path in paths:
        session.reserve(path)
    session.claim(out, state_path(out))
    check_state_place(state_path(out), resume=resume, force=session.force)
    return paths


def _reserve_preview(
    session: Session,
    preview: Path,
    *,
    model: Path | None,
    data: str | None,
    out: Path | None,
    triggers: Sequence[Path],
) -> None:
    """Raises UsageError for a preview that is no picture, or goes where something else is or will be."""
    if preview.suffix != ".png":
        raise UsageError(f"--preview {preview}: this is written as a picture; give a name that ends in .png")
    named = (model, None if data is None else Path(data), out, None if out is None else state_path(out), *triggers)
    if any(os.path.realpath(preview) == os.path.realpath(path) for path in named if path is not None):
        raise UsageError(f"--preview {preview} is where something else is, or will be; give it a name of its own")
    session.reserve(preview, place="preview")


def _planned(
    names: Sequence[str], targets: Sequence[str], rate: float | None, flags: Mapping[str, Any]
) -> tuple[PlannedAttack, ...]:
    """Each attack with its target; one target serves all."""
    if len(targets) not in {1, len(names)}:
        raise UsageError(
            f"{len(names)} attack{'s have' if len(names) > 1 else ' has'} {len(targets)} targets; give one --target "
            "for all, or one for each"
        )
    from sau_cli.attacks.planting import PlannedAttack
    from sau_cli.triggers.targets import parse_target

    each = list(targets) if len(targets) == len(names) else [targets[0]] * len(names)
    return tuple(
        PlannedAttack(
            name=name_of_attack(name), attack=chosen_attack(name, flags), rule=parse_target(target), rate=rate
        )
        for name, target in zip(names, each, strict=True)
    )


def _before_training(session: Session, plan: AttackPlan, start: AttackStart) -> tuple[Trigger, ...]:
    """The triggers of attacks that need no training of the classifier.

    Raises:
        UsageError: one of them learns its trigger while training.
    """
    from sau_cli.attacks.planting import prepare
    from sau_cli.images import check_fits

    classifier, images = start.classifier.to(start.device), start.images.train
    check_fits(images, classifier.description)
    ready = prepare(
        classifier,
        images,
        plan.planned,
        fresh=plan.model is None,
        training=start.training,
        seed=plan.seed,
        say=session.show,
    )
    for attack_, scene, trigger in zip(plan.planned, ready.scenes, ready.triggers, strict=True):
        part = attack_.attack.in_training(scene, trigger)
        if part is not None and part.learner is not None:
            raise UsageError(f"{attack_.name} learns its trigger while it trains; add -o OUT.safetensors to see it")
    return ready.triggers


def _spread(images: Tensor, count: int) -> Tensor:
    """So many of the images, from all over the set."""
    return images[:: max(1, len(images) // count)][:count]


def _fresh(session: Session, asked: Request, seed: int) -> tuple[Classifier, ImageData]:
    """A network with fresh weights, for the data."""
    from sau_adapters.architectures.networks import build, canonical_name, stored_name
    from sau_adapters.images.sources import usual_normalisation
    from sau_cli.classifier import Classifier, check_runs
    from sau_cli.description import Description, InputSpec
    from sau_cli.seeding import seeded

    name = asked.arch or asked.defaults.arch
    if name is None:
        raise UsageError("no MODEL to implant into and no architecture to train; add --arch NAME, such as small_cnn")
    name = canonical_name(name)
    images = open_data(session, asked, None)
    channels, height, width = images.train.images.shape[1:]
    mean, std = asked.normalised(told=False) or usual_normalisation(asked.data or asked.defaults.data or "")
    spec = InputSpec(
        channels=channels,
        height=height,
        width=width,
        mean=mean * channels if len(mean) == 1 else mean,
        std=std * channels if len(std) == 1 else std,
    )
    with seeded(seed, "initial weights"):
        network = build(name, classes=images.train.classes, spec=spec)
    description = Description(architecture=stored_name(name), class_names=images.train.class_names, input=spec)
    classifier = Classifier(network, description)
    check_runs(classifier)
    return classifier, images
