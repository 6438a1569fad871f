"""``sau attack``: plant known backdoors, to drill a gate and to measure a defence."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from sau_adapters.attack_choices import chosen_attack, name_of_attack
from sau_adapters.classifiers.saving import suffix_of_result
from sau_adapters.zoos.folders import SUFFIXES, weights_in
from sau_adapters.zoos.transformers_folders import FILES
from sau_cli import __version__
from sau_cli.attacks.table import ATTACKS, attack_class
from sau_cli.commands.attack_flags import shown
from sau_cli.commands.evaluation_view import evaluation_checks, evaluation_table, parts_check, trigger_ids
from sau_cli.commands.inputs import (
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
    ArchOption,
    ClassOrderOption,
    DataOption,
    DataRootOption,
    DeviceOption,
    DownloadOption,
    ForceOption,
    ImageSizeOption,
    JsonOption,
    NormalisationOption,
    PrecisionOption,
    QuietOption,
    ReportOption,
    SeedOption,
    VerboseOption,
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
from sau_cli.precision import chosen_precision
from sau_cli.reporting.json_document import plain
from sau_cli.reporting.terminal import percent, table

if TYPE_CHECKING:
    from sau_adapters.models import OpenedModel
    from sau_cli.attacks.planting import PlannedAttack, PlantedBackdoor
    from sau_cli.attacks.training import TrainingProgress
    from sau_cli.attacks.triggers import Trigger
    from sau_cli.attacks.visibility import Visibility
    from sau_cli.classifier import Classifier
    from sau_cli.images import ImageData

_GO_ON = "interrupted, and all epochs that were whole are kept; add --resume to the same command to go on"
SCRATCH_EPOCHS, SCRATCH_LR = 20, 0.1
IMPLANT_EPOCHS, IMPLANT_LR = 10, 0.01
WORKS = 0.9
"""An ASR below which a remark is made."""
SHOWN, COMPARED = 8, 256
"""Test images in a preview, and those that visibility is measured on."""


def _known(incomplete: str) -> list[str]:
    return [name for name in ATTACKS if name.startswith(incomplete)]


def attack(
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
    arch: ArchOption = None,
    image_size: ImageSizeOption = None,
    normalisation: NormalisationOption = None,
    class_order: ClassOrderOption = None,
    device: DeviceOption = "auto",
    seed: SeedOption = 0,
    json_: JsonOption = None,
    report: ReportOption = None,
    quiet: QuietOption = False,
    verbose: VerboseOption = False,
    force: ForceOption = False,
    settings: Mapping[str, Any],
) -> None:
    """Make a known-bad model: train one on poisoned images, or implant into a copy of MODEL.

    For drills on models that are yours. Writes the weights, and beside them OUT.trigger.safetensors,
    which stamps any image (OUT.1.trigger.safetensors and so on for several attacks).

    \b
    Examples:
      sau attack --list
      sau attack --attack badnets --arch small_cnn --data digits -o bad.safetensors
      sau attack --attack wanet --arch preact_resnet18 --data cifar10 --data-root data -o bad.safetensors
      sau attack vendor.safetensors --attack blended --target all-to-all --data clean/ -o bad.safetensors
      sau attack -a badnets -a blended --target 0 --target 3 --arch small_cnn --data digits -o two.safetensors
      sau attack --attack lf --arch small_cnn --data digits --preview lf.png
    """
    with Session(
        "attack", json=json_, reports=report, quiet=quiet, verbose=verbose, force=force, replace_report=resume
    ) as session:
        if list_:
            _show_attacks(session, to_stdout=json_ != "-")
            return
        names = attack_ or []
        if not names:
            raise UsageError("no attack is named; add --attack NAME (sau attack --list shows them)")
        if out is None and preview is None:
            raise UsageError("there is nothing to write; add -o OUT.safetensors, or --preview FILE.png")
        if resume and out is None:
            raise UsageError("--resume goes on with what -o names; add -o OUT.safetensors")
        fetch(session, model, download=download)
        opened = None if model is None else received(session, model)
        triggers_go_to = _reserved(session, opened, out, len(names), resume=resume)
        if preview is not None:
            others = (model, None if data is None else Path(data), out, None if out is None else state_path(out))
            _check_preview(preview, [one for one in (*others, *triggers_go_to) if one is not None])
            session.reserve(preview, flag="--preview")
        asked = request(
            data=data,
            data_root=data_root,
            arch=arch,
            image_size=image_size,
            normalisation=normalisation,
            class_order=class_order,
        )
        planned = _planned(names, target or ["0"], poison_rate, settings)

        from sau_adapters.classifiers.saving import save_classifier, save_like, written_result
        from sau_adapters.images.pictures import write_preview
        from sau_adapters.images.sources import name_of
        from sau_adapters.run_states import read_attack_state, write_state
        from sau_adapters.triggers import write_trigger
        from sau_cli.attacks.planting import attack as plant
        from sau_cli.attacks.training import TrainingSettings
        from sau_cli.attacks.visibility import visibility
        from sau_cli.augmentation import Augmentation
        from sau_cli.devices import chosen_device
        from sau_cli.evaluation.metrics import evaluate

        chosen = chosen_device(device)
        implanted = None
        if model is None:
            classifier, images = _fresh(session, asked, seed)
        else:
            implanted, images = open_model_and_data(session, model, asked, checkpoint=opened, to_learn=True)
            classifier = implanted.classifier
        known = classifier.description
        for one in planned:
            one.rule.check(known.classes)
        training = TrainingSettings(
            epochs=epochs if epochs is not None else (SCRATCH_EPOCHS if implanted is None else IMPLANT_EPOCHS),
            peak_lr=lr if lr is not None else (SCRATCH_LR if implanted is None else IMPLANT_LR),
            batch_size=batch_size,
            augmentation=images.augmentation if augment else Augmentation(),
            precision=chosen_precision(precision, chosen, classifier),
        )
        some = _spread(images.for_testing.images, SHOWN)
        if out is None:
            drawn = _before_training(session, classifier.to(chosen), images, planned, training, seed, model is None)
            write_preview(Path(str(preview)), drawn, some, force=True)
            session.wrote("preview", Path(str(preview)))
            seen = [visibility(trigger, _spread(images.for_testing.images, COMPARED)) for trigger in drawn]
            session.details = {"attacks": _told(planned, drawn, seen), "seed": seed}
            session.show(_visibility_table(drawn, seen))
            session.show(f"wrote {preview}; nothing was trained")
            return
        state_file = state_path(out)
        goes_on = resume and state_file.exists()
        if resume and not goes_on:
            session.show(f"there is no {state_file} to go on from; starting from the beginning")
        if not goes_on:
            state_file.unlink(missing_ok=True)
        session.state_file = state_file
        with ProgressView(session, "training") as view, Stopping(None) as stopping:

            def watch(at: TrainingProgress) -> None:
                view.update(
                    epoch=at.epoch,
                    epochs=at.epochs,
                    batch=at.batch,
                    batches=at.batches,
                    measures=f"loss {at.loss:.3f}",
                )

            planted = plant(
                classifier.to(chosen),
                images,
                planned=planned,
                training=training,
                seed=seed,
                received=None if implanted is None else implanted.classifier,
                say=session.show,
                watch=watch,
                save=lambda state: write_state(state_file, state),
                stop=stopping,
                resume=read_attack_state(state_file) if goes_on else None,
            )
        if planted.evaluation is None:
            raise Interrupted(
                _GO_ON
                if state_file.exists()
                else "interrupted in the first epoch; nothing was written, run the same command again to start over"
            )
        seen = [visibility(trigger, _spread(images.for_testing.images, COMPARED)) for trigger in planted.triggers]
        told = {
            "attack": "+".join(name_of_attack(name) for name in names),
            "attacks": _told(planned, planted.triggers, seen, planted),
            "training": plain(training),
            "rounds": planted.rounds,
            **({} if implanted is None else from_hub(implanted.checkpoint)),
        }
        step = HistoryStep(
            step="attack",
            settings=told,
            seed=seed,
            input_sha256=None if implanted is None else implanted.checkpoint.sha256,
            tool_version=__version__,
        )
        described = replace(known, data=name_of(data_source(asked, known)), history=(*known.history, step))
        with written_result(out, folder=out.suffix not in SUFFIXES) as weights_part:
            if implanted is None:
                save_classifier(weights_part, planted.classifier, described, force=True)
            else:
                save_like(implanted.checkpoint, weights_part, planted.classifier, described, proof=images.for_testing)
            for trigger, measured, path in zip(planted.triggers, seen, triggers_go_to, strict=True):
                write_trigger(path, trigger, visibility=asdict(measured), force=True)
        session.wrote("weights", weights_in(out))
        for place, path in enumerate(triggers_go_to):
            session.wrote("trigger" if place == 0 else f"trigger-{place + 1}", path)
        if preview is not None:
            write_preview(preview, planted.triggers, some, force=True)
            session.wrote("preview", preview)
        state_file.unlink(missing_ok=True)
        session.environment = {"device": str(chosen)}
        session.details = {"settings": told, "seed": seed, "evaluation": plain(planted.evaluation)}
        session.checks.extend(evaluation_checks(planted.evaluation))
        for trigger, name in zip(planted.triggers, trigger_ids(planted.evaluation), strict=True):
            if parts := trigger.parts():
                alone = evaluate(planted.classifier, images.for_testing, triggers=parts)
                session.checks.append(parts_check(name, alone))
        title = f"{told['attack']} on {planted.evaluation.images} test images of {images.name}"
        session.show(evaluation_table(planted.evaluation, title=title))
        session.show(_visibility_table(planted.triggers, seen))
        for check in session.checks:
            if check.id.startswith("part-asr."):
                session.show(check.evidence)
        for row in planted.evaluation.triggers:
            if row.asr.value < WORKS:
                session.show(
                    f"{row.trigger} reaches an ASR of {percent(row.asr.value)} only; more --epochs help, then a higher "
                    "--poison-rate"
                )
        session.show(f"wrote {', '.join(str(path) for path in (out, *triggers_go_to))}")


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
    session.reserve(out, folder_of=() if suffix else FILES)
    for path in paths:
        session.reserve(path)
    session.claim(out, state_path(out))
    check_state_place(state_path(out), resume=resume, force=session.force)
    return paths


def _check_preview(preview: Path, others: Sequence[Path]) -> None:
    """Raises UsageError for a preview that is no picture, or goes where something else does."""
    if preview.suffix != ".png":
        raise UsageError(f"--preview {preview}: this is written as a picture; give a name that ends in .png")
    if any(os.path.realpath(preview) == os.path.realpath(one) for one in others):
        raise UsageError(f"--preview {preview} is where something else is, or will be; give it a name of its own")


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
    from sau_cli.attacks.targets import parse_target

    each = list(targets) if len(targets) == len(names) else [targets[0]] * len(names)
    return tuple(
        PlannedAttack(
            name=name_of_attack(name), attack=chosen_attack(name, flags), rule=parse_target(target), rate=rate
        )
        for name, target in zip(names, each, strict=True)
    )


def _before_training(
    session: Session,
    classifier: Classifier,
    images: ImageData,
    planned: Sequence[PlannedAttack],
    training: Any,
    seed: int,
    fresh: bool,
) -> tuple[Trigger, ...]:
    """The triggers of attacks that need no training of the classifier.

    Raises:
        UsageError: one of them learns its trigger while training.
    """
    from sau_cli.attacks.planting import prepare
    from sau_cli.images import check_fits

    check_fits(images.train, classifier.description)
    ready = prepare(classifier, images.train, planned, fresh=fresh, training=training, seed=seed, say=session.show)
    for one, scene, trigger in zip(planned, ready.scenes, ready.triggers, strict=True):
        part = one.attack.in_training(scene, trigger)
        if part is not None and part.learner is not None:
            raise UsageError(f"{one.name} learns its trigger while it trains; add -o OUT.safetensors to see it")
    return ready.triggers


def _spread(images: Any, count: int) -> Any:
    """So many of the images, from all over the set."""
    return images[:: max(1, len(images) // count)][:count]


def _told(
    planned: Sequence[PlannedAttack],
    triggers: Sequence[Trigger],
    seen: Sequence[Visibility],
    planted: PlantedBackdoor | None = None,
) -> list[dict[str, Any]]:
    """What history and report say of each attack."""
    return [
        {
            "attack": one.name,
            "settings": one.attack.settings(),
            "poison_rate": one.rate if one.rate is not None else one.attack.poison_rate,
            "trigger": trigger.description(),
            "visibility": plain(measured),
        }
        | ({} if planted is None else {"poisoned_images": plain(planted.poisoned[place])})
        for place, (one, trigger, measured) in enumerate(zip(planned, triggers, seen, strict=True))
    ]


def _visibility_table(triggers: Sequence[Trigger], seen: Sequence[Visibility]) -> Any:
    def told(value: float | None, digits: int, unit: str = "") -> str:
        return "-" if value is None else f"{value:.{digits}f}{unit}"

    rows = [
        (trigger.name, told(one.linf, 2), told(one.l2, 2), told(one.psnr, 1, " dB"), told(one.ssim, 3))
        for trigger, one in zip(triggers, seen, strict=True)
    ]
    title = f"Visibility on {seen[0].images} test images"
    return table(
        title, ("trigger", "L-inf", "L2", "PSNR", "SSIM"), rows, legend="Of pixels in 0 to 1 against the clean image."
    )


def _show_attacks(session: Session, *, to_stdout: bool) -> None:
    """All attacks and their settings; on standard output, as this is what was asked for."""
    rows, details = [], {}
    for name in ATTACKS:
        found = attack_class(name)
        flags = found.flags()
        summary = str(found.__doc__).strip().splitlines()[0]
        whose = "the target class, labels kept" if found.clean_label else "the training images"
        summary = f"{summary} Poisons {found.poison_rate:g} of {whose}."
        lines = [f"  --{key.replace('_', '-')} {shown(value)}: {what}" for key, (_, value, what) in flags.items()]
        rows.append((name, "\n".join([summary, *lines])))
        details[name] = {
            "summary": summary,
            "clean_label": found.clean_label,
            "poison_rate": found.poison_rate,
            "settings": {one: {"default": default, "help": what} for one, (_, default, what) in flags.items()},
        }
    session.details = {"attacks": details}
    if to_stdout and not session.quiet:
        console = Console(file=session.standard_output, highlight=False)
        console.print(table("Attacks, and their settings with defaults", ("", ""), rows))


def _fresh(session: Session, asked: Request, seed: int) -> tuple[Classifier, ImageData]:
    """A network with fresh weights, for the data."""
    from sau_adapters.architectures.networks import build, canonical_name, stored_name
    from sau_adapters.images.sources import usual_normalisation
    from sau_cli.classifier import Classifier, check_runs
    from sau_cli.description import Description, InputSpec
    from sau_cli.seeding import seeded

    name = asked.arch or asked.settings.arch
    if name is None:
        raise UsageError("no MODEL to implant into and no architecture to train; add --arch NAME, such as small_cnn")
    name = canonical_name(name)
    images = open_data(session, asked, None)
    channels, height, width = images.train.images.shape[1:]
    mean, std = asked.normalised(told=False) or usual_normalisation(asked.data or asked.settings.data or "")
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
