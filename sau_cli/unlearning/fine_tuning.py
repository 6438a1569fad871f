"""Fine-tuning on clean images, plainly or where the loss is flat, as a step on a batch; others build on it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import isfinite

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from sau_cli.classifier import Classifier
from sau_cli.devices import out_of_memory
from sau_cli.images import as_pixels
from sau_cli.precision import fast_layout, running_in
from sau_cli.unlearning.batch_statistics import BatchStatistics
from sau_cli.unlearning.batch_step import Batch, NotFiniteError, Work
from sau_cli.unlearning.compared_methods import ComparedMethod, FineTuning
from sau_cli.unlearning.sharpness import climbed
from sau_cli.unlearning.trail import Searching, Tally

SMALLEST_PART = 4
"""Images: fewer tell nothing of a distribution, and pass by the running statistics."""


class Tuner:
    """Steps of SGD with momentum 0.9. With ``rho``, by the gradient at the worst point nearby.

    Batch norm normalises by the statistics of the batch; of each part, where it is worked off in parts.
    """

    graphs = None
    rounds = ()

    def __init__(self, work: Work, settings: ComparedMethod, *, weight_decay: float = 0.0, rho: float = 0.0) -> None:
        purified = work.purified
        self.purified, self.precision, self.rho = purified, work.precision, rho
        self.device = purified.mean.device
        self.layout = fast_layout(work.precision, self.device)
        self.statistics = BatchStatistics(purified)
        self.part = self.group = work.max_batch or settings.batch_size
        self.optimiser: torch.optim.Optimizer = torch.optim.SGD(
            purified.parameters(), lr=settings.lr, momentum=0.9, weight_decay=weight_decay
        )

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The sum over images of what is to fall: (n, K) and (n,) to a scalar."""
        return cross_entropy(logits, labels, reduction="sum")

    def steer(self) -> None:
        """Before a step: change the gradients by what depends on the weights alone."""

    def settle(self) -> None:
        """After a step: bring the weights to where they may be.

        Raises:
            NotFiniteError: there is no such place.
        """

    def begin_epoch(self, order: Tensor, number: int, tell: Callable[[Searching], None]) -> None:
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
        if self.rho > 0 and isfinite(loss):
            with climbed(self.purified.parameters(), self.rho):
                if not isfinite(self.gradients(batch)):
                    loss = float("nan")
        if not isfinite(loss):
            self.statistics.forget()
            raise NotFiniteError("the loss stopped being finite")
        self.steer()
        self.optimiser.step()
        self.settle()
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
                    loss = self.loss(logits, labels)
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


class FineTuner(Tuner):
    """Steps on the cross-entropy, with weight decay 5e-4."""

    def __init__(self, work: Work, settings: FineTuning) -> None:
        super().__init__(work, settings, weight_decay=5e-4, rho=settings.rho)
        self.label_smoothing = settings.label_smoothing

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """See :class:`Tuner`."""
        return cross_entropy(logits, labels, reduction="sum", label_smoothing=self.label_smoothing)
