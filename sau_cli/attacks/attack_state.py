"""Where an attack stands, whole enough to go on from as if it had never stopped."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from sau_cli.errors import NotEvaluable, argument
from sau_cli.resuming import with_prefix
from sau_cli.training import TrainingState


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class AttackState:
    """An attack between two epochs.

    Attributes:
        fingerprint: of everything that was given; a state continues only the same run.
        learned: of each attack that has learned what it needs.
        rounds: of training that are done.
        weights: of the classifier after these rounds; None where none is done.
        training: the round in progress; None where no epoch of it is done.
    """

    fingerprint: str
    learned: tuple[Mapping[str, Tensor], ...] = ()
    rounds: int = 0
    weights: Mapping[str, Tensor] | None = None
    training: TrainingState | None = None

    def tensors(self) -> dict[str, Tensor]:
        """What a file of the state holds beside :meth:`description`."""
        named = {f"learned.{place}.": tensors for place, tensors in enumerate(self.learned)}
        named["weights."] = self.weights or {}
        named["training."] = {} if self.training is None else self.training.tensors
        return {prefix + name: tensor for prefix, tensors in named.items() for name, tensor in tensors.items()}

    def description(self) -> dict[str, Any]:
        """What a file of the state says in JSON."""
        training = self.training
        return {
            "fingerprint": self.fingerprint,
            "learned": len(self.learned),
            "rounds": self.rounds,
            "training": None if training is None else {"epochs": training.epochs, "rates": dict(training.rates)},
        }


def attack_state_from_parts(tensors: Mapping[str, Tensor], description: Mapping[str, Any]) -> AttackState:
    """The inverse of :meth:`AttackState.tensors` and :meth:`AttackState.description`.

    Raises:
        NotEvaluable: a part is missing or of another type.
    """
    try:
        training, rounds = description["training"], int(description["rounds"])
        return AttackState(
            fingerprint=str(description["fingerprint"]),
            learned=tuple(with_prefix(tensors, f"learned.{place}.") for place in range(int(description["learned"]))),
            rounds=rounds,
            weights=with_prefix(tensors, "weights.") if rounds else None,
            training=None
            if training is None
            else TrainingState(
                epochs=int(training["epochs"]),
                tensors=with_prefix(tensors, "training."),
                rates={str(name): float(rate) for name, rate in training["rates"].items()},
            ),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise NotEvaluable(
            f"the state of the interrupted run is incomplete ({error}); start over with {argument('force')}"
        ) from error
