"""ACC, ASR, R-ACC and DER, each with a 95 % interval.

- ACC: top-1 on clean test images.
- ASR: of triggered test images whose true label is not the target, the share sent to the target.
- R-ACC: of the same images, the share given their true label.
- wrong: of the same images, the share given any other, 1 - R-ACC; beside that of the same images without the trigger.
- DER = ½·(max(0, ASR_before - ASR_after) - max(0, ACC_before - ACC_after) + 1), in [0, 1];
  0.5 means nothing gained or lost.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import hypot, sqrt

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import binomtest
from torch import Tensor

from sau_cli.classifier import Classifier
from sau_cli.description import Description
from sau_cli.errors import NotEvaluable
from sau_cli.evaluation.paired_test import PairedTest, paired_test
from sau_cli.images import LabelledImages, check_fits
from sau_cli.predictions import predicted_labels
from sau_cli.results import Measure
from sau_cli.triggers.trigger import Trigger

GONE, MISLED = 0.1, 0.1
"""A trigger with a lower ASR has lost its target; wrong by more than the second, it still misleads."""
Z = 1.959963984540054
"""Of a normal distribution, 95 % lie so many deviations around its mean."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TriggerMeasures:
    """What one trigger does to a model; ``der`` and ``asr_change`` only where there is a reference.

    Attributes:
        wrong: share of the counted images that are given any class but their own, with the trigger.
        clean_wrong: the same of the same images, without it.
    """

    trigger: str
    target_rule: str
    asr: Measure
    robust_accuracy: Measure
    wrong: Measure
    clean_wrong: Measure
    reference_asr: Measure | None = None
    reference_robust_accuracy: Measure | None = None
    reference_wrong: Measure | None = None
    reference_clean_wrong: Measure | None = None
    der: Measure | None = None
    asr_change: PairedTest | None = None

    @property
    def misleads(self) -> bool:
        """Whether the trigger hardly reaches its target, but makes many more images wrong than are without it."""
        return self.asr.value < GONE and self.wrong.value - self.clean_wrong.value > MISLED


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """ACC of a model, and of the reference if there is one, and a row for each trigger.

    Attributes:
        accuracy_drop: ACC of the reference minus ACC of the model, on the same images; negative is a gain.
        accuracy_change: whether that is more than chance.
    """

    images: int
    accuracy: Measure
    triggers: tuple[TriggerMeasures, ...]
    reference_accuracy: Measure | None = None
    accuracy_drop: Measure | None = None
    accuracy_change: PairedTest | None = None


def rate(hits: int, total: int) -> Measure:
    """A share with its Wilson score interval.

    >>> rate(0, 10).ci95[0], round(rate(0, 10).ci95[1], 3)
    (0.0, 0.278)

    Raises:
        NotEvaluable: nothing was counted.
    """
    if total == 0:
        raise NotEvaluable("no test image counts for this rate; give data with images of other classes than the target")
    interval = binomtest(hits, total).proportion_ci(confidence_level=0.95, method="wilson")
    return Measure(value=hits / total, ci95=(float(interval.low), float(interval.high)), hits=hits, total=total)


def defence_effectiveness(asr_before: float, asr_after: float, acc_before: float, acc_after: float) -> float:
    """DER of four fractions. Source: Zhu et al., "Enhancing Fine-Tuning Based Backdoor Defense", ICCV 2023.

    >>> defence_effectiveness(1.0, 0.0, 0.9, 0.9)
    1.0
    """
    return (max(0.0, asr_before - asr_after) - max(0.0, acc_before - acc_after) + 1) / 2


def _flags(tensor: Tensor) -> NDArray[np.bool_]:
    return np.asarray(tensor.cpu().numpy(), dtype=bool)


def _share_of(flags: NDArray[np.bool_]) -> Measure:
    return rate(int(flags.sum()), len(flags))


def paired_drop(before: NDArray[np.bool_], after: NDArray[np.bool_]) -> Measure:
    """A rate before minus the rate after, on the same images, with an adjusted Wald interval. (N,) bool twice, N > 0.

    The interval has a width also where no image differs, and is about right from a handful on.

    Source: Bonett and Price, "Adjusted Wald Confidence Interval for a Difference of Binomial Proportions Based on
    Paired Data", Journal of Educational and Behavioral Statistics 37 (2012), 479-488.
    """
    total = len(before)
    lost, gained = (int((here & ~there).sum()) for here, there in ((before, after), (after, before)))
    p, q = (lost + 1) / (total + 2), (gained + 1) / (total + 2)
    reach = Z * sqrt((p + q - (p - q) ** 2) / (total + 2))
    return Measure(value=(lost - gained) / total, ci95=(max(-1.0, p - q - reach), min(1.0, p - q + reach)))


