"""Shared adversarial examples (SAEs): the inner problem.

Source: Wei, Zhang, Zha, Wu, "Shared Adversarial Unlearning", NeurIPS 2023, arXiv 2307.10562,
with the inner loop as the authors' released code runs it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from math import log
from typing import Any, assert_never

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, log_softmax

from sau_cli.classifier import Classifier
from sau_cli.devices import images_a_pass
from sau_cli.side_by_side import SideBySide
from sau_cli.unlearning.frozen_batch_norm import FrozenBatchNorms
from sau_cli.unlearning.recipes import Agreement, Recipe
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
    L_share = -JS(p(x̃; θ), p(x̃; θ_bd)), or -CE(h(x̃), ỹ) where h_bd is fooled, by the recipe's agreement.
    """
    purified_loss = cross_entropy(purified_logits, labels, reduction="none") * ~purified_fooled
    received_loss = cross_entropy(received_logits, labels, reduction="none") * ~received_fooled
    adversarial = (purified_loss + received_loss) / 2
    match recipe.agreement:
        case Agreement.JENSEN_SHANNON:
            shared = -jensen_shannon(purified_logits, received_logits)
        case Agreement.CROSS_ENTROPY:
            shared = -cross_entropy(purified_logits, received_logits.argmax(dim=1), reduction="none") * received_fooled
        case _ as never:
            assert_never(never)
    return recipe.adversarial_weight * adversarial + recipe.shared_weight * shared


def search_step(
    both: Callable[[Tensor], tuple[Tensor, Tensor]],
    recipe: Recipe,
    at: Tensor,
    *,
    images: Tensor,
    delta: Tensor,
    said: Tensor,
    labels: Tensor,
    purified_labels: Tensor,
    received_labels: Tensor,
    **space: Tensor | None,
) -> Tensor:
    """One step of the search for the images ``at`` (n,) of N, in place; what is done depends on no tensor's values.

    Args:
        both: the logits of the purified and of the received model on images.
        images, delta: (N, C, H, W); δ of the images that are not shared goes a step further.
        said: (N,) int64, becomes what the received model says before that step.
        space: the tensors of a :class:`~sau_cli.unlearning.search_space.SearchSpace` of N images.

    Returns:
        (n,) bool, which of them were not shared before the step.
    """
    whole = SearchSpace(**space, coarse_points=recipe.coarse_points)  # type: ignore[arg-type]

    def slope(at: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The gradient for δ, who is not shared, and what the received model says."""
        where, current = whole.of(at), delta[at].requires_grad_(True)
        purified_logits, received_logits = (logits.float() for logits in both(where.perturbed(images[at], current)))
        purified_now, received_now = purified_logits.argmax(dim=1), received_logits.argmax(dim=1)
        purified_fooled, received_fooled = purified_now != purified_labels[at], received_now != received_labels[at]
        unshared = ~(purified_fooled & received_fooled & (purified_now == received_now))
        objective = inner_objective(
            purified_logits,
            received_logits,
            labels[at],
            purified_fooled=purified_fooled,
            received_fooled=received_fooled,
            recipe=recipe,
        )
        (gradient,) = torch.autograd.grad(objective.where(unshared, 0.0).sum(), current)
        return gradient, unshared, received_now

    parts = [slope(some) for some in at.split(images_a_pass(images, len(at)))]
    gradient, unshared, received_now = (torch.cat(several) for several in zip(*parts, strict=True))
    where, current = whole.of(at), delta[at]
    moved = where.moved(current, where.direction(gradient, len(images)))
    delta.index_copy_(0, at, moved.where(unshared[:, None, None, None], current))
    said.index_copy_(0, at, received_now)
    return unshared


class Search:
    """The steps of two models and a recipe, with one set of images after another.

    Weights may change in place between sets of images.
    """

    def __init__(self, purified: Classifier, received: Classifier, recipe: Recipe) -> None:
        def in_turn(images: Tensor) -> tuple[Tensor, Tensor]:
            return purified(images), received(images)

        several = purified.mean.device.type == "cpu" and torch.get_num_threads() > 1
        self.function = partial(search_step, SideBySide(purified, received) if several else in_turn, recipe)
        self.frozen = [FrozenBatchNorms(model) for model in (purified, received)]
        self.tensors: dict[str, Any] = {}

    def begin(self, **tensors: Tensor | None) -> tuple[Tensor, Tensor]:
        """Take the tensors of :func:`search_step`; returns ``delta`` and ``said``, which will change.

        Inside the precision that the steps will run in.
        """
        for norms in self.frozen:
            norms.follow()
        self.tensors = dict(tensors)
        return self.tensors["delta"], self.tensors["said"]

    def step(self, at: Tensor) -> Tensor:
        """:func:`search_step` for the images ``at`` (n,); both ``at`` and the answer are on the CPU."""
        with self.frozen[0].used(), self.frozen[1].used():
            return self.function(at.to(self.tensors["images"].device), **self.tensors).cpu()


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
    groups: Sequence[int] | None = None,
    at_once: int | None = None,
    search: Search | None = None,
) -> Perturbed:
    """Search, for each image, a perturbation that sends both models to the same new label.

    δ starts where the space says and takes at most ``recipe.steps`` signed-gradient steps:

        until all are shared:  δ ← δ + step·sign(∇ objective), back into the space

    Both models must be in eval mode: then samples are independent, and a sample that is shared
    has zero gradient, so it leaves with nothing changed, and makes room for those that wait.

    Args:
        images: (N, C, H, W) float in [0, 1].
        labels: (N,) the true labels.
        purified_labels, received_labels: (N,) each model's own prediction on the clean images;
            a model is fooled where it departs from it.
        groups: sizes, one after another, of what is searched for together; None: each image by itself.
        at_once: images at work at a time, or one group; None: all.
        search: of these two models and this recipe, in another way than :class:`Search`.

    Source: Wei et al., inner maximisation; δ lives on {-ε, 0, +ε} when step equals ε.
    """
    search = search or Search(purified, received, recipe)
    delta, said = search.begin(
        images=images,
        delta=space.start.clone(),
        said=received_labels.clone(),
        labels=labels,
        purified_labels=purified_labels,
        received_labels=received_labels,
        **space.tensors(),
    )
    waiting, first, largest = deque(groups or [1] * len(images)), 0, at_once or len(images)
    at, taken, ended = torch.arange(0), torch.zeros(len(images), dtype=torch.int64), []
    while waiting or len(at):
        upto = first
        while waiting and (len(at) + upto == first or len(at) + upto - first + waiting[0] <= largest):
            upto += waiting.popleft()
        at, first = torch.cat([at, torch.arange(first, upto)]), upto
        at = at[search.step(at)]
        taken[at] += 1
        done = taken[at] == recipe.steps
        ended.append(at[done])
        at = at[~done]
    last = torch.cat(ended).to(images.device)
    with torch.no_grad():
        for some in last.split(images_a_pass(images, len(images))) if len(last) else ():
            said[some] = received(space.of(some).perturbed(images[some], delta[some])).argmax(dim=1)
    return Perturbed(delta=delta, received_labels=said)
