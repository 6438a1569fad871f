"""Logits brought to one form, so that no test is told another thing by their scale, a shift or a soft-max.

The classes that a network names do not change by these, and a gate must not either.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sau_cli.classifier import Classifier, check_output
from sau_cli.errors import NotEvaluable

TYPICAL = 4.0
"""The mean gap between the two highest logits that every model is brought to, near that of networks as trained."""
NEAR_ONE = 1e-3
SMALLEST_PROBABILITY = 1e-30
"""Of a probability, which float32 holds as 0 below some 1e-38."""
LEAST_GAP = 1e-5
"""A gap of less, as a share of the largest logit, is mostly rounding."""


class StandardLogits(Classifier):
    """A classifier whose logits are brought to one form. It shares the network of the classifier that it is made of."""

    def __init__(self, model: Classifier, *, factor: float, probabilities: bool) -> None:
        super().__init__(model.network, model.description)
        self.factor, self.probabilities = factor, probabilities
        self.to(model.mean.device).train(model.training)

    def forward(self, images: Tensor) -> Tensor:
        return self.factor * _centred(super().forward(images), probabilities=self.probabilities)


def standard_logits(model: Classifier, images: Tensor) -> StandardLogits:
    """The same classifier with logits that have mean 0 in each image and a typical gap between the two highest.

    Where it returns probabilities, their logarithms are taken for logits.

    Args:
        model: in eval mode.
        images: (N, C, H, W) float in [0, 1], on its device; clean ones, or noise where there are none.

    Raises:
        NotEvaluable: the logits of an image do not differ, or are not finite.
    """
    with torch.no_grad():
        said = model(images)
    check_output(model, said)
    probabilities = returns_probabilities(said)
    logits = _centred(said, probabilities=probabilities)
    first, second = logits.topk(2, dim=1).values.unbind(dim=1)
    apart = float((first - second).mean())
    if apart <= LEAST_GAP * float(said.float().abs().max()):
        raise NotEvaluable(
            f"the logits of an image are {apart:.1g} apart, too little to tell anything by; the model's behaviour is "
            "unknown"
        )
    return StandardLogits(model, factor=TYPICAL / apart, probabilities=probabilities)


def returns_probabilities(said: Tensor) -> bool:
    """Whether what a network says (N, K) is no logits but shares that sum to 1."""
    sums = said.float().sum(dim=1)
    return bool((said >= 0).all()) and bool(((sums - 1).abs() < NEAR_ONE).all())


def _centred(said: Tensor, *, probabilities: bool) -> Tensor:
    logits = said.float()
    if probabilities:
        logits = logits.clamp_min(SMALLEST_PROBABILITY).log()
    return logits - logits.mean(dim=1, keepdim=True)