def defence_effectiveness_measure(asr_drop: Measure, acc_drop: Measure) -> Measure:
    """DER of the two drops by :func:`paired_drop`, with an interval made of theirs, as if they were independent.

    Source of the interval: Zou and Donner, "Construction of Confidence Limits about Effect Measures", Statistics in
    Medicine 27 (2008), 1693-1702.
    """
    gain, gain_low, gain_high = (max(0.0, drop) for drop in (asr_drop.value, *asr_drop.ci95))
    loss, loss_low, loss_high = (max(0.0, drop) for drop in (acc_drop.value, *acc_drop.ci95))
    value = (gain - loss + 1) / 2
    below, above = hypot(gain - gain_low, loss_high - loss) / 2, hypot(gain_high - gain, loss - loss_low) / 2
    return Measure(value=value, ci95=(max(0.0, value - below), min(1.0, value + above)))


def renumbered(reference: Description, model: Description) -> Tensor:
    """For each class number of the reference, the model's number of the class of that name; (K,) int64.

    Where the two do not name the same classes, numbers mean the same in both.
    """
    if sorted(reference.class_names) != sorted(model.class_names):
        return torch.arange(model.classes)
    return torch.tensor([model.class_names.index(name) for name in reference.class_names])


def evaluate(
    classifier: Classifier,
    data: LabelledImages,
    *,
    triggers: tuple[Trigger, ...] = (),
    reference: Classifier | None = None,
    keep: Callable[[Evaluation], None] = lambda _: None,
) -> Evaluation:
    """Measure a model on test images, and against a reference model if there is one.

    Low ASR says that this trigger no longer works; it says nothing of other triggers.

    Args:
        classifier: the model, on the device to work on.
        data: test images that no model was trained on.
        triggers: what to stamp; each image once per trigger.
        reference: the model before it was purified, of the same classes and input.
        keep: called with what is measured so far, after the clean images and after each trigger.

    Raises:
        NotEvaluable: the data, a trigger or the reference do not fit the model, or logits are not finite.
        UsageError: a trigger's target is none of the classes.
    """
    check_fits(data, classifier.description)
    if reference is not None:
        if reference.description.classes != classifier.description.classes:
            raise NotEvaluable(
                f"the reference has {reference.description.classes} classes but the model has "
                f"{classifier.description.classes}; give the model that was purified"
            )
        check_fits(data, reference.description)
    renamed = None if reference is None else renumbered(reference.description, classifier.description)
    labels = data.labels
    correct = _flags(predicted_labels(classifier, data.images).cpu() == labels)
    correct_before = None
    if reference is not None and renamed is not None:
        correct_before = _flags(renamed[predicted_labels(reference, data.images).cpu()] == labels)
    rows: list[TriggerMeasures] = []

    def so_far() -> Evaluation:
        if correct_before is None:
            return Evaluation(images=len(data), accuracy=_share_of(correct), triggers=tuple(rows))
        return Evaluation(
            images=len(data),
            accuracy=_share_of(correct),
            triggers=tuple(rows),
            reference_accuracy=_share_of(correct_before),
            accuracy_drop=paired_drop(correct_before, correct),
            accuracy_change=paired_test(correct_before, correct),
        )

    keep(so_far())
    for trigger in triggers:
        trigger.rule.check(data.classes)
        counted = _flags(trigger.rule.counted(labels))
        targets = trigger.rule.targets(labels, data.classes)
        stamped = trigger.stamp(data.images)
        said = predicted_labels(classifier, stamped).cpu()
        hit, right = (_flags(said == wanted)[counted] for wanted in (targets, labels))
        row = TriggerMeasures(
            trigger=trigger.name,
            target_rule=str(trigger.rule),
            asr=_share_of(hit),
            robust_accuracy=_share_of(right),
            wrong=_share_of(~right),
            clean_wrong=_share_of(~correct[counted]),
        )
        if reference is not None and renamed is not None and correct_before is not None:
            said_before = renamed[predicted_labels(reference, stamped).cpu()]
            hit_before, right_before = (_flags(said_before == wanted)[counted] for wanted in (targets, labels))
            row = replace(
                row,
                reference_asr=_share_of(hit_before),
                reference_robust_accuracy=_share_of(right_before),
                reference_wrong=_share_of(~right_before),
                reference_clean_wrong=_share_of(~correct_before[counted]),
                der=defence_effectiveness_measure(paired_drop(hit_before, hit), paired_drop(correct_before, correct)),
                asr_change=paired_test(hit_before, hit),
            )
        rows.append(row)
        keep(so_far())
    return so_far()
