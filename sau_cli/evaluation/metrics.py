"""ACC, ASR, R-ACC and DER, each with a 95 % interval.

- ACC: top-1 on clean test images.
- ASR: of triggered test images whose true label is not the target, the share sent to the target.
- R-ACC: of the same images, the share given their true label.
- DER = ½·(max(0, ASR_before - ASR_after) - max(0, ACC_before - ACC_after) + 1), in [0, 1];
  0.5 means nothing gained or lost.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import binomtest
from torch import Tensor

from sau_cli.attacks.triggers import Trigger
from sau_cli.classifier import Classifier
from sau_cli.description import Description
from sau_cli.errors import NotEvaluable
from sau_cli.evaluation.paired_test import PairedTest, paired_test
from sau_cli.evaluation.predictions import predicted_labels
from sau_cli.images import LabelledImages, check_fits
from sau_cli.results import Measure

RESAMPLES = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class TriggerMeasures:
    """What one trigger does to a model; ``der`` and ``asr_change`` only where there is a reference."""

    trigger: str
    target_rule: str
    asr: Measure
    robust_accuracy: Measure
    reference_asr: Measure | None = None
    reference_robust_accuracy: Measure | None = None
    der: Measure | None = None
    asr_change: PairedTest | None = None


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


def _share_of(flags: NDArray[np.bool_], counted: NDArray[np.bool_] | None = None) -> Measure:
    chosen = flags if counted is None else flags[counted]
    return rate(int(chosen.sum()), len(chosen))


def _resampled(columns: NDArray[np.bool_], *, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Bootstrap over images: how often each distinct row of flags occurs in each resample.

    Drawing N images with replacement is a multinomial draw over their distinct rows, so the cost
    does not depend on N. Returns (distinct rows, counts) of shapes (R, columns) and (resamples, R).
    """
    rows, counts = np.unique(columns, axis=0, return_counts=True)
    total = int(counts.sum())
    draws = np.random.default_rng(seed).multinomial(total, counts / total, size=RESAMPLES)
    return rows.astype(np.int64), draws.astype(np.int64)


def accuracy_drop(correct_before: NDArray[np.bool_], correct_after: NDArray[np.bool_], *, seed: int = 0) -> Measure:
    """ACC before minus ACC after on the same images, with a paired bootstrap interval. (N,) bool twice."""
    rows, draws = _resampled(np.stack([correct_before, correct_after], axis=1), seed=seed)
    drops = draws @ (rows[:, 0] - rows[:, 1]) / len(correct_before)
    low, high = np.quantile(drops, (0.025, 0.975))
    return Measure(value=float(correct_before.mean() - correct_after.mean()), ci95=(float(low), float(high)))


def defence_effectiveness_measure(
    correct_before: NDArray[np.bool_],
    correct_after: NDArray[np.bool_],
    hit_before: NDArray[np.bool_],
    hit_after: NDArray[np.bool_],
    counted: NDArray[np.bool_],
    *,
    seed: int = 0,
) -> Measure:
    """DER with a paired bootstrap interval over the test images. All (N,) bool.

    Args:
        correct_before, correct_after: the clean image was classified correctly.
        hit_before, hit_after: the triggered image was sent to the target.
        counted: the image counts for the ASR.
    """
    value = defence_effectiveness(
        float(hit_before[counted].mean()),
        float(hit_after[counted].mean()),
        float(correct_before.mean()),
        float(correct_after.mean()),
    )
    columns = np.stack([correct_before, correct_after, hit_before & counted, hit_after & counted, counted], axis=1)
    rows, draws = _resampled(columns, seed=seed)
    total = len(counted)
    counts = np.maximum(draws @ rows[:, 4], 1)
    asr_drop = np.maximum(0, draws @ (rows[:, 2] - rows[:, 3]) / counts)
    acc_drop = np.maximum(0, draws @ (rows[:, 0] - rows[:, 1]) / total)
    low, high = np.quantile((asr_drop - acc_drop + 1) / 2, (0.025, 0.975))
    return Measure(value=value, ci95=(float(low), float(high)))


def _renamed(reference: Description, model: Description) -> Tensor:
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
) -> Evaluation:
    """Measure a model on test images, and against a reference model if there is one.

    Low ASR says that this trigger no longer works; it says nothing of other triggers.

    Args:
        classifier: the model, on the device to work on.
        data: test images that no model was trained on.
        triggers: what to stamp; each image once per trigger.
        reference: the model before it was purified, of the same classes and input.

    Raises:
        NotEvaluable: the data or the reference do not fit the model, or logits are not finite.
    """
    check_fits(data, classifier.description)
    if reference is not None:
        if reference.description.classes != classifier.description.classes:
            raise NotEvaluable(
                f"the reference has {reference.description.classes} classes but the model has "
                f"{classifier.description.classes}; give the model that was purified"
            )
        check_fits(data, reference.description)
    renamed = None if reference is None else _renamed(reference.description, classifier.description)
    labels = data.labels
    correct = _flags(predicted_labels(classifier, data.images).cpu() == labels)
    correct_before = None
    if reference is not None and renamed is not None:
        correct_before = _flags(renamed[predicted_labels(reference, data.images).cpu()] == labels)
    rows = []
    for trigger in triggers:
        trigger.rule.check(data.classes)
        counted = _flags(trigger.rule.counted(labels))
        targets = trigger.rule.targets(labels, data.classes)
        stamped = trigger.stamp(data.images)
        said = predicted_labels(classifier, stamped).cpu()
        hit = _flags(said == targets)
        asr, robust = _share_of(hit, counted), _share_of(_flags(said == labels), counted)
        if reference is None or renamed is None or correct_before is None:
            rows.append(
                TriggerMeasures(trigger=trigger.name, target_rule=str(trigger.rule), asr=asr, robust_accuracy=robust)
            )
            continue
        said_before = renamed[predicted_labels(reference, stamped).cpu()]
        hit_before = _flags(said_before == targets)
        rows.append(
            TriggerMeasures(
                trigger=trigger.name,
                target_rule=str(trigger.rule),
                asr=asr,
                robust_accuracy=robust,
                reference_asr=_share_of(hit_before, counted),
                reference_robust_accuracy=_share_of(_flags(said_before == labels), counted),
                der=defence_effectiveness_measure(correct_before, correct, hit_before, hit, counted),
                asr_change=paired_test(hit_before[counted], hit[counted]),
            )
        )
    return Evaluation(
        images=len(data),
        accuracy=_share_of(correct),
        triggers=tuple(rows),
        reference_accuracy=None if correct_before is None else _share_of(correct_before),
        accuracy_drop=None if correct_before is None else accuracy_drop(correct_before, correct),
        accuracy_change=None if correct_before is None else paired_test(correct_before, correct),
    )
