"""Inner embeddings: how far one change of what a layer inside of the network says, the same for all images, leads to a
class.

Behind its first layers a network has turned most triggers, also those that differ from image to image, into much the
same change. It is searched for where it is, and the pixels that would make it need not be.

Source: Fu et al., "FreeEagle: Detecting Complex Neural Trojans in Data-Free Cases", USENIX Security 2023 (an inner
embedding for each class); Xu et al., "BAN: Detecting Backdoors Activated by Adversarial Neuron Noise", NeurIPS 2024.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from sau_cli.classifier import Classifier
from sau_cli.description import InputSpec
from sau_cli.errors import NotEvaluable
from sau_cli.head import head_name
from sau_cli.inspection.behaviour_test import Finding, Subject
from sau_cli.inspection.class_scores import ClassScores
from sau_cli.inspection.climbing import margins
from sau_cli.inspection.standard_logits import TYPICAL

STEPS, IMAGES, STEP = 12, 8, 0.25
"""Of the search, images that it sees, and the length of a step as a share of the change's."""
LENGTH = 0.3
"""Of the change, as a root mean square, in deviations of each number over images."""
AT_ONCE = 128
"""Images in one pass."""


class InnerEmbedding:
    """The test; see :class:`~sau_cli.inspection.behaviour_test.BehaviourTest`."""

    id = "inner-embedding"
    says = "how far one change of what the last layer before the head says leads there"
    needs_data = True
    needs_head = True

    def passes(self, spec: InputSpec, classes: int) -> float:  # noqa: ARG002 (of any size)
        return classes * STEPS * IMAGES / 2  # no way back to the pixels

    def run(self, subject: Subject) -> Finding:
        layer = last_layer(subject.classifier)
        values = inner_embeddings(subject.classifier, layer, subject.images, subject.labels, subject.classes)
        return Finding(scores=ClassScores(test=self.id, values=values, unit=TYPICAL))


def last_layer(classifier: Classifier) -> nn.Module:
    """The last convolution or linear layer before the head.

    Left out are those that say more or fewer rows than there are images, as of windows of one.

    Raises:
        NotEvaluable: there is no such layer before the head.
    """
    spec, head = classifier.description.input, classifier.get_submodule(head_name(classifier))
    blank = torch.zeros(2, spec.channels, spec.height, spec.width, device=classifier.mean.device)
    passed: list[nn.Module] = []

    def pass_through(part: nn.Module, _given: object, said: Tensor) -> None:
        if len(said) == len(blank):
            passed.append(part)

    hooks = [
        part.register_forward_hook(pass_through)
        for part in classifier.modules()
        if isinstance(part, nn.Linear | nn.Conv2d) and part is not head
    ]
    try:
        with torch.no_grad():
            classifier(blank)
    finally:
        for hook in hooks:
            hook.remove()
    if not passed:
        raise NotEvaluable(f"{classifier.description.architecture} has no layer before its head that could be changed")
    return passed[-1]


def inner_embeddings(
    classifier: Classifier, layer: nn.Module, images: Tensor, labels: Tensor, classes: Tensor
) -> Tensor:
    """The mean margin (E,) of each class over images of others, with the best change of a layer that was found for it.

    Args:
        classifier: in eval mode and frozen.
        images: (N, C, H, W) float in [0, 1], on its device, with (N,) labels.
        classes: (E,) int64, those to examine.
    """
    with watched(layer) as seen, torch.no_grad():
        classifier(images)
    spread = seen[-1].float().std(dim=0)
    spread = spread.clamp_min(1e-3 * float(spread.max()))
    images, labels = images[:IMAGES], labels[:IMAGES]
    found = []
    for wanted in classes.to(images.device).split(max(1, AT_ONCE // len(images))):
        other = (labels[None] != wanted[:, None]).float()  # (B, n)
        counted = other.sum(dim=1).clamp_min(1)
        seen_by_each, said = images.repeat(len(wanted), 1, 1, 1), wanted.repeat_interleave(len(images))
        free = torch.zeros(len(wanted), *spread.shape, device=spread.device)
        length = LENGTH * float(spread.numel()) ** 0.5
        for _ in range(STEPS):
            free.requires_grad_(True)
            with changed(layer, (free * spread).repeat_interleave(len(images), dim=0)):
                logits = classifier(seen_by_each).float()
            losses = cross_entropy(logits, said, reduction="none").reshape(other.shape)
            (slope,) = torch.autograd.grad(((losses * other).sum(dim=1) / counted).sum(), free)
            moved = free.detach() - STEP * length * _unit(slope)
            free = moved * (length / _norm(moved)).clamp_max(1)
        with changed(layer, (free * spread).repeat_interleave(len(images), dim=0)), torch.no_grad():
            won = margins(classifier(seen_by_each).float(), said).reshape(other.shape)
        found.append((won * other).sum(dim=1) / counted)
    return torch.cat(found).cpu()


def _norm(rows: Tensor) -> Tensor:
    norms: Tensor = rows.flatten(1).norm(dim=1).clamp_min(1e-12)
    return norms.reshape(-1, *[1] * (rows.ndim - 1))


def _unit(rows: Tensor) -> Tensor:
    return rows / _norm(rows)


@contextmanager
def watched(layer: nn.Module) -> Iterator[list[Tensor]]:
    """What a layer says, pass after pass."""
    seen: list[Tensor] = []
    hook = layer.register_forward_hook(lambda _part, _given, said: seen.append(said.detach()))
    try:
        yield seen
    finally:
        hook.remove()


@contextmanager
def changed(layer: nn.Module, change: Tensor) -> Iterator[None]:
    """What a layer says, with a change (N, ...) added."""
    hook = layer.register_forward_hook(lambda _part, _given, said: said + change)
    try:
        yield
    finally:
        hook.remove()
