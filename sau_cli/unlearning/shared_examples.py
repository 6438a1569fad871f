"""Shared adversarial examples (SAEs): the inner problem.

Source: Wei, Zhang, Zha, Wu, "Shared Adversarial Unlearning", NeurIPS 2023, arXiv 2307.10562,
with the inner loop as the authors' released code runs it.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import log

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, log_softmax

from sau_cli.classifier import Classifier
from sau_cli.unlearning.recipes import Recipe
from sau_cli.unlearning.search_space import SearchSpace


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Perturbed:
    """The result of the search.

    Attributes:
        delta: (N, C, H, W); what :meth:`~sau_cli.unlearning.search_space.SearchSpace.perturbed` takes.
        received_labels: (N,) what the received model says of the perturbed images, ỹ in the paper.
    """

    delta: Tensor
    received_labels: Tensor


def jensen_shannon(logits: Tensor, other_logits: Tensor) -> Tensor:
    """The Jensen-Shannon divergence of two predictions, in nats. (N, K) twice to (N,), in [0, ln 2].

    >>> same = jensen_shannon(torch.zeros(1, 3), torch.zeros(1, 3))
    >>> round(same.item(), 6)
    0.0
    """
    log_p, log_q = log_softmax(logits, dim=1), log_softmax(other_logits, dim=1)
    log_mean = torch.logaddexp(log_p, log_q) - log(2)
    to_mean = log_p.exp() * (log_p - log_mean) + log_q.exp() * (log_q - log_mean)
    return to_mean.sum(dim=1) / 2


def inner_objective(
    purified_logits: Tensor,
    received_logits: Tensor,
    labels: Tensor,
    *,
    purified_fooled: Tensor,
    received_fooled: Tensor,
    recipe: Recipe,
) -> Tensor:
    """λ3·L_adv + λ4·L_share, sample by sample, for samples that are not shared yet; (N,).

    L_adv = ½(CE(h(x̃), y) + CE(h_bd(x̃), y)) counts a model only while it is not fooled;
    L_share = -JS(p(x̃; θ), p(x̃; θ_bd)).
    """
    purified_loss = cross_entropy(purified_logits, labels, reduction="none") * ~purified_fooled
    received_loss = cross_entropy(received_logits, labels, reduction="none") * ~received_fooled
    adversarial = (purified_loss + received_loss) / 2
    shared = -jensen_shannon(purified_logits, received_logits)
    return recipe.adversarial_weight * adversarial + recipe.shared_weight * shared


def find_shared_examples(
    purified: Classifier,
    received: Classifier,
    images: Tensor,
    labels: Tensor,
    *,
    purified_labels: Tensor,
    received_labels: Tensor,
    space: SearchSpace,
    recipe: Recipe,
) -> Perturbed:
    """Search, for each image, a perturbation that sends both models to the same new label.

    δ starts where the space says and takes at most ``recipe.steps`` signed-gradient steps:

        until all are shared:  δ ← δ + step·sign(∇ objective), back into the space

    Both models must be in eval mode: then samples are independent, and a sample that is shared
    has zero gradient, so it leaves the batch with nothing changed.

    Args:
        images: (N, C, H, W) float in [0, 1].
        labels: (N,) the true labels.
        purified_labels, received_labels: (N,) each model's own prediction on the clean images;
            a model is fooled where it departs from it.

    Source: Wei et al., inner maximisation; δ lives on {-ε, 0, +ε} when step equals ε.
    """
    delta = space.start.clone()
    final = received_labels.clone()
    active = torch.arange(len(images), device=images.device)
    for _ in range(recipe.steps):
        current = delta[active].requires_grad_(True)
        perturbed = space.perturbed(images[active], current, active)
        purified_logits, received_logits = purified(perturbed).float(), received(perturbed).float()
        purified_now, received_now = purified_logits.argmax(dim=1), received_logits.argmax(dim=1)
        purified_fooled = purified_now != purified_labels[active]
        received_fooled = received_now != received_labels[active]
        final[active] = received_now
        open_ = ~(purified_fooled & received_fooled & (purified_now == received_now))
        if not open_.any():
            return Perturbed(delta=delta, received_labels=final)
        objective = inner_objective(
            purified_logits,
            received_logits,
            labels[active],
            purified_fooled=purified_fooled,
            received_fooled=received_fooled,
            recipe=recipe,
        )
        (gradient,) = torch.autograd.grad(objective[open_].sum(), current)
        active = active[open_]
        delta[active] = space.moved(delta[active], space.direction(gradient[open_], active), active)
    with torch.no_grad():
        final[active] = received(space.perturbed(images[active], delta[active], active)).argmax(dim=1)
    return Perturbed(delta=delta, received_labels=final)
