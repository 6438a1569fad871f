"""Whether a purification lasts, as checks of a report and as a table for people."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from rich.console import Group

from sau_cli.reporting.terminal import table, with_interval
from sau_cli.results import Check, CheckStatus, Measure

if TYPE_CHECKING:
    from sau_cli.evaluation.reactivation import Reactivation
    from sau_cli.evaluation.relearning import Relearning

REACTIVATION = (
    "Re-activation: one perturbation of at most {epsilon:g} a pixel, made on other images with the weights at hand. "
    "Far above its control the backdoor is asleep, not gone; near it, any image can be fooled so. Other perturbations "
    "may do more."
)
RELEARNING = (
    "Relearning: {poisoned} poisoned and {poisoned} clean images, {epochs} epochs. Any model can be taught a trigger; "
    "far above its control, this one was remembered. Who can do this can change the model anyway."
)


def lasting_checks(
    names: Sequence[str], reactivations: Sequence[Reactivation], relearnings: Sequence[Relearning]
) -> Iterator[Check]:
    """Every measure as a check with status "measured"; ``names`` are the triggers'."""
    for name, reactivation in zip(names, reactivations, strict=False):
        told = f"under one perturbation of at most {reactivation.epsilon:g} a pixel that was made on other images"
        yield _check(f"reactivated-asr.{name}", reactivation.reactivated, f"triggered images sent to the target {told}")
        yield _check(
            f"reactivation-control.{name}", reactivation.control, f"the same images without trigger, {told} for them"
        )
    for name, relearned in zip(names, relearnings, strict=False):
        told = f"after {relearned.epochs} epochs on {relearned.poisoned} poisoned and as many clean images"
        yield _check(f"relearned-asr.{name}", relearned.relearned, f"triggered images sent to the target {told}")
        yield _check(f"relearned-acc.{name}", relearned.relearned_accuracy, f"clean images classified correctly {told}")
        if relearned.control is not None:
            yield _check(
                f"relearning-control.{name}", relearned.control, f"the same with the trigger upside down, {told} of it"
            )


def _check(name: str, measure: Measure, evidence: str) -> Check:
    return Check(id=name, status=CheckStatus.MEASURED, value=measure.value, ci95=measure.ci95, evidence=evidence)


def lasting_table(
    names: Sequence[str], reactivations: Sequence[Reactivation], relearnings: Sequence[Relearning], *, images: int
) -> Group:
    """Each rate before and after, with its control below it."""
    rows: list[tuple[str, Measure | None, Measure | None]] = []
    for name, reactivation in zip(names, reactivations, strict=False):
        rows += [
            (f"ASR {name}, re-activated", reactivation.asr, reactivation.reactivated),
            ("  control: no trigger", reactivation.untouched, reactivation.control),
        ]
    for name, relearned in zip(names, relearnings, strict=False):
        rows += [
            (f"ASR {name}, relearned", relearned.asr, relearned.relearned),
            ("  control: upside down", relearned.control_asr, relearned.control),
            ("  ACC, relearned", relearned.accuracy, relearned.relearned_accuracy),
        ]
    told = [REACTIVATION.format(epsilon=reactivation.epsilon) for reactivation in reactivations[:1]]
    told += [
        RELEARNING.format(poisoned=relearning.poisoned, epochs=relearning.epochs) for relearning in relearnings[:1]
    ]
    return table(
        f"Does it last: on {images} test images that nothing was made on",
        ("", "as it is", "attacked"),
        [(name, with_interval(before), with_interval(after)) for name, before, after in rows],
        legend="\n".join(told),
    )
