"""Which clean images a model answers otherwise than the one that it was made of."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sau_cli.classifier import Classifier
from sau_cli.evaluation.metrics import renumbered
from sau_cli.images import LabelledImages
from sau_cli.predictions import predicted_labels


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ChangedAnswers:
    """The answers of both, in the classes of the model.

    Attributes:
        labels, before, after: (N,) int64 on the CPU.
    """

    labels: Tensor
    before: Tensor
    after: Tensor

    @property
    def lost(self) -> Tensor:
        """Places of the images that were right and are wrong now; (L,) int64."""
        return torch.nonzero((self.before == self.labels) & (self.after != self.labels))[:, 0]

    @property
    def gained(self) -> Tensor:
        """Places of those that were wrong and are right now."""
        return torch.nonzero((self.before != self.labels) & (self.after == self.labels))[:, 0]

    @property
    def changed(self) -> Tensor:
        """Places of all that are answered otherwise: first what was lost, then what was gained, then the others."""
        others = (self.before != self.after) & (self.before != self.labels) & (self.after != self.labels)
        return torch.cat([self.lost, self.gained, torch.nonzero(others)[:, 0]])


def changed_answers(before: Classifier, after: Classifier, images: LabelledImages) -> ChangedAnswers:
    """Let both answer the same images, whose classes are those of ``after``.

    Raises:
        NotEvaluable: logits of one of them are not finite.
    """
    names = renumbered(before.description, after.description)
    return ChangedAnswers(
        labels=images.labels.cpu(),
        before=names[predicted_labels(before, images.images).cpu()],
        after=predicted_labels(after, images.images).cpu(),
    )
