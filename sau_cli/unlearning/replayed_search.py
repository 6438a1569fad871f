"""The search for shared adversarial examples on a GPU: its steps are replayed."""

from __future__ import annotations

import torch
from torch import Tensor

from sau_cli.classifier import Classifier
from sau_cli.unlearning.cuda_graphs import Graphs
from sau_cli.unlearning.recipes import Recipe
from sau_cli.unlearning.shared_examples import Search


class ReplayedSearch(Search):
    """Steps of a few sizes, on tensors that stay where they are.

    These have one row more than the largest set of images: what fills up a step works on that row, and tells nobody.
    """

    def __init__(self, purified: Classifier, received: Classifier, recipe: Recipe, graphs: Graphs) -> None:
        super().__init__(purified, received, recipe)
        self.graphs = graphs
        self.standing: dict[str, Tensor] = {}

    def begin(self, **tensors: Tensor | None) -> tuple[Tensor, Tensor]:
        """See :meth:`Search.begin`."""
        for norms in self.frozen:
            norms.follow()
        given = {name: tensor for name, tensor in tensors.items() if tensor is not None}
        count = len(given["images"])
        if self.standing and len(self.standing["images"]) <= count:
            self.standing = {}
            self.graphs.clear()
        rows = len(self.standing["images"]) if self.standing else count + 1
        for name, tensor in given.items():
            if name not in self.standing:
                self.standing[name] = tensor.new_zeros(rows, *tensor.shape[1:])
                if name == "together":
                    self.standing[name][-1] = rows - 1
            self.standing[name][:count].copy_(tensor)
        self.tensors = {name: self.standing[name] if name in given else None for name in tensors}
        return self.standing["delta"][:count], self.standing["said"][:count]

    def step(self, at: Tensor) -> Tensor:
        """See :meth:`Search.step`."""
        images = self.standing["images"]
        filled = torch.full((padded(len(at)),), len(images) - 1)
        filled[: len(at)] = at
        key = "step", *(name for name, tensor in self.tensors.items() if tensor is not None)
        kept = self.standing["delta"], self.standing["said"]
        with self.frozen[0].used(), self.frozen[1].used():
            unshared = self.graphs.run(
                key, lambda at: self.function(at, **self.tensors), filled.to(images.device), kept=kept
            )
        return unshared[: len(at)].cpu()


def padded(count: int) -> int:
    """The next power of two, or three quarters of it: at most half as many again, in few sizes.

    >>> [padded(count) for count in (1, 3, 5, 12, 13, 64, 65, 100)]
    [8, 8, 8, 12, 16, 64, 96, 128]
    """
    whole = 1 << max(count - 1, 7).bit_length()
    return whole * 3 // 4 if whole > 8 and count <= whole * 3 // 4 else whole
