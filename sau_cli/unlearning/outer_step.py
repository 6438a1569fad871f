"""One step of the outer problem: learn the clean images, and unlearn what both models are fooled by.

Source: Wei, Zhang, Zha, Wu, "Shared Adversarial Unlearning", NeurIPS 2023, arXiv 2307.10562.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from sau_cli.classifier import Classifier
from sau_cli.model_state import frozen
from sau_cli.precision import Precision, running_in
from sau_cli.unlearning.recipes import Recipe
from sau_cli.unlearning.shared_examples import Perturbed, find_shared_examples
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


def accumulate_gradients(
    purified: Classifier,
    received: Classifier,
    images: Tensor,
    labels: Tensor,
    received_logits: Tensor,
    *,
    of: int,
    recipe: Recipe,
    precision: Precision,
) -> Tally:
    """Add the gradients of λ1·L_cl + λ2·L_sar for a part of a batch to those of ``purified``.

    The gradient of the clean loss is taken before the search for δ, so that one forward pass serves
    both and no more than one graph is alive at a time.

    Args:
        images: (n, C, H, W) float in [0, 1], with (n,) labels.
        received_logits: (n, K) of the received model on the clean images.
        of: size of the whole batch, which the sums are divided by.
    """
    device = images.device
    with running_in(precision, device), following_statistics(purified, on=recipe.clean_statistics):
        clean_logits = purified(images).float()
    clean_loss = cross_entropy(clean_logits, labels, reduction="sum")
    learned = clean_loss
    if recipe.distillation > 0:
        taught = cross_entropy(clean_logits, received_logits.softmax(dim=1), reduction="sum")
        learned = (1 - recipe.distillation) * clean_loss + recipe.distillation * taught
    (recipe.clean_weight / of * learned).backward()
    purified_labels, received_labels = clean_logits.detach().argmax(dim=1), received_logits.argmax(dim=1)
    if recipe.unlearning_weight == 0:
        return Tally(images=len(images), clean_loss=clean_loss.item())
    with running_in(precision, device), frozen(purified):
        found = find_shared_examples(
            purified,
            received,
            images,
            labels,
            purified_labels=purified_labels,
            received_labels=received_labels,
            recipe=recipe,
        )
    tally = _kinds(found, purified_labels, received_labels)
    tally.clean_loss = clean_loss.item()
    wrong = (found.received_labels != labels) & (found.received_labels != received_labels)
    if wrong.any():
        with running_in(precision, device):
            logits = purified((images + found.delta)[wrong]).float()
        sar_loss = unlearning_loss(logits, found.received_labels[wrong]).sum()
        (recipe.unlearning_weight / of * sar_loss).backward()
        tally.unlearning_loss = sar_loss.item()
    return tally


def _kinds(found: Perturbed, purified_labels: Tensor, received_labels: Tensor) -> Tally:
    fooled = found.purified_labels != purified_labels
    received_fooled = found.received_labels != received_labels
    same = found.purified_labels == found.received_labels
    return Tally(
        images=len(fooled),
        shared=int((fooled & received_fooled & same).sum()),
        purified_only=int((fooled & ~received_fooled).sum()),
        different=int((fooled & received_fooled & ~same).sum()),
    )


@contextmanager
def following_statistics(module: nn.Module, *, on: bool) -> Iterator[None]:
    """Batch norm uses and follows the statistics of what it sees inside the block, if ``on``; dropout stays off."""
    followers = [part for part in module.modules() if on and isinstance(part, nn.modules.batchnorm._BatchNorm)]  # noqa: SLF001
    modes = [part.training for part in followers]
    for part in followers:
        part.train()
    try:
        yield
    finally:
        for part, mode in zip(followers, modes, strict=True):
            part.train(mode)
