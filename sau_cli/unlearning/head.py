"""The head of a classifier: its last layer, which turns features into one logit a class."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from sau_cli.classifier import Classifier
from sau_cli.errors import NotEvaluable
from sau_cli.model_state import evaluating
from sau_cli.unlearning.batch_step import NotFiniteError

SMALLEST = 1e-12


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
            f"{classifier.description.architecture} has no head to draw anew, a linear layer or 1x1 convolution with "
            f"{classes} outputs and weights of its own at its end ({ends}); choose another --method"
        )
    return name


def draw_anew(head: nn.Module, stream: torch.Generator) -> None:
    """Draw a head's weights, and its biases, uniformly around 0, each at the norm that they had.

    Args:
        stream: on the CPU, so that the draws are the same on every device.
    """
    with torch.no_grad():
        for parameter in head.parameters(recurse=False):
            drawn = torch.rand(parameter.shape, generator=stream).to(parameter) - 0.5
            parameter.copy_(drawn * (parameter.norm() / drawn.norm().clamp(min=SMALLEST)))


def norm_over(tensors: Iterable[Tensor]) -> Tensor:
    """The L2 norm of all tensors together, a scalar."""
    norm: Tensor = torch.stack([tensor.detach().norm() for tensor in tensors]).norm()
    return norm


def bring_to(norm: Tensor, parameters: Iterable[nn.Parameter]) -> None:
    """Scale parameters together to an L2 norm.

    Raises:
        NotFiniteError: theirs is not finite.
    """
    moved = list(parameters)
    now = norm_over(moved)
    if not bool(torch.isfinite(now)):
        raise NotFiniteError("the weights stopped being finite")
    with torch.no_grad():
        for parameter in moved:
            parameter.mul_(norm / now.clamp(min=SMALLEST))
