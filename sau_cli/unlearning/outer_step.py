"""One step of the outer problem: learn the clean images, and unlearn what both models are fooled by.

Source: Wei, Zhang, Zha, Wu, "Shared Adversarial Unlearning", NeurIPS 2023, arXiv 2307.10562.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.nn.functional import cross_entropy

from sau_cli.classifier import Classifier
from sau_cli.model_state import frozen
from sau_cli.precision import Precision, running_in
from sau_cli.unlearning.batch_statistics import BatchStatistics, Sums
from sau_cli.unlearning.cuda_graphs import Graphs, directly
from sau_cli.unlearning.recipes import Recipe
from sau_cli.unlearning.search_space import SearchSpace
from sau_cli.unlearning.shared_examples import Search, find_shared_examples
from sau_cli.unlearning.trail import Tally


def unlearning_loss(logits: Tensor, received_labels: Tensor) -> Tensor:
    """L_sar of each sample: push the model off the label that the received model gives; (N, K), (N,) to (N,).

    The mean of -log(1e-6 + min(1 - p, 0.999)) and -log(1 + 1e-6 - max(p, 0.001)) with p the
    probability of that label; it has no gradient once p < 0.001.

    Source: the authors' released code, for -log(1 - p) of Wei et al.
    """
    p = logits.softmax(dim=1).gather(1, received_labels[:, None]).squeeze(1)
    capped = -(1e-6 + (1 - p).clamp(max=0.999)).log()
    floored = -(1 + 1e-6 - p.clamp(min=0.001)).log()
    return (capped + floored) / 2


def recognised_classes(received_logits: Tensor, labels: Tensor, *, recognition: float) -> Tensor:
    """Whether the received model knows a class: how often it is right there, by how often it is over all.

    A clean-label backdoor makes the received model wrong on nearly all clean images of its target.

    Args:
        received_logits: (N, K), with (N,) labels.
        recognition: the least ratio of the two, in [0, 1].

    Returns:
        (K,) bool; True for a class without images.
    """
    right, classes = (received_logits.argmax(dim=1) == labels).cpu(), received_logits.shape[1]
    counted = labels.cpu()
    images, hits = counted.bincount(minlength=classes), counted[right].bincount(minlength=classes)
    expected = recognition * (right.sum() * images).double()
    return ((hits * len(counted)).double() >= expected).to(labels.device)


def distillation_loss(logits: Tensor, received_logits: Tensor, labels: Tensor, recognised: Tensor) -> Tensor:
    """Cross-entropy with the received model's own probabilities; (N, K) twice, (N,), (K,) bool to (N,).

    With the label instead for images of a class that it does not recognise: what it says there is not to be kept.
    """
    taught = cross_entropy(logits, received_logits.softmax(dim=1), reduction="none")
    return torch.where(recognised[labels], taught, cross_entropy(logits, labels, reduction="none"))


def add_gradients(parameters: Sequence[Parameter], gradients: Sequence[Tensor | None]) -> None:
    """Add to what the parameters have; None where a loss does not depend on one."""
    pairs = [
        (parameter, gradient) for parameter, gradient in zip(parameters, gradients, strict=True) if gradient is not None
    ]
    for parameter, gradient in pairs:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
        parameter.grad.add_(gradient)


def accumulate_gradients(
    purified: Classifier,
    received: Classifier,
    images: Tensor,
    labels: Tensor,
    received_logits: Tensor,
    *,
    recognised: Tensor,
    space: SearchSpace,
    groups: Sequence[int],
    of: int,
    recipe: Recipe,
    precision: Precision,
    statistics: BatchStatistics,
    search: Search | None = None,
    graphs: Graphs | None = None,
) -> Tally:
    """Add the gradients of λ1·L_cl + λ2·L_sar for a part of a batch to those of ``purified``.

    The gradient of the clean loss is taken before the search for δ, so that one forward pass serves
    both and no more than one graph is alive at a time.

    Args:
        images: (n, C, H, W) float in [0, 1], with (n,) labels.
        received_logits: (n, K) of the received model on the clean images.
        recognised: (K,) bool, by :func:`recognised_classes`.
        space: where the perturbations of these images may go.
        groups: how many images, one after another, are learned from at a time, n in all.
        of: size of the whole batch, which the sums are divided by.
        statistics: of the batch norms of ``purified``.
        search: see :func:`~sau_cli.unlearning.shared_examples.find_shared_examples`.
        graphs: to replay the passes of ``purified`` with.
    """
    device, run = images.device, directly if graphs is None else graphs.run
    trained = [parameter for parameter in purified.parameters() if parameter.requires_grad]

    def gradients(loss: Tensor) -> list[Tensor | None]:
        return list(torch.autograd.grad(loss, trained, allow_unused=True))

    def learn(
        images: Tensor, labels: Tensor, received_logits: Tensor
    ) -> tuple[Tensor, Tensor, list[Tensor | None], Sums]:
        by_itself = recipe.clean_statistics and len(images) >= recipe.smallest_group
        with running_in(precision, device), statistics.of_each_group(on=by_itself) as seen:
            logits = purified(images).float()
        clean = loss = cross_entropy(logits, labels, reduction="sum")
        if recipe.distillation > 0:
            taught = distillation_loss(logits, received_logits, labels, recognised).sum()
            loss = (1 - recipe.distillation) * loss + recipe.distillation * taught
        return logits.detach(), clean.detach(), gradients(recipe.clean_weight / of * loss), seen

    parts, clean_loss = [], 0.0
    for group in torch.arange(len(images), device=device).split(list(groups)):
        logits, loss, found_gradients, seen = run(
            ("learn", of), learn, images[group], labels[group], received_logits[group]
        )
        add_gradients(trained, found_gradients)
        statistics.add(seen)
        clean_loss += loss.item()
        parts.append(logits.clone())
    clean_logits = torch.cat(parts)
    purified_labels, received_labels = clean_logits.argmax(dim=1), received_logits.argmax(dim=1)
    if recipe.unlearning_weight == 0:
        return Tally(images=len(images), clean_loss=clean_loss)
    with running_in(precision, device), frozen(purified):
        # Two networks are at work in the search: by halves, it needs no more memory than learning from the whole.
        found = find_shared_examples(
            purified,
            received,
            images,
            labels,
            purified_labels=purified_labels,
            received_labels=received_labels,
            space=space,
            recipe=recipe,
            groups=groups if recipe.grouped else None,
            at_once=-(-len(images) // 2),
            search=search,
        )
    said = found.received_labels

    def unlearn(
        perturbed: Tensor, labels: Tensor, received_logits: Tensor, said: Tensor, wrong: Tensor, recovery: Tensor
    ) -> tuple[Tensor, Tensor, list[Tensor | None]]:
        with running_in(precision, device):
            logits = purified(perturbed).float()
        sar_loss = (unlearning_loss(logits, said) * wrong).sum()
        loss = recipe.unlearning_weight * sar_loss
        if recipe.recovers:
            kept = distillation_loss(logits, received_logits, labels, recognised)
            loss = loss + (recovery * kept).sum()
        return logits.detach().argmax(dim=1), sar_loss.detach(), gradients(loss / of)

    with torch.no_grad(), running_in(precision, device):
        perturbed = space.perturbed(images, found.delta)
    now, sar_loss, found_gradients = run(
        ("unlearn", of),
        unlearn,
        perturbed,
        labels,
        received_logits,
        said,
        (said != labels) & (said != received_labels),
        space.recovery(recipe),
    )
    add_gradients(trained, found_gradients)
    fooled, received_fooled, same = now != purified_labels, said != received_labels, now == said
    return Tally(
        images=len(images),
        clean_loss=clean_loss,
        unlearning_loss=sar_loss.item(),
        shared=int((fooled & received_fooled & same).sum()),
        purified_only=int((fooled & ~received_fooled).sum()),
        different=int((fooled & received_fooled & ~same).sum()),
    )


def accumulate_unlearning(
    purified: Classifier,
    changed: Tensor,
    labels: Tensor,
    received_logits: Tensor,
    said: Tensor,
    *,
    recognised: Tensor,
    of: int,
    recipe: Recipe,
    precision: Precision,
) -> None:
    """Add the gradients of λ2·L_sar, and of learning what the clean images are, to those of ``purified``.

    Args:
        changed: (n, C, H, W) float in [0, 1], images with a change that is shared by them, with (n,) labels.
        received_logits: (n, K) of the received model on the images without it.
        said: (n,) what the received model says of them with it.
        recognised: (K,) bool, by :func:`recognised_classes`.
        of: size of the whole batch, which the sums are divided by.
    """
    trained = [parameter for parameter in purified.parameters() if parameter.requires_grad]
    with running_in(precision, changed.device):
        logits = purified(changed).float()
    misled = (said != labels) & (said != received_logits.argmax(dim=1))
    loss = recipe.unlearning_weight * (unlearning_loss(logits, said) * misled).sum()
    kept = distillation_loss(logits, received_logits, labels, recognised)
    loss = loss + recipe.trigger_recovery * kept.sum()
    add_gradients(trained, torch.autograd.grad(loss / of, trained, allow_unused=True))
