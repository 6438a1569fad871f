"""Where a purification stands, whole enough to go on from as if it had never stopped."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from torch import Tensor

from sau_cli.classifier import Classifier
from sau_cli.errors import NotEvaluable, argument
from sau_cli.images import CleanData
from sau_cli.precision import Precision
from sau_cli.resuming import digest_of, with_prefix
from sau_cli.unlearning.methods import MethodSettings
from sau_cli.unlearning.trail import Epoch, Tally


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RunState:
    """A purification between two steps.

    Attributes:
        fingerprint: of everything that was given; a state continues only the same run.
        epoch: the epoch in progress, counted from 1.
        batch: steps done in it.
        order, augmentation: states of the generators, the first as it was when the epoch began.
        weights: the purified network's state dict.
        optimiser: tensors by parameter and name, such as ``0.exp_avg``.
        tally: of the epoch in progress.
        seconds: spent in the epoch in progress.
        rate: factor on the learning rate, halved after each loss that was not finite.
        history: the epochs that are whole.
        held_back_accuracy: when last measured.
        method: what the method remembers from one batch to the next.
    """

    fingerprint: str
    epoch: int
    batch: int
    order: Tensor
    augmentation: Tensor
    weights: Mapping[str, Tensor]
    optimiser: Mapping[str, Tensor]
    tally: Tally
    seconds: float
    rate: float
    history: tuple[Epoch, ...]
    held_back_accuracy: float
    method: Mapping[str, Tensor] = field(default_factory=dict)

    def learned(self) -> dict[str, Tensor]:
        """The state dict that a run stopped here ends with: the running mean, where the method keeps one."""
        kept = "module.network."
        mean = {name.removeprefix(kept): tensor for name, tensor in self.method.items() if name.startswith(kept)}
        return mean or dict(self.weights)

    def tensors(self) -> dict[str, Tensor]:
        """What a file of the state holds beside :meth:`description`."""
        return {
            "generator.order": self.order,
            "generator.augmentation": self.augmentation,
            **{f"weights.{name}": tensor for name, tensor in self.weights.items()},
            **{f"optimiser.{name}": tensor for name, tensor in self.optimiser.items()},
            **{f"method.{name}": tensor for name, tensor in self.method.items()},
        }

    def description(self) -> dict[str, Any]:
        """What a file of the state says in JSON."""
        return {
            "fingerprint": self.fingerprint,
            "epoch": self.epoch,
            "batch": self.batch,
            "tally": asdict(self.tally),
            "seconds": self.seconds,
            "rate": self.rate,
            "history": [asdict(epoch) for epoch in self.history],
            "held_back_accuracy": self.held_back_accuracy,
        }


def state_from_parts(tensors: Mapping[str, Tensor], description: Mapping[str, Any]) -> RunState:
    """The inverse of :meth:`RunState.tensors` and :meth:`RunState.description`.

    Raises:
        NotEvaluable: a part is missing or of another type.
    """
    try:
        return RunState(
            fingerprint=str(description["fingerprint"]),
            epoch=int(description["epoch"]),
            batch=int(description["batch"]),
            order=tensors["generator.order"],
            augmentation=tensors["generator.augmentation"],
            weights=with_prefix(tensors, "weights."),
            optimiser=with_prefix(tensors, "optimiser."),
            tally=Tally(**description["tally"]),
            seconds=float(description["seconds"]),
            rate=float(description["rate"]),
            history=tuple(Epoch(**epoch) for epoch in description["history"]),
            held_back_accuracy=float(description["held_back_accuracy"]),
            method=with_prefix(tensors, "method."),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise NotEvaluable(
            f"the state of the interrupted run is incomplete ({error}); start over with {argument('force')}"
        ) from error


def fingerprint(
    classifier: Classifier, clean: CleanData, *, recipe: MethodSettings, seed: int, precision: Precision, group: int
) -> str:
    """A SHA-256 over all that decides the result of a run: weights, images, labels, settings and seed.

    Args:
        group: images at most whose outcome depends on each other; smaller where memory is short.
    """
    described = classifier.description.input
    return digest_of(
        (sorted(recipe.settings().items()), seed, precision.value, group),
        (described.mean, described.std, clean.augmentation),
        *(tensor for part in (clean.learning, clean.held_back) for tensor in (part.images, part.labels)),
        *(part for pair in classifier.network.state_dict().items() for part in pair),
    )
