"""The drill of ``sau evaluate --drill``: from what was asked for to a report."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from sau_adapters.attack_choices import chosen_attack, name_of_attack
from sau_cli.commands.inputs import Request, open_model_and_data
from sau_cli.commands.progress import ProgressView
from sau_cli.commands.session import Session
from sau_cli.commands.stopping import Stopping
from sau_cli.errors import Inconclusive, Interrupted, NotEvaluable, UsageError
from sau_cli.precision import Precision, chosen_precision
from sau_cli.reporting.json_document import plain
from sau_cli.reporting.terminal import percent, table, with_interval
from sau_cli.results import Check, CheckStatus
from sau_cli.unlearning.methods import MethodName, method_of, settings_for, settings_told
from sau_cli.unlearning.ranges import LARGEST
from sau_cli.unlearning.recipes import RecipeName

if TYPE_CHECKING:
    import torch
    from rich.console import Group

    from sau_cli.attacks.planting import PlannedAttack
    from sau_cli.description import Description
    from sau_cli.evaluation.drill import Drill, DrillProgress
    from sau_cli.unlearning.methods import MethodSettings

EPOCHS, PEAK_LR = 10, 0.01
"""As sau attack implants."""
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
    from sau_cli.attacks.targets import parse_target
    from sau_cli.attacks.training import TrainingSettings
    from sau_cli.evaluation.drill import MOST, Outcome, drill, drill_images
    from sau_cli.unlearning.clean_check import check_clean_data

    names = [name.strip() for name in attacks.split(",") if name.strip()]
    if not names or len(set(names)) < len(names):
        raise UsageError(f"--drill {attacks!r} names no attack, or one twice; give some, such as badnets,blended,sig")
    rule = parse_target(target or "0")
    planned: list[PlannedAttack] = [
        PlannedAttack(name=name_of_attack(name), attack=chosen_attack(name, {}), rule=rule) for name in names
    ]
    opened, images = open_model_and_data(session, model, asked, to_learn=True)
    known = opened.classifier.description
    rule.check(known.classes)
    told, learned_from = _purified_before(known)
    if share is None and told is None:
        share = asked.settings.clean_frac
    if share is not None:
        if not 0 < share <= MOST:
            raise UsageError(
                f"--clean-frac {share:g} is impossible in a drill, which plants with the rest; give a share above 0 "
                f"and at most {MOST:g}"
            )
        learned_from = round(share * len(images.train))
    balanced = True if told is None else told.balanced
    parts = drill_images(images, learned_from=learned_from, balanced=balanced, seed=seed)
    settings = told or settings_for(MethodName.SAU, learning=parts.purifying.learning)
    whence = "those of sau purify" if told is None else "those that the model's history tells of its purification"
    classifier = opened.classifier.to(device)
    check_clean_data(classifier, parts.purifying)
    single = method_of(settings) is MethodName.I_BAU or settings.name is RecipeName.PAPER
    precision = chosen_precision(Precision.FP32 if single else None, device, classifier)
    session.show(
        f"{len(parts.planting)} images to plant with, {len(parts.purifying.learning)} others to purify with, "
        f"{len(parts.measuring)} others to measure on; settings: {whence}"
    )
    kept: list[Drill] = []
    try:
        with ProgressView(session, "drill") as view, Stopping(budget) as stopping:

            def watch(at: DrillProgress) -> None:
                half = 2 * at.number - (at.doing == "planting")
                view.update(
                    epoch=half,
                    epochs=2 * at.attacks,
                    batch=at.step,
                    batches=at.steps,
                    measures=f"{at.doing} {at.attack}",
                )

            drill(
                classifier,
                parts,
                planned,
                training=TrainingSettings(
                    epochs=EPOCHS,
                    peak_lr=PEAK_LR,
                    augmentation=images.augmentation,
                    precision=chosen_precision(None, device, classifier),
                ),
                recipe=settings,
                precision=precision,
                seed=seed,
                watch=watch,
                stop=stopping,
                keep=kept.append,
            )
    finally:  # what was found before an error is told
        session.environment = {"device": str(device), "precision": precision.value}
        for found in kept[-1:]:
            session.details = {
                "data": images.name,
                "seed": seed,
                "drill": plain(found),
                "method": method_of(settings).value,
                "settings": settings.settings(),
                "settings_from": whence,
                "means": MEANS,
            }
            session.checks.extend(drill_checks(found))
            session.show(drill_table(found))
    found = kept[-1]
    left = [one.attack for one in found.attacks if one.outcome is Outcome.SKIPPED]
    if stopping.interrupted and left:
        raise Interrupted(f"interrupted before {', '.join(left)} was drilled; what was drilled is in the report")
    if left:
        raise Inconclusive(
            f"the time budget was spent before {', '.join(left)}; give a longer --budget, or drill fewer at a time"
        )
    if not any(one.outcome is Outcome.MEASURED for one in found.attacks):
        raise NotEvaluable("no backdoor took in this network, so the drill says nothing of the defence; try others")


def _purified_before(known: Description) -> tuple[MethodSettings | None, int | None]:
    """The settings of the model's last purification and the images it learned from, where its history has them."""
    steps = [one for one in known.history if one.step == "purify"]
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
    for one in drill.attacks:
        for name, measure, evidence in (
            ("asr-before", one.asr_before, "triggered images sent to the target, with the backdoor planted"),
            ("asr", one.asr, "the same, once the copy was purified"),
            ("acc-before", one.accuracy_before, "top-1 accuracy on clean images, with the backdoor planted"),
            ("acc", one.accuracy, "the same, once the copy was purified"),
        ):
            if measure is not None:
                yield Check(
                    id=f"drill.{name}.{one.attack}",
                    status=CheckStatus.MEASURED,
                    value=measure.value,
                    ci95=measure.ci95,
                    evidence=evidence,
                )
        if one.reason is not None:
            yield Check(
                id=f"drill.asr.{one.attack}", status=CheckStatus.SKIPPED, evidence=f"{one.outcome}: {one.reason}"
            )


def drill_table(drill: Drill) -> Group:
    """One row an attack, purified or not."""
    rows = []
    for one in drill.attacks:
        if one.asr is None or one.accuracy is None or one.asr_before is None or one.accuracy_before is None:
            before = "-" if one.asr_before is None else percent(one.asr_before.value)
            rows.append((one.attack, before, str(one.outcome).replace("-", " "), "-", "-"))
            continue
        accuracies = (percent(one.accuracy_before.value), percent(one.accuracy.value))
        rows.append((one.attack, percent(one.asr_before.value), with_interval(one.asr), *accuracies))
    reasons = [f"{one.attack}: {one.outcome}, {one.reason}." for one in drill.attacks if one.reason]
    return table(
        f"Drill, on {drill.measured_on} images; ACC of the model as it came: {percent(drill.accuracy.value)}",
        ("planted", "ASR", "ASR once purified", "ACC", "ACC once purified"),
        rows,
        legend="\n".join([*reasons, MEANS]),
    )
