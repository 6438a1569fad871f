"""Fine-tuning on clean images, plainly or where the loss is flat, as a step on a batch."""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from sau_cli.classifier import Classifier
from sau_cli.devices import out_of_memory
from sau_cli.images import as_pixels
from sau_cli.precision import Precision, fast_layout, running_in
from sau_cli.unlearning.batch_statistics import BatchStatistics
from sau_cli.unlearning.batch_step import Batch, NotFiniteError
from sau_cli.unlearning.methods import FineTuning
from sau_cli.unlearning.sharpness import climbed
from sau_cli.unlearning.trail import Tally

SMALLEST_PART = 4
"""Images: fewer tell nothing of a distribution, and pass by the running statistics."""


class FineTuner:
    """Steps of SGD on the cross-entropy. With ``rho``, by the gradient at the worst point nearby.

    Batch norm normalises by the statistics of the batch; of each part, where it is worked off in parts.
    """

    graphs = None

    def __init__(
        self, purified: Classifier, settings: FineTuning, *, precision: Precision, max_batch: int | None
    ) -> None:
        self.purified, self.settings, self.precision = purified, settings, precision
        self.device = purified.mean.device
        self.layout = fast_layout(precision, self.device)
        self.statistics = BatchStatistics(purified)
        self.part = self.group = max_batch or settings.batch_size
        self.optimiser: torch.optim.Optimizer = torch.optim.SGD(
            purified.parameters(), lr=settings.lr, momentum=0.9, weight_decay=5e-4
        )

    def begin_epoch(self, order: Tensor) -> None:
        """Nothing goes from one epoch to the next."""

    def learned(self) -> Classifier:
        """The classifier at work."""
        return self.purified

    def tensors(self) -> Mapping[str, Tensor]:
        """Nothing goes from one batch to the next."""
        return {}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Nothing to go on from."""

    def take(self, batch: Batch) -> Tally:
        """See :class:`~sau_cli.unlearning.batch_step.BatchStep`."""
        loss = self.gradients(batch)
        seen = dict(self.statistics.sums)
        if self.settings.rho > 0 and isfinite(loss):
            with climbed(self.purified.parameters(), self.settings.rho):
                if not isfinite(self.gradients(batch)):
                    loss = float("nan")
        if not isfinite(loss):
            self.statistics.forget()
            raise NotFiniteError("the loss stopped being finite")
        self.optimiser.step()
        self.statistics.sums = seen  # not of the worst point
        self.statistics.follow()
        return Tally(images=len(batch.at), clean_loss=loss)

    def gradients(self, batch: Batch) -> float:
        """Set those of the mean loss over the batch; returns its sum. Parts are halved while memory is short."""
        while True:
            self.optimiser.zero_grad(set_to_none=True)
            self.statistics.forget()
            total = 0.0
            try:
                for images, labels in zip(batch.images.split(self.part), batch.labels.split(self.part), strict=True):
                    pixels = as_pixels(images).contiguous(memory_format=self.layout)
                    by_itself = len(images) >= SMALLEST_PART
                    with running_in(self.precision, self.device), self.statistics.of_each_group(on=by_itself) as seen:
                        logits = self.purified(pixels).float()
                    smoothing = self.settings.label_smoothing
                    loss = cross_entropy(logits, labels, reduction="sum", label_smoothing=smoothing)
                    (loss / len(batch.at)).backward()
                    self.statistics.add(seen)
                    total += loss.item()
                return total
            except RuntimeError as error:
                if not out_of_memory(error) or self.part == 1:
                    raise
            self.part = (min(self.part, len(batch.at)) + 1) // 2
            if self.device.type == "cuda":
                torch.cuda.empty_cache()
