"""``sau attack``: plant a known backdoor, to drill a gate and to measure a defence."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, assert_never

import typer

from sau_adapters.checkpoints import suffix_of_result
from sau_adapters.files import written_whole
from sau_cli import __version__
from sau_cli.attacks.names import AttackName, PatchPattern
from sau_cli.commands.evaluation_view import evaluation_checks, evaluation_table
from sau_cli.commands.inputs import Request, data_source, open_data, open_model_and_data, request
from sau_cli.commands.options import (
    ArchOption,
    DataOption,
    DataRootOption,
    DeviceOption,
    ForceOption,
    ImageSizeOption,
    JsonOption,
    NormalisationOption,
    PrecisionOption,
    QuietOption,
    SeedOption,
    VerboseOption,
)
from sau_cli.commands.outputs import check_weights_name, trigger_path
from sau_cli.commands.progress import ProgressView
from sau_cli.commands.session import Session
from sau_cli.description import HistoryStep
from sau_cli.errors import UsageError
from sau_cli.precision import chosen_precision
from sau_cli.reporting.json_document import plain

if TYPE_CHECKING:
    from sau_cli.attacks.targets import TargetRule
    from sau_cli.attacks.training import TrainingProgress
    from sau_cli.attacks.triggers import Trigger
    from sau_cli.classifier import Classifier
    from sau_cli.description import InputSpec
    from sau_cli.images import ImageData

SCRATCH_EPOCHS, SCRATCH_LR = 20, 0.1
IMPLANT_EPOCHS, IMPLANT_LR = 10, 0.01


def attack(
    model: Annotated[
        Path | None, typer.Argument(metavar="[MODEL]", help="Implant into a copy of this; else train one from scratch.")
    ] = None,
    *,
    attack_: Annotated[AttackName, typer.Option("--attack", "-a", help="Which backdoor.")],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="OUT.safetensors", help="Where the weights go.")],
    data: DataOption = None,
    target: Annotated[
        str, typer.Option("--target", metavar="K|all-to-all", help="Send images to class K, or class y to y + 1.")
    ] = "0",
    poison_rate: Annotated[float, typer.Option(help="Share of the training images to stamp and relabel.")] = 0.1,
    trigger_size: Annotated[int, typer.Option(help="badnets: pixels on a side.")] = 3,
    trigger_pattern: Annotated[PatchPattern, typer.Option(help="badnets: how the patch looks.")] = PatchPattern.WHITE,
    trigger_margin: Annotated[int, typer.Option(help="badnets: pixels from the bottom-right corner.")] = 0,
    alpha: Annotated[float, typer.Option(help="blended: opacity of the picture.")] = 0.2,
    amplitude: Annotated[float, typer.Option(help="sig: height of the wave, on pixels in 0 to 1.")] = 40 / 255,
    frequency: Annotated[float, typer.Option(help="sig: waves from left to right.")] = 6,
    epochs: Annotated[
        int | None, typer.Option(help=f"[default: {SCRATCH_EPOCHS} from scratch, {IMPLANT_EPOCHS} to implant]")
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
    data_root: DataRootOption = None,
    arch: ArchOption = None,
    image_size: ImageSizeOption = None,
    normalisation: NormalisationOption = None,
    device: DeviceOption = "auto",
    seed: SeedOption = 0,
    json_: JsonOption = None,
    quiet: QuietOption = False,
    verbose: VerboseOption = False,
    force: ForceOption = False,
) -> None:
    """Make a known-bad model: train one on poisoned images, or implant into a copy of MODEL.

    For drills on models that are yours. Writes the weights, and beside them OUT.trigger.safetensors,
    which stamps any image.

    \b
    Examples:
      sau attack --attack badnets --arch small_cnn --data digits -o bad.safetensors
      sau attack --attack blended --arch preact_resnet18 --data cifar10 --data-root data -o bad.safetensors
      sau attack vendor.safetensors --attack badnets --target all-to-all --data clean/ -o bad.safetensors
    """
    with Session("attack", json=json_, quiet=quiet, verbose=verbose, force=force) as session:
        asked = request(data=data, data_root=data_root, arch=arch, image_size=image_size, normalisation=normalisation)
        check_weights_name(out, suffix=".safetensors" if model is None else suffix_of_result(model))
        session.reserve(out)
        session.reserve(trigger_path(out))

        from sau_adapters.checkpoints import save_classifier, save_like
        from sau_adapters.image_sources import name_of
        from sau_adapters.triggers import write_trigger
        from sau_cli.attacks.planting import attack as plant
        from sau_cli.attacks.targets import parse_target
        from sau_cli.attacks.training import TrainingSettings
        from sau_cli.augmentation import Augmentation
        from sau_cli.devices import chosen_device

        chosen = chosen_device(device)
        rule = parse_target(target)
        received = None
        if model is None:
            classifier, images = _fresh(asked, seed)
        else:
            received, images = open_model_and_data(session, model, asked, to_learn=True)
            classifier = received.classifier
        known = classifier.description
        rule.check(known.classes)
        trigger = _trigger(
            attack_,
            rule,
            known.input,
            size=trigger_size,
            pattern=trigger_pattern,
            margin=trigger_margin,
            alpha=alpha,
            amplitude=amplitude,
            frequency=frequency,
        )
        training = TrainingSettings(
            epochs=epochs if epochs is not None else (SCRATCH_EPOCHS if received is None else IMPLANT_EPOCHS),
            peak_lr=lr if lr is not None else (SCRATCH_LR if received is None else IMPLANT_LR),
            batch_size=batch_size,
            augmentation=images.augmentation if augment else Augmentation(),
            precision=chosen_precision(precision, chosen),
        )
        with ProgressView(session, "training") as view:

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
                trigger=trigger,
                poison_rate=poison_rate,
                training=training,
                seed=seed,
                clean_label=attack_.clean_label,
                received=None if received is None else received.classifier,
                watch=watch,
            )
        settings = {
            "attack": attack_.value,
            "trigger": trigger.description(),
            "poison_rate": poison_rate,
            "poisoned_images": planted.poisoned,
            "training": plain(training),
        }
        step = HistoryStep(
            step="attack",
            settings=settings,
            seed=seed,
            input_sha256=None if received is None else received.checkpoint.sha256,
            tool_version=__version__,
        )
        described = replace(known, data=name_of(data_source(asked, known)), history=(*known.history, step))
        with written_whole(out) as weights_part, written_whole(trigger_path(out)) as trigger_part:
            if received is None:
                save_classifier(weights_part, planted.classifier, described, force=True)
            else:
                save_like(received.checkpoint, weights_part, planted.classifier, described, proof=images.for_testing)
            write_trigger(trigger_part, trigger, force=True)
        session.wrote("weights", out)
        session.wrote("trigger", trigger_path(out))
        session.environment = {"device": str(chosen)}
        session.details = {"settings": settings, "seed": seed, "evaluation": plain(planted.evaluation)}
        session.checks.extend(evaluation_checks(planted.evaluation))
        title = f"{attack_.value}, {rule}, on {planted.evaluation.images} test images of {images.name}"
        session.show(evaluation_table(planted.evaluation, title=title))
        session.show(f"wrote {out} and {trigger_path(out)}")


def _fresh(asked: Request, seed: int) -> tuple[Classifier, ImageData]:
    """A network with fresh weights, for the data."""
    from sau_adapters.architectures import build, canonical_name, stored_name
    from sau_adapters.image_sources import usual_normalisation
    from sau_cli.classifier import Classifier, check_runs
    from sau_cli.description import Description, InputSpec
    from sau_cli.seeding import seeded

    name = asked.arch or asked.settings.arch
    if name is None:
        raise UsageError("no MODEL to implant into and no architecture to train; add --arch NAME, such as small_cnn")
    name = canonical_name(name)
    images = open_data(asked, None)
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


def _trigger(
    name: AttackName,
    rule: TargetRule,
    spec: InputSpec,
    *,
    size: int,
    pattern: PatchPattern,
    margin: int,
    alpha: float,
    amplitude: float,
    frequency: float,
) -> Trigger:
    from sau_cli.attacks.badnets import badnets_trigger
    from sau_cli.attacks.blended import blended_trigger
    from sau_cli.attacks.sig import sig_trigger

    match name:
        case AttackName.BADNETS:
            return badnets_trigger(rule=rule, size=size, pattern=pattern, margin=margin)
        case AttackName.BLENDED:
            return blended_trigger(rule=rule, channels=spec.channels, height=spec.height, width=spec.width, alpha=alpha)
        case AttackName.SIG:
            return sig_trigger(
                rule=rule, height=spec.height, width=spec.width, amplitude=amplitude, frequency=frequency
            )
        case _ as never:
            assert_never(never)
