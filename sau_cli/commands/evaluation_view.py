"""An evaluation as checks of a report, and as a table for people."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain, count
from typing import TYPE_CHECKING

from rich.console import Group

from sau_cli.reporting.terminal import percent, table, with_interval
from sau_cli.results import Check, CheckStatus, Measure

if TYPE_CHECKING:
    from sau_cli.evaluation.metrics import Evaluation
    from sau_cli.evaluation.paired_test import PairedTest


def evaluation_checks(evaluation: Evaluation) -> tuple[Check, ...]:
    """Every measure as a check with status "measured"."""
    named: list[tuple[str, Measure | None, str]] = [
        ("acc", evaluation.accuracy, "top-1 accuracy on clean test images"),
        ("reference.acc", evaluation.reference_accuracy, "the same, of the reference"),
        ("acc-drop", evaluation.accuracy_drop, "accuracy of the reference minus that of the model"),
    ]
    for row, name in zip(evaluation.triggers, trigger_ids(evaluation), strict=True):
        named += [
            (f"asr.{name}", row.asr, f"triggered images ({row.target_rule}) sent to the target"),
            (f"r-acc.{name}", row.robust_accuracy, "the same images given their true label"),
            (f"wrong.{name}", row.wrong, f"{_wrong(row.clean_wrong)}{MISLEADS * row.misleads}"),
            (f"reference.asr.{name}", row.reference_asr, "sent to the target by the reference"),
            (f"reference.r-acc.{name}", row.reference_robust_accuracy, "given their true label by the reference"),
            (f"reference.wrong.{name}", row.reference_wrong, f"{_wrong(row.reference_clean_wrong)}, by the reference"),
            (f"der.{name}", row.der, "defence effectiveness, 0.5 is nothing gained or lost"),
        ]
    measured = [
        Check(id=name, status=CheckStatus.MEASURED, value=measure.value, ci95=measure.ci95, evidence=evidence)
        for name, measure, evidence in named
        if measure is not None
    ]
    return (*measured, *_change_checks(evaluation))


MISLEADS = "; the trigger still misleads, although it hardly reaches its target"


def _wrong(without: Measure | None) -> str:
    told = "" if without is None else f", and {percent(without.value)} of them without the trigger"
    return f"the same images given any class but their own{told}"


def remarks(evaluation: Evaluation) -> tuple[str, ...]:
    """What is to be said of triggers that mislead, although not to their target; a sentence each."""
    return tuple(
        f"{name} still misleads, although it hardly reaches its target: {percent(row.wrong.value)} of the images with "
        f"it are given a class that is not theirs, and {percent(row.clean_wrong.value)} of the same images without it"
        for row, name in zip(evaluation.triggers, trigger_ids(evaluation), strict=True)
        if row.misleads
    )


def parts_check(trigger: str, parts: Evaluation) -> Check:
    """What the parts of a trigger do alone: the highest ASR of them."""
    highest = max((row.asr for row in parts.triggers), key=lambda asr: asr.value)
    told = ", ".join(percent(row.asr.value) for row in parts.triggers)
    return Check(
        id=f"part-asr.{trigger}",
        status=CheckStatus.MEASURED,
        value=highest.value,
        ci95=highest.ci95,
        evidence=f"images with one of the {len(parts.triggers)} parts of the trigger sent to the target: {told}",
    )


def _change_checks(evaluation: Evaluation) -> Iterator[Check]:
    """The paired tests, where there is a reference."""
    found = [("acc-change.p-value", evaluation.accuracy_change, "classified correctly")]
    for row, name in zip(evaluation.triggers, trigger_ids(evaluation), strict=True):
        found.append((f"asr-change.p-value.{name}", row.asr_change, "sent to the target"))
    for name, test, what in found:
        if test is not None:
            yield Check(
                id=name,
                status=CheckStatus.MEASURED,
                value=test.p_value,
                evidence=f"exact McNemar test on the same images: {test.only_before} {what} by the reference alone, "
                f"{test.only_after} by the model alone",
            )


def trigger_ids(evaluation: Evaluation) -> tuple[str, ...]:
    """A name for each trigger, numbered where two share one."""
    names = [row.trigger for row in evaluation.triggers]
    given: list[str] = []
    for name in names:
        numbered = (f"{name}-{number}" for number in count(1))
        candidates = numbered if names.count(name) > 1 else chain([name], numbered)
        given.append(next(candidate for candidate in candidates if candidate not in given))
    return tuple(given)


def _p_value(test: PairedTest | None) -> str:
    """For people: ``<0.001`` below that."""
    if test is None:
        return ""
    return "<0.001" if test.p_value < 0.001 else f"{test.p_value:.3f}"


LEGEND = """\
ACC: clean images classified correctly. ASR: triggered images of other classes
that are sent to the target. R-ACC: the same images, given their true label.
wrong: the same images, given any class but their own.
In brackets: 95 % intervals."""
LEGEND_ACC = "ACC: clean images classified correctly. In brackets: 95 % intervals."
LEGEND_COMPARED = f"""{LEGEND}
DER: 100 % is a perfect defence, 50 % is nothing gained or lost.
p: how likely such a change is by chance, by McNemar's exact test."""


def evaluation_table(evaluation: Evaluation, *, title: str) -> Group:
    """One row a measure; reference and model side by side where there is a reference."""
    compared = evaluation.reference_accuracy is not None
    measures: list[tuple[str, Measure | None, Measure | None]] = [
        ("ACC", evaluation.reference_accuracy, evaluation.accuracy)
    ]
    for row, name in zip(evaluation.triggers, trigger_ids(evaluation), strict=True):
        measures += [
            (f"ASR {name}", row.reference_asr, row.asr),
            (f"R-ACC {name}", row.reference_robust_accuracy, row.robust_accuracy),
            (f"wrong {name}", row.reference_wrong, row.wrong),
        ]
        if row.der is not None:
            measures.append((f"DER {name}", None, row.der))
    rules = "".join(
        f"\n{name}: {row.target_rule}; {percent(row.clean_wrong.value)} of its images are wrong without it."
        for row, name in zip(evaluation.triggers, trigger_ids(evaluation), strict=True)
    )
    legend = LEGEND_ACC if not evaluation.triggers else (LEGEND_COMPARED if compared else LEGEND) + rules
    if compared:
        p_values = {"ACC": evaluation.accuracy_change} | {
            f"ASR {name}": row.asr_change
            for row, name in zip(evaluation.triggers, trigger_ids(evaluation), strict=True)
        }
        rows = [
            (name, with_interval(before), with_interval(after), _p_value(p_values.get(name)))
            for name, before, after in measures
        ]
        return table(title, ("", "reference", "model", "p"), rows, legend=legend)
    return table(title, ("", "model"), [(name, with_interval(after)) for name, _, after in measures], legend=legend)
