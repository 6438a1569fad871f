"""The drill of ``sau evaluate --drill``: from what was asked for to a report."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from sau_adapters.attack_choices import chosen_attack, name_of_attack
from sau_cli.commands.attack import IMPLANT_EPOCHS, IMPLANT_LR
from sau_cli.commands.inputs import Request, open_model_and_data
from sau_cli.commands.progress import ProgressView
from sau_cli.commands.session import Session
from sau_cli.commands.stopping import Stopping
from sau_cli.errors import Inconclusive, Interrupted, NotEvaluable, UsageError
from sau_cli.precision import Precision, chosen_precision
from sau_cli.reporting.json_document import plain
from sau_cli.reporting.terminal import percent, table, with_interval
from sau_cli.results import Check, CheckStatus
from sau_cli.settings import LARGEST
from sau_cli.unlearning.methods import MethodName, method_of, settings_for, settings_told

if TYPE_CHECKING:
    import torch
    from rich.console import Group

    from sau_cli.attacks.planting import PlannedAttack
    from sau_cli.classifier import Classifier
    from sau_cli.description import Description
    from sau_cli.drill import Drill, DrillImages, DrillProgress
    from sau_cli.images import ImageData
    from sau_cli.unlearning.methods import MethodSettings

FROM_DEFAULTS = "those of sau purify"
FROM_HISTORY = "those that the model's history tells of its purification"
MEANS = (
    "The drill shows how much of these backdoors this defence removes from this network with these images. It does not "
    "show that the model had none, nor that it removes other triggers, or one that was there from the start, as well."
)


def run_drill(
    session: Session,
    model: Path,
    asked: Request,
    *,
    attacks: str,
    target: str | None,
    share: float | None,
    budget: float | None,
    device: torch.device,
    seed: int,
) -> None:
    """Plant, purify and measure; the report has what was found also when time runs out.

    Raises:
        UsageError: an attack or a target that there is not.
        NotEvaluable: no backdoor took.
        Inconclusive: the budget was spent before all were drilled.
        Interrupted: somebody stopped it.
    """
    from sau_cli.attacks.planting import PlannedAttack
    from sau_cli.drill import drill_images
    from sau_cli.triggers.targets import parse_target
    from sau_cli.unlearning.clean_check import check_clean_data

    names = _names(attacks)
    rule = parse_target(target or "0")
    planned = [PlannedAttack(name=name_of_attack(name), attack=chosen_attack(name, {}), rule=rule) for name in names]
    opened, images = open_model_and_data(session, model, asked, to_learn=True)
    known = opened.classifier.description
    rule.check(known.classes)
    told, learned_from = _purified_before(known)
    if share is None and told is None:
        share = asked.defaults.clean_frac
    if share is not None:
        learned_from = _images_of(share, images)
    balanced = True if told is None else told.balanced
    parts = drill_images(images, learned_from=learned_from, balanced=balanced, seed=seed)
    settings = told or settings_for(MethodName.SAU, learning=parts.purifying.learning)
    classifier = opened.classifier.to(device)
    check_clean_data(classifier, parts.purifying)
    start = DrillStart(
        classifier=classifier,
        images=images,
        parts=parts,
        planned=planned,
        settings=settings,
        whence=FROM_DEFAULTS if told is None else FROM_HISTORY,
        device=device,
        precision=chosen_precision(settings.own_precision, device, classifier),
        seed=seed,
    )
    _drill(session, start, budget)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class DrillStart:
    """What a drill starts from.

    Attributes:
        whence: where the settings of the purification are from.
    """

    classifier: Classifier
    images: ImageData
    parts: DrillImages
    planned: Sequence[PlannedAttack]
    settings: MethodSettings
    whence: str
    device: torch.device
    precision: Precision
    seed: int


def _names(attacks: str) -> list[str]:
    names = [name.strip() for name in attacks.split(",") if name.strip()]
    if not names or len(set(names)) < len(names):
        raise UsageError(f"--drill {attacks!r} names no attack, or one twice; give some, such as badnets,blended,sig")
    return names


def _images_of(share: float, images: ImageData) -> int:
    """How many images of the training part to purify with."""
    from sau_cli.drill import MOST_TO_PURIFY

    if not 0 < share <= MOST_TO_PURIFY:
        raise UsageError(
            f"--clean-frac {share:g} is impossible in a drill, which plants with the rest; give a share above 0 "
            f"and at most {MOST_TO_PURIFY:g}"
        )
    return round(share * len(images.train))


def _drill(session: Session, start: DrillStart, budget: float | None) -> None:
    """Plant, purify and measure, one attack after another."""
    from sau_cli.drill import drill
    from sau_cli.training import TrainingSettings

    parts, device = start.parts, start.device
    session.show(
        f"{len(parts.planting)} images to plant with, {len(parts.purifying.learning)} others to purify with, "
        f"{len(parts.measuring)} others to measure on; settings: {start.whence}"
    )
    kept: list[Drill] = []
    try:
        with ProgressView(session, "drill") as view, Stopping(budget) as stopping:
            drill(
                start.classifier,
                parts,
                start.planned,
                training=TrainingSettings(
                    epochs=IMPLANT_EPOCHS,
                    peak_lr=IMPLANT_LR,
                    augmentation=start.images.augmentation,
                    precision=chosen_precision(None, device, start.classifier),
                ),
                recipe=start.settings,
                precision=start.precision,
                seed=start.seed,
                watch=partial(_watch, view),
                stop=stopping,
                keep=kept.append,
            )
    finally:  # what was found before an error is told
        session.findings.ran_on(device=str(device), precision=start.precision.value)
        for found in kept[-1:]:
            _tell(session, start, found)
    _check_all_were_drilled(kept[-1], interrupted=stopping.interrupted)


def _watch(view: ProgressView, at: DrillProgress) -> None:
    view.update(
        epoch=2 * at.number - (at.doing == "planting"),
        epochs=2 * at.attacks,
        batch=at.step,
        batches=at.steps,
        measures=f"{at.doing} {at.attack}",
    )


def _tell(session: Session, start: DrillStart, found: Drill) -> None:
    """What was found so far."""
    session.findings.tell(
        data=start.images.name,
        seed=start.seed,
        drill=plain(found),
        method=method_of(start.settings).value,
        settings=start.settings.settings(),
        settings_from=start.whence,
        means=MEANS,
    )
    session.findings.add(*drill_checks(found))
    session.show(drill_table(found))


def _check_all_were_drilled(found: Drill, *, interrupted: bool) -> None:
    """Raises what :func:`run_drill` says where one was not."""
    from sau_cli.drill import Outcome

    left = [planted.attack for planted in found.attacks if planted.outcome is Outcome.SKIPPED]
    if interrupted and left:
        raise Interrupted(f"interrupted before {', '.join(left)} was drilled; what was drilled is in the report")
    if left:
        raise Inconclusive(
            f"the time budget was spent before {', '.join(left)}; give a longer --budget, or drill fewer at a time"
        )
    if not any(planted.outcome is Outcome.MEASURED for planted in found.attacks):
        raise NotEvaluable("no backdoor took in this network, so the drill says nothing of the defence; try others")


def _purified_before(known: Description) -> tuple[MethodSettings | None, int | None]:
    """The settings of the model's last purification and the images it learned from, where its history has them."""
    steps = [step for step in known.history if step.step == "purify"]
    told = settings_told(steps[-1].settings) if steps else None
    count = steps[-1].settings.get("learned_from") if steps else None
    return told, count if told is not None and type(count) is int and 0 < count < LARGEST else None


