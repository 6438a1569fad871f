"""Plant a known backdoor: poison, train, and measure what came out."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass

from sau_cli.attacks.poisoning import poison
from sau_cli.attacks.training import TrainingProgress, TrainingSettings, train
from sau_cli.attacks.triggers import Trigger
from sau_cli.classifier import Classifier
from sau_cli.evaluation.metrics import Evaluation, evaluate
from sau_cli.images import ImageData, check_fits


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PlantedBackdoor:
    """A known-bad classifier, its trigger, and the measures on the test part of the data."""

    classifier: Classifier
    trigger: Trigger
    poisoned: int
    trained_on: int
    evaluation: Evaluation


def attack(
    classifier: Classifier,
    data: ImageData,
    *,
    trigger: Trigger,
    poison_rate: float,
    training: TrainingSettings,
    seed: int,
    clean_label: bool = False,
    received: Classifier | None = None,
    watch: Callable[[TrainingProgress], None] | None = None,
) -> PlantedBackdoor:
    """Train a copy of ``classifier`` on poisoned images. The given classifier is not changed.

    Args:
        classifier: freshly initialised, to train from scratch, or somebody's model, to implant into.
        data: its training part is poisoned; its test part measures the result.
        poison_rate: share of the training images to stamp and relabel, in (0, 1).
        clean_label: poison images of the target class alone.
        received: measure the result against this model, to see what implanting cost.

    Raises:
        UsageError: an impossible rate or target.
        NotEvaluable: data that does not fit the model, or a loss that stops being finite.
    """
    check_fits(data.train, classifier.description)
    check_fits(data.for_testing, classifier.description)
    poisoned = poison(data.train, trigger, rate=poison_rate, seed=seed, clean_label=clean_label)
    planted = deepcopy(classifier)
    planted.requires_grad_(True)
    train(planted, poisoned.images, training, seed=seed, watch=watch)
    return PlantedBackdoor(
        classifier=planted,
        trigger=trigger,
        poisoned=len(poisoned.chosen),
        trained_on=len(data.train),
        evaluation=evaluate(planted, data.for_testing, triggers=(trigger,), reference=received),
    )
