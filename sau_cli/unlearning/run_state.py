"""Where a purification stands, whole enough to go on from as if it had never stopped."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from sau_cli.classifier import Classifier
from sau_cli.errors import NotEvaluable, UsageError
from sau_cli.images import CleanData
from sau_cli.precision import Precision
from sau_cli.unlearning.recipes import Recipe
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

    def tensors(self) -> dict[str, Tensor]:
        """What a file of the state holds beside :meth:`description`."""
        return {
            "generator.order": self.order,
            "generator.augmentation": self.augmentation,
            **{f"weights.{name}": tensor for name, tensor in self.weights.items()},
            **{f"optimiser.{name}": tensor for name, tensor in self.optimiser.items()},
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
            weights=_with_prefix(tensors, "weights."),
            optimiser=_with_prefix(tensors, "optimiser."),
            tally=Tally(**description["tally"]),
            seconds=float(description["seconds"]),
            rate=float(description["rate"]),
            history=tuple(Epoch(**epoch) for epoch in description["history"]),
            held_back_accuracy=float(description["held_back_accuracy"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise NotEvaluable(
            f"the state of the interrupted run is incomplete ({error}); start over with --force"
        ) from error


def fingerprint(classifier: Classifier, clean: CleanData, *, recipe: Recipe, seed: int, precision: Precision) -> str:
    """A SHA-256 over all that decides the result of a run: weights, images, labels, settings and seed."""
    digest = hashlib.sha256(repr((sorted(recipe.settings().items()), seed, precision.value)).encode())
    described = classifier.description.input
    digest.update(repr((described.mean, described.std, clean.augmentation)).encode())
    for part in (clean.learning, clean.held_back):
        for tensor in (part.images, part.labels):
            digest.update(tensor.cpu().contiguous().numpy().tobytes())
    for name, tensor in classifier.network.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def check_same_run(state: RunState, expected: str) -> None:
    """Raises UsageError when a state belongs to a run with another model, data, settings or seed."""
    if state.fingerprint != expected:
        raise UsageError(
            "the state of the interrupted run belongs to another model, other data or other settings; "
            "repeat its command with --resume, or start over with --force"
        )


def optimiser_tensors(optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Copies of an optimiser's tensors on the CPU, as ``PARAMETER.NAME``."""
    states: Mapping[int, Mapping[str, Any]] = optimiser.state_dict()["state"]
    return {
        f"{number}.{name}": value.detach().cpu().clone()
        for number, state in states.items()
        for name, value in state.items()
        if isinstance(value, Tensor)
    }


def restore_optimiser(optimiser: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """The inverse of :func:`optimiser_tensors`; no tensors empty the optimiser's memory."""
    parameters = [parameter for group in optimiser.param_groups for parameter in group["params"]]
    states: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        number, _, name = key.partition(".")
        like = parameters[int(number)]
        # Laid out in memory as the optimiser would have it: another layout may round differently.
        restored = value.clone() if name == "step" else torch.empty_like(like).copy_(value)
        states.setdefault(int(number), {})[name] = restored
    optimiser.load_state_dict({"state": states, "param_groups": optimiser.state_dict()["param_groups"]})


def _with_prefix(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
