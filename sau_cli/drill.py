"""A drill: plant known backdoors in copies of a model, purify them, and see what is left."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from sau_cli.attacks.planting import PlannedAttack, attack
from sau_cli.classifier import Classifier
from sau_cli.errors import NotEvaluable, UsageError
from sau_cli.evaluation.metrics import evaluate
from sau_cli.images import CleanData, ImageData, LabelledImages, draw_clean, parted
from sau_cli.precision import Precision
from sau_cli.results import Measure
from sau_cli.training import TrainingProgress, TrainingSettings
from sau_cli.unlearning.methods import MethodSettings
from sau_cli.unlearning.purifier import purify
from sau_cli.unlearning.trail import PurifyProgress

TOOK = 0.5
"""A planted trigger that sends fewer of its images to the target has left nothing to remove."""
MOST_TO_PURIFY = 0.5
"""Of the images that do not measure, the largest share to purify with; the rest is planted with."""
HELD_BACK = 0.1
"""Of the images to purify with, kept from learning."""
USUAL_SHARE = 0.05
"""Of a data set's training part, what a defender is taken to have."""


class Outcome(StrEnum):
    """``did-not-take``: the backdoor was not there to be removed. ``impossible``: it could not be planted, or the
    copy not be purified. ``skipped``: there was no time. None of these counts as removed.
    """

    MEASURED = "measured"
    DID_NOT_TAKE = "did-not-take"
    IMPOSSIBLE = "impossible"
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True, kw_only=True)
class DrilledAttack:
    """What became of one backdoor, on images that were neither planted with nor learned from.

    Attributes:
        reason: a part of a sentence, where nothing was measured.
        asr_before, accuracy_before: of the copy with the backdoor; ``asr``, ``accuracy``: once it is purified.
    """

    attack: str
    outcome: Outcome
    reason: str | None = None
    asr_before: Measure | None = None
    asr: Measure | None = None
    accuracy_before: Measure | None = None
    accuracy: Measure | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Drill:
    """All attacks of a drill, with how many images served what, and the accuracy of the model as it came."""

    attacks: tuple[DrilledAttack, ...]
    planted_with: int
    learned_from: int
    measured_on: int
    accuracy: Measure


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class DrillImages:
    """Three parts that have no image in common: to plant with, to purify with, and to measure on."""

    planting: LabelledImages
    purifying: CleanData
    measuring: LabelledImages


@dataclass(frozen=True, slots=True, kw_only=True)
class DrillProgress:
    """Where a drill stands: what it does with which attack, and how far that is."""

    attack: str
    number: int
    attacks: int
    doing: str
    step: int
    steps: int


def drill_images(data: ImageData, *, learned_from: int | None, balanced: bool, seed: int) -> DrillImages:
    """Share out a data set: its test part, or a quarter where there is none, measures.

    Args:
        learned_from: how many images to purify with; None for what a defender is taken to have, 5 % of a training
            part, or a third of what does not measure where there is no split. At most half of the rest.
        balanced: whether these are drawn evenly over the classes; for measuring and planting it is always so.

    Raises:
        NotEvaluable: too few images for three parts.
    """
    rest, measuring = data.train, data.test
    if measuring is None:
        measuring, rest = parted(rest, 0.25, seed=seed)
    usual = USUAL_SHARE if data.test is not None else 1 / 3
    wanted = usual if learned_from is None else learned_from / (1 - HELD_BACK) / len(rest)
    own, planting = parted(rest, min(wanted, MOST_TO_PURIFY), seed=seed)
    clean = draw_clean(
        own, None, balanced=balanced, held_back_share=HELD_BACK, augmentation=data.augmentation, seed=seed
    )
    return DrillImages(planting=planting, purifying=clean, measuring=measuring)


