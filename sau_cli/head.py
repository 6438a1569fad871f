"""The head of a classifier: its last layer, which turns features into one logit a class."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from sau_cli.classifier import Classifier
from sau_cli.errors import NotEvaluable
from sau_cli.model_state import evaluating


def head_name(classifier: Classifier) -> str:
    """The head's name within the classifier: the linear layer or 1x1 convolution that a forward pass ends with.

    Raises:
        NotEvaluable: the last of the network's linear layers and convolutions has not one output a class, or its
            weights are made of others.
    """
    spec, classes = classifier.description.input, classifier.description.classes
    passed: list[tuple[str, nn.Linear | nn.Conv2d]] = []
    hooks = [
        part.register_forward_hook(lambda *_, ran=(name, part): passed.append(ran))
        for name, part in classifier.named_modules()
        if isinstance(part, nn.Linear | nn.Conv2d)
    ]
    try:
        with evaluating(classifier), torch.no_grad():
            classifier(torch.zeros(1, spec.channels, spec.height, spec.width, device=classifier.mean.device))
    finally:
        for hook in hooks:
            hook.remove()
    name, last = passed[-1] if passed else ("", None)
    linear = isinstance(last, nn.Linear) and last.out_features == classes
    pointwise = isinstance(last, nn.Conv2d) and last.kernel_size == (1, 1) and last.out_channels == classes
    if last is None or not (linear or pointwise) or not isinstance(last.weight, nn.Parameter):
        ends = f"what it ends with is {name.removeprefix('network.')!r}" if name else "it has no layer of the kind"
        raise NotEvaluable(
            f"{classifier.description.architecture} has no head that can be told, a linear layer or 1x1 convolution "
            f"with {classes} outputs and weights of its own at its end ({ends})"
        )
    return name


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Head:
    """A head, and what came to it.

    Attributes:
        weight, bias: (K, D) and (K,).
        features: (N, D) of N images; where the head is a convolution, means over places.
    """

    weight: Tensor
    bias: Tensor
    features: Tensor

    @property
    def rectified(self) -> bool:
        """Whether no feature is below 0, as behind a ReLU, so that none can be."""
        return bool((self.features >= 0).all())

    def logits(self, features: Tensor) -> Tensor:
        """(..., D) to (..., K)."""
        return features @ self.weight.T + self.bias


def read_head(classifier: Classifier, images: Tensor) -> Head:
    """The head's weights, and the features of images (N, C, H, W) in [0, 1] that come to it.

    Args:
        classifier: in eval mode.

    Raises:
        NotEvaluable: see :func:`head_name`; or what comes to the head is not one row of features an image.
    """
    layer = cast("nn.Linear | nn.Conv2d", classifier.get_submodule(head_name(classifier)))
    seen: list[Tensor] = []
    hook = layer.register_forward_pre_hook(lambda _, given: seen.append(given[0].detach().float()))
    try:
        with torch.no_grad():
            classifier(images)
    finally:
        hook.remove()
    features = seen[-1]
    if features.ndim == 4:
        features = features.mean(dim=(2, 3))
    if features.shape != (len(images), layer.weight.shape[1]):
        raise NotEvaluable(
            f"{classifier.description.architecture} gives its head no single row of features an image, but "
            f"{tuple(features.shape)} of {len(images)} images"
        )
    weight = layer.weight.detach().float().flatten(1)
    bias = torch.zeros(len(weight), device=weight.device) if layer.bias is None else layer.bias.detach().float()
    return Head(weight=weight, bias=bias, features=features)
