"""How soon a backdoor comes back: fine-tuning of a copy of the model on a handful of poisoned images.

Source: Min, Qin, Zhang, Shen, Cheng, "Uncovering, Explaining, and Mitigating the Superficial Safety of Backdoor
Defense", NeurIPS 2024, arXiv 2410.09838, the retuning attack.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from sau_cli.classifier import Classifier
from sau_cli.errors import UsageError, argument
from sau_cli.evaluation.metrics import rate
from sau_cli.images import LabelledImages
from sau_cli.predictions import predicted_labels
from sau_cli.results import Measure
from sau_cli.seeding import random_stream
from sau_cli.training import TrainingSettings, train
from sau_cli.triggers.trigger import Trigger

RELEARNING_EPOCHS, RELEARNING_LR, RELEARNING_BATCH = 5, 0.003, 32
"""With a higher rate a copy forgets its clean accuracy, and every trigger works."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Relearning:
    """Rates among images that nothing was learned from.

    Attributes:
        poisoned: images with the trigger and its label that were learned from, and as many clean ones.
        asr, relearned: sent to the target by the model and by the copy that learned.
        accuracy, relearned_accuracy: clean images classified correctly by both.
        control_asr, control: as ``asr`` and ``relearned``, with the trigger upside down, which no one has planted;
            None where that is the trigger itself.
    """

    trigger: str
    poisoned: int
    epochs: int
    asr: Measure
    relearned: Measure
    accuracy: Measure
    relearned_accuracy: Measure
    control_asr: Measure | None = None
    control: Measure | None = None


def relearn(
    classifier: Classifier,
    learned_on: LabelledImages,
    measured_on: LabelledImages,
    trigger: Trigger,
    *,
    poisoned: int,
    seed: int,
) -> Relearning:
    """Teach copies of the model the trigger, and the trigger upside down, from few images. The model is not changed.

    Args:
        learned_on: images to learn from, none of which is among ``measured_on``.
        poisoned: how many of them get the trigger; as many others stay clean.

    Raises:
        UsageError: there are not so many images.
    """
    counted = trigger.rule.counted(learned_on.labels).nonzero().squeeze(1)
    most = min(len(counted), len(learned_on) // 2)
    if not 1 <= poisoned <= most:
        raise UsageError(
            f"{argument('relearn')} {poisoned} is impossible with {len(learned_on)} "
            f"images to learn from (half of the test "
            f"images); give 1 to {most}"
        )
    stream = random_stream(seed, "relearning")
    chosen = counted[torch.randperm(len(counted), generator=stream)[:poisoned]]
    free = torch.ones(len(learned_on), dtype=torch.bool)
    free[chosen] = False
    others = free.nonzero().squeeze(1)
    clean = others[torch.randperm(len(others), generator=stream)[:poisoned]]

    def taught(stamp: Trigger | _UpsideDown) -> Classifier:
        images = torch.cat([stamp.stamp(learned_on.images[chosen]), learned_on.images[clean]])
        targets = trigger.rule.targets(learned_on.labels[chosen], learned_on.classes)
        labels = torch.cat([targets, learned_on.labels[clean]])
        copy = deepcopy(classifier)
        copy.requires_grad_(True)
        settings = TrainingSettings(
            epochs=RELEARNING_EPOCHS, peak_lr=RELEARNING_LR, batch_size=min(RELEARNING_BATCH, len(labels))
        )
        train(copy, replace(learned_on, images=images, labels=labels), settings, seed=seed)
        return copy

    def success(of: Classifier, stamp: Trigger | _UpsideDown) -> Measure:
        where = trigger.rule.counted(measured_on.labels)
        targets = trigger.rule.targets(measured_on.labels[where], measured_on.classes)
        return _share(predicted_labels(of, stamp.stamp(measured_on.images[where])).cpu() == targets)

    def accuracy(of: Classifier) -> Measure:
        return _share(predicted_labels(of, measured_on.images).cpu() == measured_on.labels)

    copy, other = taught(trigger), _UpsideDown(trigger)
    told = Relearning(
        trigger=trigger.name,
        poisoned=poisoned,
        epochs=RELEARNING_EPOCHS,
        asr=success(classifier, trigger),
        relearned=success(copy, trigger),
        accuracy=accuracy(classifier),
        relearned_accuracy=accuracy(copy),
    )
    if torch.equal(other.stamp(learned_on.images), trigger.stamp(learned_on.images)):
        return told
    return replace(told, control_asr=success(classifier, other), control=success(taught(other), other))


@dataclass(frozen=True, slots=True)
class _UpsideDown:
    """A trigger that no one has planted, as hard to learn as another: the field mirrors images, but never so."""

    trigger: Trigger

    def stamp(self, images: Tensor) -> Tensor:
        return self.trigger.stamp(images.flip(2)).flip(2)


def _share(hits: Tensor) -> Measure:
    return rate(int(hits.sum()), len(hits))
