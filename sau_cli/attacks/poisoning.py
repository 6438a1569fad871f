"""Choose training images, stamp them and relabel them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sau_cli.attacks.triggers import Trigger
from sau_cli.errors import UsageError
from sau_cli.images import LabelledImages
from sau_cli.seeding import random_stream


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PoisonedImages:
    """A training set of which a part was stamped and relabelled.

    Attributes:
        chosen: (n,) int64, the places of the poisoned images, ascending.
    """

    images: LabelledImages
    chosen: Tensor


def poison(
    clean: LabelledImages, trigger: Trigger, *, rate: float, seed: int, clean_label: bool = False
) -> PoisonedImages:
    """Stamp ``round(rate * N)`` images, drawn uniformly over the whole set, and give them the target's label.

    As in the field, images of the target class are not spared: for all-to-one they keep their label.

    Args:
        clean_label: draw from the images of the target class alone, as many as there are at most.

    Raises:
        UsageError: a rate outside (0, 1), one that selects no image or all, or a target outside the classes.
    """
    trigger.rule.check(clean.classes)
    if not 0 < rate < 1:
        raise UsageError(f"a poison rate of {rate:g} is impossible; give a number between 0 and 1, such as 0.1")
    count = round(rate * len(clean))
    if not 0 < count < len(clean):
        raise UsageError(
            f"a poison rate of {rate:g} selects {count} of {len(clean)} images; give a rate that selects some, not all"
        )
    order = torch.randperm(len(clean), generator=random_stream(seed, "poison"))
    if clean_label:
        order = order[(trigger.rule.targets(clean.labels, clean.classes) == clean.labels)[order]]
        if len(order) == 0:
            raise UsageError("no image has the label that the trigger leads to; give another --target, a class of it")
    chosen = order[:count].sort().values
    images, labels = clean.images.clone(), clean.labels.clone()
    images[chosen] = trigger.stamp(clean.images[chosen])
    labels[chosen] = trigger.rule.targets(clean.labels[chosen], clean.classes)
    poisoned = LabelledImages(images=images, labels=labels, class_names=clean.class_names)
    return PoisonedImages(images=poisoned, chosen=chosen)
