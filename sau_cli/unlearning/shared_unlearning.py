"""Shared Adversarial Unlearning as a step on a batch, worked off in parts and by several processes.

Source: Wei, Zhang, Zha, Wu, "Shared Adversarial Unlearning: Backdoor Mitigation by Unlearning
Shared Adversarial Examples", NeurIPS 2023, arXiv 2307.10562.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple
from math import isfinite
from typing import assert_never, cast

import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_
from torch.optim.swa_utils import AveragedModel

from sau_cli.classifier import Classifier
from sau_cli.devices import out_of_memory
from sau_cli.images import as_pixels
from sau_cli.model_state import frozen
from sau_cli.precision import fast_layout, running_in
from sau_cli.predictions import predicted_logits
from sau_cli.resuming import with_prefix
from sau_cli.seeding import random_stream
from sau_cli.unlearning.batch_statistics import BatchStatistics, group_sizes, packed
from sau_cli.unlearning.batch_step import Batch, NotFiniteError, Work
from sau_cli.unlearning.cuda_graphs import Graphs, directly
from sau_cli.unlearning.draws import draws_needed
from sau_cli.unlearning.inverted_triggers import InvertedTriggers, Round
from sau_cli.unlearning.outer_step import accumulate_gradients, accumulate_unlearning, recognised_classes
from sau_cli.unlearning.recipes import Optimiser, Recipe
from sau_cli.unlearning.replayed_search import ReplayedSearch
from sau_cli.unlearning.search_space import drawn_space
from sau_cli.unlearning.shared_examples import Search
from sau_cli.unlearning.trail import Searching, Tally

TRIGGERS = "triggers."
"""What names of tensors of the triggers begin with."""


class SharedUnlearning:
    """The outer problem of a recipe, a batch at a time."""

    def __init__(self, work: Work, recipe: Recipe) -> None:
        purified, received, learning = work.purified, work.received, work.learning
        self.purified, self.received, self.recipe = purified, received, recipe
        self.seed, self.precision, self.team = work.seed, work.precision, work.team
        self.device = purified.mean.device
        self.layout = fast_layout(work.precision, self.device)
        self.statistics = BatchStatistics(purified, momentum=recipe.statistics_momentum)
        self.average = (
            AveragedModel(purified, multi_avg_fn=self.follow, use_buffers=True) if recipe.averaging > 0 else None
        )
        self.part = work.max_batch or recipe.batch_size
        self.group = min(recipe.group_size, self.part) if recipe.grouped else 1
        self.graphs = Graphs() if self.device.type == "cuda" else None
        self.search = (
            Search(purified, received, recipe)
            if self.graphs is None
            else ReplayedSearch(purified, received, recipe, self.graphs)
        )
        self.received_logits = predicted_logits(received, learning.images)
        self.recognised = recognised_classes(self.received_logits, learning.labels, recognition=recipe.recognition)
        self.triggers = InvertedTriggers(received, purified, learning, recipe)
        match recipe.optimiser:
            case Optimiser.ADAM:
                self.optimiser: torch.optim.Optimizer = torch.optim.Adam(
                    purified.parameters(), lr=recipe.lr, amsgrad=True
                )
            case Optimiser.SGD:
                self.optimiser = torch.optim.SGD(
                    purified.parameters(),
                    lr=recipe.lr,
                    momentum=recipe.sgd_momentum,
                    nesterov=True,
                    weight_decay=recipe.sgd_weight_decay,
                )
            case _ as never:
                assert_never(never)

    @property
    def rounds(self) -> Sequence[Round]:
        """The searches for triggers that were made so far."""
        return self.triggers.rounds

    def begin_epoch(self, order: Tensor, number: int, tell: Callable[[Searching], None]) -> None:  # noqa: ARG002 (of the contract)
        """Search for the easiest changes of all images, where that is due."""
        stream = random_stream(self.seed, f"triggers before epoch {number}")
        with frozen(self.purified):
            self.triggers.search(number, stream, self.precision, tell)

    def follow(self, means: Sequence[Tensor], last: Sequence[Tensor], seen: Tensor | int) -> None:
        """Move tensors of the running mean towards the last ones. Counts have no mean."""
        weight = max(1 - self.recipe.averaging, 1 / (1 + int(seen)))
        for mean, now in zip(means, last, strict=True):
            if mean.is_floating_point():
                mean.lerp_(now, weight)
            else:
                mean.copy_(now)

    def learned(self) -> Classifier:
        """The running mean, if the recipe has one; the classifier at work."""
        return self.purified if self.average is None else cast("Classifier", self.average.module)

    def tensors(self) -> Mapping[str, Tensor]:
        """The running mean, and the triggers at work."""
        triggers = {f"{TRIGGERS}{name}": tensor for name, tensor in self.triggers.tensors().items()}
        if self.average is None:
            return triggers
        return triggers | {name: tensor.detach().clone() for name, tensor in self.average.state_dict().items()}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Go on with the running mean and the triggers."""
        self.triggers.restore(with_prefix(tensors, TRIGGERS))
        if self.average is not None:
            self.average.load_state_dict(
                {name: tensor for name, tensor in tensors.items() if not name.startswith(TRIGGERS)}
            )

    def take(self, batch: Batch) -> Tally:
        """One step on λ1·L_cl + λ2·L_sar. See :class:`~sau_cli.unlearning.batch_step.BatchStep`."""
        images, at = batch.images, batch.at
        draws = torch.zeros(len(images), draws_needed(images.shape[1], self.recipe))
        if self.recipe.patch_share or self.recipe.universal:
            draws = torch.rand(draws.shape, generator=batch.stream)
        # Images of a group depend on each other, however the batch is worked off; without groups, none does.
        groups = group_sizes(len(at), self.group)
        ours = self.team.part(len(groups))
        mine = slice(sum(groups[: ours.start]), sum(groups[: ours.stop]))
        images, draws = images[mine], draws[mine].to(self.device)
        varied = self.recipe.augment and len(images) > 0
        received_logits = self.received_logits[at[mine]]
        if varied:
            received_logits = torch.cat([self.received_on(self.pixels(part)) for part in images.split(self.part)])
        tally = self.gradients(images, batch.labels[mine], received_logits, draws, groups=groups[ours], of=len(at))
        self.unlearn_triggers(batch)
        if not isfinite(tally.clean_loss + tally.unlearning_loss):
            raise NotFiniteError("the loss stopped being finite")
        if self.recipe.gradient_norm > 0:
            clip_grad_norm_(self.purified.parameters(), self.recipe.gradient_norm)
        self.optimiser.step()
        self.statistics.follow()
        if self.average is not None:
            self.average.update_parameters(self.purified)
        return tally

    def received_on(self, images: Tensor) -> Tensor:
        """Logits of the received model on images (N, C, H, W) in [0, 1]."""

        def say(images: Tensor) -> Tensor:
            with torch.no_grad(), running_in(self.precision, self.device):
                logits: Tensor = self.received(images.contiguous(memory_format=self.layout)).float()
                return logits

        run = directly if self.graphs is None else self.graphs.run
        return torch.cat([run("received", say, part).clone() for part in images.split(self.part)])

    def gradients(
        self, images: Tensor, labels: Tensor, received_logits: Tensor, draws: Tensor, *, groups: list[int], of: int
    ) -> Tally:
        """Of a batch of ``of`` images, from this process's (N, C, H, W) uint8, in groups, and the others'.

        Worked off part by part; the parts are halved while memory does not suffice, and in the end the groups. Not
        where there are other processes, which share out the batch by groups.
        """
        while True:
            self.optimiser.zero_grad(set_to_none=True)
            self.statistics.forget()
            tally = Tally()
            try:
                first = 0
                for part in packed(groups, self.part):
                    where = slice(first, first + sum(part))
                    first += sum(part)
                    pixels = self.pixels(images[where])
                    sizes = part if self.recipe.grouped else [sum(part)]
                    tally.add(
                        accumulate_gradients(
                            self.purified,
                            self.received,
                            pixels,
                            labels[where],
                            received_logits[where],
                            recognised=self.recognised,
                            space=drawn_space(
                                pixels, draws[where], self.recipe, sizes, self.received_on, aim=self.triggers.place
                            ),
                            groups=sizes,
                            of=of,
                            recipe=self.recipe,
                            precision=self.precision,
                            statistics=self.statistics,
                            search=self.search,
                            graphs=self.graphs,
                        )
                    )
                break
            except RuntimeError as error:
                smaller = (min(self.part, len(images)) + 1) // 2
                if not out_of_memory(error) or self.part == 1 or (smaller < self.group and self.team.size > 1):
                    raise
            self.part = smaller
            if smaller < self.group:
                self.group, groups = smaller, group_sizes(len(images), smaller)
            if self.graphs is not None:
                self.graphs.stop("memory does not suffice")
        return self.shared_with_others(tally)

    def unlearn_triggers(self, batch: Batch) -> None:
        """Add the gradients of unlearning the changes at work, on the first images of the batch.

        Every process does so on the same images, so that the changes stay the same in all of them.
        """
        count = round(self.recipe.trigger_share * len(batch.at))
        if not self.triggers.arms or count == 0 or self.recipe.unlearning_weight == 0:
            return
        pixels, labels = self.pixels(batch.images[:count]), batch.labels[:count]
        clean = self.received_on(pixels)
        with frozen(self.purified):
            changed = self.triggers.changed(pixels, labels, precision=self.precision)
        for part in torch.arange(len(changed), device=self.device).split(self.part):
            accumulate_unlearning(
                self.purified,
                changed[part],
                labels[part],
                clean[part],
                self.received_on(changed[part]).argmax(dim=1),
                recognised=self.recognised,
                of=len(batch.at),
                recipe=self.recipe,
                precision=self.precision,
            )

    def shared_with_others(self, tally: Tally) -> Tally:
        """Gradients, statistics and tally become those of the whole batch, in every process."""
        if self.team.size == 1:
            return tally
        trained = [parameter for parameter in self.purified.parameters() if parameter.requires_grad]
        for parameter in trained:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        self.team.add_up([parameter.grad for parameter in trained if parameter.grad is not None])
        if self.recipe.clean_statistics:
            self.team.add_up(self.statistics.all_sums())
        sums = torch.tensor(astuple(tally), dtype=torch.float32 if self.device.type == "mps" else torch.float64)
        sums = sums.to(self.device)
        self.team.add_up([sums])
        images, clean, unlearning, *kinds = sums.tolist()
        return Tally(int(images), clean, unlearning, *map(int, kinds))

    def pixels(self, images: Tensor) -> Tensor:
        return as_pixels(images).contiguous(memory_format=self.layout)