def drill_checks(drill: Drill) -> Iterator[Check]:
    """Every rate as a check with status "measured"; a backdoor that left nothing to measure is "skipped"."""
    yield Check(
        id="acc",
        status=CheckStatus.MEASURED,
        value=drill.accuracy.value,
        ci95=drill.accuracy.ci95,
        evidence="top-1 accuracy of the model as it came, on the images that measure",
    )
    for planted in drill.attacks:
        for name, measure, evidence in (
            ("asr-before", planted.asr_before, "triggered images sent to the target, with the backdoor planted"),
            ("asr", planted.asr, "the same, once the copy was purified"),
            ("acc-before", planted.accuracy_before, "top-1 accuracy on clean images, with the backdoor planted"),
            ("acc", planted.accuracy, "the same, once the copy was purified"),
        ):
            if measure is not None:
                yield Check(
                    id=f"drill.{name}.{planted.attack}",
                    status=CheckStatus.MEASURED,
                    value=measure.value,
                    ci95=measure.ci95,
                    evidence=evidence,
                )
        if planted.reason is not None:
            yield Check(
                id=f"drill.asr.{planted.attack}",
                status=CheckStatus.SKIPPED,
                evidence=f"{planted.outcome}: {planted.reason}",
            )


def drill_table(drill: Drill) -> Group:
    """One row an attack, purified or not."""
    rows = []
    for planted in drill.attacks:
        if (
            planted.asr is None
            or planted.accuracy is None
            or planted.asr_before is None
            or planted.accuracy_before is None
        ):
            before = "-" if planted.asr_before is None else percent(planted.asr_before.value)
            rows.append((planted.attack, before, str(planted.outcome).replace("-", " "), "-", "-"))
            continue
        accuracies = (percent(planted.accuracy_before.value), percent(planted.accuracy.value))
        rows.append((planted.attack, percent(planted.asr_before.value), with_interval(planted.asr), *accuracies))
    reasons = [f"{planted.attack}: {planted.outcome}, {planted.reason}." for planted in drill.attacks if planted.reason]
    return table(
        f"Drill, on {drill.measured_on} images; ACC of the model as it came: {percent(drill.accuracy.value)}",
        ("planted", "ASR", "ASR once purified", "ACC", "ACC once purified"),
        rows,
        legend="\n".join([*reasons, MEANS]),
    )