def drill(
    classifier: Classifier,
    images: DrillImages,
    planned: Sequence[PlannedAttack],
    *,
    training: TrainingSettings,
    recipe: MethodSettings,
    precision: Precision,
    seed: int,
    watch: Callable[[DrillProgress], None] | None = None,
    stop: Callable[[], bool] = lambda: False,
    keep: Callable[[Drill], None] = lambda _: None,
) -> Drill:
    """Plant each backdoor in a copy of its own, purify it, and measure before and after. The model is not changed.

    It shows how much of such backdoors the defence removes from this network with these images; nothing of
    backdoors that may be in the model, or of other triggers.

    Args:
        training: of the planting, a round at a time.
        recipe, precision: of the purification.
        stop: asked after every batch; True ends the drill, and what is not done is skipped.
        keep: called with what is found so far, after every attack.

    Raises:
        NotEvaluable: the images do not fit the model.
    """
    before = evaluate(classifier, images.measuring).accuracy
    done: list[DrilledAttack] = []

    def so_far() -> Drill:
        return Drill(
            attacks=tuple(done),
            planted_with=len(images.planting),
            learned_from=len(images.purifying.learning),
            measured_on=len(images.measuring),
            accuracy=before,
        )

    for number, planned_attack in enumerate(planned, start=1):
        if stop():
            done.append(_without(planned_attack, Outcome.SKIPPED, "there was no time left for it"))
            keep(so_far())
            continue

        def planting(
            at: TrainingProgress, planned_attack: PlannedAttack = planned_attack, number: int = number
        ) -> None:
            _tell(watch, planned_attack, number, len(planned), "planting", at)

        def purifying(at: PurifyProgress, planned_attack: PlannedAttack = planned_attack, number: int = number) -> None:
            _tell(watch, planned_attack, number, len(planned), "purifying", at)

        try:
            done.append(
                _drilled(
                    classifier, images, planned_attack, training, recipe, precision, seed, planting, purifying, stop
                )
            )
        except (NotEvaluable, UsageError) as error:
            done.append(_without(planned_attack, Outcome.IMPOSSIBLE, str(error)))
        keep(so_far())
    return so_far()


def _drilled(
    classifier: Classifier,
    images: DrillImages,
    planned_attack: PlannedAttack,
    training: TrainingSettings,
    recipe: MethodSettings,
    precision: Precision,
    seed: int,
    planting: Callable[[TrainingProgress], None],
    purifying: Callable[[PurifyProgress], None],
    stop: Callable[[], bool],
) -> DrilledAttack:
    planted = attack(
        classifier,
        ImageData(name="drill", train=images.planting, test=images.measuring),
        planned=[planned_attack],
        training=training,
        seed=seed,
        received=classifier,
        watch=planting,
        stop=stop,
    )
    if planted.evaluation is None:
        return _without(planned_attack, Outcome.SKIPPED, "the time was spent while it was planted")
    (row,) = planted.evaluation.triggers
    if row.asr.value < TOOK:
        return DrilledAttack(
            attack=planned_attack.name,
            outcome=Outcome.DID_NOT_TAKE,
            reason=f"after {planted.rounds} rounds of training its trigger works on {row.asr.value:.1%} of images only",
            asr_before=row.asr,
            accuracy_before=planted.evaluation.accuracy,
        )
    purified = purify(
        planted.classifier,
        images.purifying,
        recipe=recipe,
        seed=seed,
        precision=precision,
        watch=purifying,
        stop=stop,
    )
    if not purified.finished:
        return _without(planned_attack, Outcome.SKIPPED, "the time was spent while it was purified")
    after = evaluate(purified.classifier, images.measuring, triggers=planted.triggers)
    return DrilledAttack(
        attack=planned_attack.name,
        outcome=Outcome.MEASURED,
        asr_before=row.asr,
        asr=after.triggers[0].asr,
        accuracy_before=planted.evaluation.accuracy,
        accuracy=after.accuracy,
    )


def _without(planned_attack: PlannedAttack, outcome: Outcome, reason: str) -> DrilledAttack:
    return DrilledAttack(attack=planned_attack.name, outcome=outcome, reason=reason)


def _tell(
    watch: Callable[[DrillProgress], None] | None,
    planned_attack: PlannedAttack,
    number: int,
    attacks: int,
    doing: str,
    at: TrainingProgress | PurifyProgress,
) -> None:
    if watch:
        step, steps = (at.epoch - 1) * at.batches + at.batch, at.epochs * at.batches
        watch(
            DrillProgress(
                attack=planned_attack.name, number=number, attacks=attacks, doing=doing, step=step, steps=steps
            )
        )
