"""A classifier: images in [0, 1] to logits, together with what it says of itself.

Normalisation belongs to the classifier and not to the data, so that ε, triggers and
adversarial examples are always measured on pixels in [0, 1].
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sau_cli.description import Description
from sau_cli.errors import NotEvaluable, argument, reason_of
from sau_cli.model_state import evaluating

BINARY = 2
"""Classes that one output tells apart."""


class Classifier(nn.Module):
    """A network with its preprocessing: images (N, C, H, W) float in [0, 1] to logits (N, K).

    A network with one output for two classes gives the logit of the second, and that of the first is 0.

    The normalisation is kept outside the network's state dict, so that the weights stay an
    ordinary state dict of the architecture.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, description: Description) -> None:
        super().__init__()
        self.network = network
        self.description = description
        shape = (1, description.input.channels, 1, 1)
        self.register_buffer("mean", torch.tensor(description.input.mean).reshape(shape), persistent=False)
        self.register_buffer("std", torch.tensor(description.input.std).reshape(shape), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.network((images - self.mean) / self.std)
        if self.description.classes == BINARY and isinstance(logits, Tensor) and logits.shape[1:] in {(), (1,)}:
            second = logits.reshape(-1, 1)
            logits = torch.cat([torch.zeros_like(second), second], dim=1)
        return logits


def check_runs(classifier: Classifier) -> None:
    """Raises NotEvaluable when the network cannot take images of the size it is described with."""
    spec = classifier.description.input
    blank = torch.zeros(1, spec.channels, spec.height, spec.width, device=classifier.mean.device)
    try:
        with evaluating(classifier), torch.no_grad():
            logits = classifier(blank)
    except Exception as error:  # a network, a user's own perhaps, raises nearly anything
        raise NotEvaluable(
            f"{classifier.description.architecture} cannot take {spec.channels}x{spec.size} images "
            f"({reason_of(error)}); "
            f"choose another architecture or {argument('image_size')}"
        ) from error
    check_output(classifier, logits, finite=False)


def check_finite_weights(classifier: Classifier) -> None:
    """Raises NotEvaluable, naming the first tensor that holds a NaN or an infinity."""
    for name, tensor in classifier.network.state_dict().items():
        if tensor.is_complex():
            raise NotEvaluable(f"the weights are complex numbers (first in {name!r}), which no classifier here has")
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise NotEvaluable(f"the weights hold NaN or infinite values (first in {name!r}); ask for an intact file")


def check_output(classifier: Classifier, logits: Tensor, *, finite: bool = True) -> None:
    """Raises NotEvaluable unless the logits are (N, K), K is the number of classes, and all are finite if asked."""
    classes = classifier.description.classes
    fits = isinstance(logits, Tensor) and logits.ndim == 2 and logits.shape[1] == classes
    if not fits or not logits.is_floating_point():
        got = f"{tuple(logits.shape)} {logits.dtype}" if isinstance(logits, Tensor) else type(logits).__name__
        raise NotEvaluable(f"the network returned {got} where logits of shape (N, {classes}) were expected")
    if finite and not bool(torch.isfinite(logits).all()):
        raise NotEvaluable("the network returned NaN or infinite logits; what it says means nothing")
