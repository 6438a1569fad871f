"""The end of a run, brought back towards the received weights as far as no trigger that was inverted comes back.

Accuracy is lost all along the way from the received weights to those that a run ends with, and a backdoor in its first
part. So the last part of the way is often to be had back for nothing.

Source: Wortsman et al., "Robust fine-tuning of zero-shot models" (WiSE-FT), CVPR 2022, for weights between two models.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from sau_cli.classifier import Classifier
from sau_cli.images import LabelledImages, as_pixels, some_of
from sau_cli.inversion.changes import SEARCHED, change_of
from sau_cli.inversion.search import invert
from sau_cli.model_state import evaluating, frozen
from sau_cli.precision import Precision
from sau_cli.seeding import random_stream
from sau_cli.unlearning.inverted_triggers import MOST_IMAGES, QUICK
from sau_cli.unlearning.trail import Searching

TRIES = 3
"""Shares of the way that are tried, one after another, while no trigger comes back."""
SETTINGS = replace(QUICK, judged_on=256)


def bring_back(
    purified: Classifier,
    received: Classifier,
    suspects: Sequence[int],
    learning: LabelledImages,
    *,
    most: float,
    slack: float,
    seed: int,
    precision: Precision,
    tell: Callable[[Searching], None],
) -> float:
    """Move the weights of ``purified``, batch norms' statistics among them, towards those of ``received``.

    After each part of the way the easiest changes that both models share are inverted anew for the suspected classes.

    Args:
        suspects: classes that stood out in a search.
        learning: clean images, on the models' device.
        most: share of the way back, at most.
        slack: by how much the success of a change may grow.
        tell: called as the search goes on.

    Returns:
        The share of the way that the weights were moved.
    """
    end = {name: tensor.detach().clone() for name, tensor in purified.state_dict().items()}
    start = received.state_dict()
    some = some_of(learning, MOST_IMAGES)
    pixels, labels = as_pixels(some.images), some.labels
    changes = [change_of(kind, (pixels.shape[1], pixels.shape[2], pixels.shape[3])) for kind in SEARCHED]
    classes = torch.tensor(sorted(set(suspects)), device=pixels.device)
    passes = [SETTINGS.passes(change, len(classes)) for change in changes]
    searches, told = (1 + TRIES) * sum(passes), 0

    def success() -> Tensor:
        nonlocal told
        found = []
        for kind, change, of in zip(SEARCHED, changes, passes, strict=True):

            def watch(done: int, _of: int, kind: str = kind.value, before: int = told) -> None:
                tell(Searching(kind=kind, done=before + done, of=searches))

            with evaluating(purified, received), frozen(purified, received):
                inverted = invert(
                    [received, purified],
                    pixels,
                    labels,
                    classes,
                    change,
                    stream=random_stream(seed, f"returning, {kind.value}"),
                    settings=SETTINGS,
                    precision=precision,
                    watch=watch,
                )
            by_class = torch.zeros(int(classes.max()) + 1)
            by_class[inverted.classes.cpu()] = inverted.success.cpu().float()
            found.append(by_class)
            told += of
        return torch.stack(found)

    before, reached = success(), 0.0
    for number in range(1, TRIES + 1):
        share = most * number / TRIES
        purified.load_state_dict(_between(end, start, share))
        if bool((success() > before + slack).any()):
            purified.load_state_dict(_between(end, start, reached))
            break
        reached = share
    return reached


def _between(end: dict[str, Tensor], start: dict[str, Tensor], share: float) -> dict[str, Tensor]:
    """Tensors on the line between two models; counts are the end's."""
    return {
        name: torch.lerp(tensor, start[name].to(tensor), share) if tensor.is_floating_point() else tensor
        for name, tensor in end.items()
    }
