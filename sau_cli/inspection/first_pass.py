"""A cheap look at every class of a model that has many, which decides where dear tests go.

For each class the best of some squares and smooth additions, drawn and not searched, tells how much closer any of them
brings all images to it. It takes passes forward alone, and these tell of all classes at once, so that a thousand cost
no more than ten.

Source: Shen et al., "Backdoor Scanning for Deep Neural Networks through K-Arm Optimization", ICML 2021 (a short look at
every class first).
"""

from __future__ import annotations

import torch
from torch import Tensor

from sau_cli.classifier import Classifier
from sau_cli.inversion.changes import Change, ChangeKind, change_of
from sau_cli.seeding import random_stream

LOOKED_AT, PROPOSALS, IMAGES_A_PASS = 4, 9, 64
"""Images that each change is looked at on, changes from each beginning, and images in a pass."""
FIRST_KINDS = (ChangeKind.SQUARE, ChangeKind.SMOOTH)


def worth_examining(classifier: Classifier, images: Tensor, *, most: int, seed: int) -> Tensor:
    """The classes, ascending, that dear tests should look at: all, where there are no more than ``most``.

    Of more, half are those that the look finds easiest to lead to, in turns by kind, and half are drawn from the
    others, so that what is usual for the model can be told.

    Args:
        classifier: in eval mode.
        images: (N, C, H, W) float in [0, 1] on its device, clean ones, or noise where there are none.
    """
    classes = classifier.description.classes
    if classes <= most:
        return torch.arange(classes)
    shape = (images.shape[1], images.shape[2], images.shape[3])
    gains = [
        _gain(classifier, images[:LOOKED_AT], change_of(kind, shape), random_stream(seed, f"first pass, {kind.value}"))
        for kind in FIRST_KINDS
    ]
    in_turns = torch.stack([gain.argsort(descending=True, stable=True) for gain in gains], dim=1).flatten().tolist()
    easiest = list(dict.fromkeys(in_turns))[: most // 2]
    drawn = torch.randperm(classes, generator=random_stream(seed, "classes whose behaviour is tested")).tolist()
    others = [place for place in drawn if place not in set(easiest)][: most - len(easiest)]
    return torch.tensor(sorted([*easiest, *others]))


def passes(classifier: Classifier, *, most: int) -> int:
    """Images that go through the network, forward alone."""
    spec = classifier.description.input
    shape = (spec.channels, spec.height, spec.width)
    if classifier.description.classes <= most:
        return 0
    return sum(change_of(kind, shape).starts * PROPOSALS * LOOKED_AT for kind in FIRST_KINDS)


def _gain(classifier: Classifier, images: Tensor, change: Change, stream: torch.Generator) -> Tensor:
    """By how much the best of the changes raises the mean log-probability of each class: (K,) on the CPU."""
    with torch.no_grad():
        before = classifier(images).float().log_softmax(dim=1).mean(dim=0)
        best = torch.full_like(before, -torch.inf)
        for rows in change.proposals(PROPOSALS, stream):
            for some in change.allowed(rows.to(images)).split(max(1, IMAGES_A_PASS // len(images))):
                changed = change.changed(images.repeat(len(some), 1, 1, 1), some.repeat_interleave(len(images), dim=0))
                said = classifier(changed).float().log_softmax(dim=1)
                highest = said.unflatten(0, (len(some), len(images))).mean(dim=1).amax(dim=0)
                best = torch.maximum(best, highest)
    gain: Tensor = best - before
    return gain.cpu()
