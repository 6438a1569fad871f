"""Unlearning of one perturbation for all images, by an implicit hypergradient, as a step on a batch.

Source: Zeng, Chen, Park, Mao, Jin, Jia, "Adversarial Unlearning of Backdoors via Implicit Hypergradient", ICLR 2022,
arXiv 2110.03735; fixed-point iteration: Grazzi et al., ICML 2020, arXiv 2006.16218.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import isfinite

import torch
from torch import Tensor
from torch.autograd import grad
from torch.nn.functional import cross_entropy

from sau_cli.classifier import Classifier
from sau_cli.devices import out_of_memory
from sau_cli.errors import NotEvaluable, argument, reason_of
from sau_cli.images import as_pixels
from sau_cli.model_state import frozen
from sau_cli.precision import fast_layout, running_in
from sau_cli.unlearning.batch_step import Batch, NotFiniteError, Work
from sau_cli.unlearning.compared_methods import ImplicitUnlearning
from sau_cli.unlearning.trail import Searching, Tally


def hypergradient(
    inner: Callable[[Tensor], Tensor],
    outer: Callable[[Tensor], Tensor],
    delta: Tensor,
    parameters: Sequence[Tensor],
    *,
    steps: int,
    rate: float,
) -> tuple[Tensor, list[Tensor]]:
    """The gradient of outer(δ(θ), θ) over θ, where δ(θ) minimises ``inner``, without going back through the search.

    δ is taken for a fixed point of Φ(δ, θ) = δ - rate·∇inner. With v = 0 and, ``steps`` times,
    v ← (∂Φ/∂δ)ᵀ v + ∂outer/∂δ, the gradient is ∂outer/∂θ + (∂Φ/∂θ)ᵀ v.

    Args:
        inner, outer: losses of δ; θ is what they close over.
        delta: where the search for δ ended.
        parameters: θ.
        steps: of the iteration; the error falls with the power of them where ``inner`` is strongly convex.
        rate: below 2 over its largest curvature, or the iteration grows.

    Returns:
        The outer loss, and a gradient for each parameter.
    """
    delta = delta.detach().requires_grad_(True)
    (slope,) = grad(inner(delta), delta, create_graph=True)
    moved = delta - rate * slope
    value = outer(delta)
    *direct, toward = grad(value, [*parameters, delta], allow_unused=True, materialize_grads=True)
    v = torch.zeros_like(delta)
    for _ in range(steps):
        (through,) = grad(moved, delta, grad_outputs=v, retain_graph=True)
        v = through + toward
    implicit = grad(moved, list(parameters), grad_outputs=v, allow_unused=True, materialize_grads=True)
    return value.detach(), [first + second for first, second in zip(direct, implicit, strict=True)]


class ImplicitUnlearner:
    """Each epoch is a round: find δ by one pass over the clean images, then a step on each batch with δ on some.

    The network stays in eval mode, as in the authors' code. Theirs takes the curvature from the first batch of the
    round; here it is the batch at hand, so that nothing but δ goes from one batch to the next.
    """

    graphs = None
    rounds = ()

    def __init__(self, work: Work, settings: ImplicitUnlearning) -> None:
        purified, learning = work.purified, work.learning
        self.purified, self.learning, self.settings, self.precision = purified, learning, settings, work.precision
        self.device = purified.mean.device
        self.layout = fast_layout(work.precision, self.device)
        self.group = settings.batch_size
        self.delta = torch.zeros(1, *learning.images.shape[1:], device=self.device)
        self.optimiser: torch.optim.Optimizer = torch.optim.Adam(purified.parameters(), lr=settings.lr)

    def learned(self) -> Classifier:
        """The classifier at work."""
        return self.purified

    def tensors(self) -> Mapping[str, Tensor]:
        """δ of the round, (1, C, H, W)."""
        return {"delta": self.delta.detach().cpu().clone()}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Go on with δ."""
        self.delta = tensors.get("delta", self.delta).to(self.device)

    def begin_epoch(self, order: Tensor, number: int, tell: Callable[[Searching], None]) -> None:  # noqa: ARG002 (of the contract)
        """Find δ, from nothing: away from what the model says of each image, one step of descent a batch."""
        delta = torch.zeros_like(self.delta)
        with frozen(self.purified):
            for at in order.to(self.device).split(self.settings.batch_size):
                pixels = self.pixels(self.learning.images[at])
                with torch.no_grad():
                    said = self.logits(pixels).argmax(dim=1)
                delta.requires_grad_(True)
                (slope,) = grad(self.fooled_loss(pixels, said, delta), delta)
                delta = delta.detach() - self.settings.search_rate * slope
        self.delta = delta * (self.settings.radius / delta.norm().clamp(min=self.settings.radius))

    def take(self, batch: Batch) -> Tally:
        """See :class:`~sau_cli.unlearning.batch_step.BatchStep`.

        Raises:
            NotEvaluable: a part of the network has no second derivative.
        """
        pixels, count = self.pixels(batch.images), len(batch.at)
        perturbed = max(1, round(self.settings.portion * count))
        which = (torch.arange(count, device=self.device) < perturbed)[:, None, None, None]
        trained = [parameter for parameter in self.purified.parameters() if parameter.requires_grad]
        try:
            loss, gradients = hypergradient(
                lambda delta: self.fooled_loss(pixels, batch.labels, delta),
                lambda delta: cross_entropy(self.logits(pixels + delta * which), batch.labels),
                self.delta,
                trained,
                steps=self.settings.fixed_point_steps,
                rate=self.settings.inner_rate,
            )
        except RuntimeError as error:
            if out_of_memory(error):
                raise
            raise NotEvaluable(
                f"i-BAU needs second derivatives, which this network does not give ({reason_of(error)}); "
                f"choose another {argument('method')}"
            ) from error
        if not isfinite(loss.item()) or not all(bool(torch.isfinite(gradient).all()) for gradient in gradients):
            raise NotFiniteError("the loss stopped being finite")
        for parameter, gradient in zip(trained, gradients, strict=True):
            parameter.grad = gradient.detach()
        self.optimiser.step()
        return Tally(images=count, clean_loss=loss.item() * count)

    def fooled_loss(self, pixels: Tensor, labels: Tensor, delta: Tensor) -> Tensor:
        """What δ minimises: the negative cross-entropy under δ, and the penalty on its size."""
        return self.settings.penalty * delta.square().sum() - cross_entropy(self.logits(pixels + delta), labels)

    def logits(self, pixels: Tensor) -> Tensor:
        with running_in(self.precision, self.device):
            found: Tensor = self.purified(pixels)
        return found.float()

    def pixels(self, images: Tensor) -> Tensor:
        return as_pixels(images).contiguous(memory_format=self.layout)
