"""A model before and after, for reports: its measures, which images changed their answer, and what triggers do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from sau_cli.commands.evaluation_view import evaluation_checks, evaluation_table, trigger_ids
from sau_cli.commands.options import flag_of
from sau_cli.commands.session import Session
from sau_cli.errors import NotEvaluable, UsageError
from sau_cli.reporting.terminal import percent
from sau_cli.results import Check, CheckStatus

if TYPE_CHECKING:
    from sau_cli.classifier import Classifier
    from sau_cli.evaluation.metrics import Evaluation
    from sau_cli.images import LabelledImages
    from sau_cli.triggers.trigger import Trigger

COMPARISON_IMAGES = 1000
"""Images that tell how two models differ."""
SHOWN_IMAGES = 12
"""Images in a report that changed their answer."""


def triggers_named(
    session: Session, sources: Sequence[str] | None, target: str | None, class_names: Sequence[str]
) -> tuple[Trigger, ...]:
    """The triggers that ``--trigger`` names, to measure with.

    Raises:
        UsageError: ``--target`` without a trigger, or a trigger that cannot be opened.
    """
    from sau_adapters.triggers import read_trigger
    from sau_cli.triggers.targets import parse_target

    if target is not None and not sources:
        raise UsageError("--target says where a trigger sends images, and there is none; add --trigger")
    rule = None if target is None else parse_target(target)
    opened = [read_trigger(source, rule) for source in sources or ()]
    fitting = tuple(trigger_file.trigger.for_classes(class_names) for trigger_file in opened)
    for trigger_file in opened:
        session.took(trigger_file.path, trigger_file.sha256)
    return fitting


def compare(
    session: Session, before: Classifier, after: Classifier, images: LabelledImages, triggers: Sequence[Trigger]
) -> None:
    """Add to the report what both models answer; where that cannot be measured, a skipped check says why."""
    try:
        checks, details, evaluation = measured_beside(before, after, images, triggers)
    except NotEvaluable as error:
        told = f"the models before and after were not compared: {error.told(flag_of)}"
        session.findings.add(Check(id="comparison", status=CheckStatus.SKIPPED, evidence=told))
        return
    session.findings.add(*checks)
    session.findings.tell(comparison=details)
    if triggers:
        session.show(evaluation_table(evaluation, title=f"Before (reference) and after, on {evaluation.images} images"))


def measured_beside(
    before: Classifier, after: Classifier, images: LabelledImages, triggers: Sequence[Trigger]
) -> tuple[tuple[Check, ...], dict[str, Any], Evaluation]:
    """Measure both on some of these images, which neither learned from.

    Raises:
        NotEvaluable: a trigger does not fit the images, or logits are not finite.
    """
    from sau_cli.evaluation.metrics import evaluate
    from sau_cli.images import some_of

    some = some_of(images, COMPARISON_IMAGES)
    evaluation = evaluate(after, some, triggers=tuple(triggers), reference=before)
    return evaluation_checks(evaluation), comparison_details(before, after, some, triggers, evaluation), evaluation


def comparison_details(
    before: Classifier,
    after: Classifier,
    images: LabelledImages,
    triggers: Sequence[Trigger],
    evaluation: Evaluation,
) -> dict[str, Any]:
    """Which of the images changed their answer, with pictures of some, and each trigger on one of them."""
    from sau_adapters.images.pictures import recovered_trigger, thumbnail
    from sau_cli.evaluation.changed_answers import changed_answers

    answers, names = changed_answers(before, after, images), after.description.class_names
    shown = [
        {
            "png": thumbnail(images.images[place]),
            "class": names[answers.labels[place]],
            "before": names[answers.before[place]],
            "after": names[answers.after[place]],
        }
        for place in answers.changed[:SHOWN_IMAGES].tolist()
    ]
    stamped = []
    for trigger, row, name in zip(triggers, evaluation.triggers, trigger_ids(evaluation), strict=True):
        (image,) = images.images[:1]
        (with_trigger,) = trigger.stamp(images.images[:1])
        change = (with_trigger.float() - image.float()) / 255
        came = "" if row.reference_asr is None else f"{percent(row.reference_asr.value)} before, "
        told = f"{name} ({row.target_rule}): {came}{percent(row.asr.value)} after of images with it reach its target"
        stamped.append(recovered_trigger(name, change, row.asr.value, image) | {"says": told})
    return {
        "images": len(images),
        "changed": len(answers.changed),
        "lost": len(answers.lost),
        "gained": len(answers.gained),
        "shown": shown,
        "triggers": stamped,
    }
