"""What a behaviour test says of each class, and how far one stands out from the others."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache

import torch
from torch import Tensor

from sau_cli.seeding import random_stream

USUAL = 10
"""Classes of most of the models that calibrations are made of."""
DRAWS, ONE_IN = 10_000, 20


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ClassScores:
    """The statistic of one test for each class examined; larger is more suspicious.

    Attributes:
        test: its id, such as ``maximum-margin``.
        values: (E,) float.
        unit: a difference that would be large for this test and this model; above 0.
    """

    test: str
    values: Tensor
    unit: float

    @property
    def anomaly(self) -> Tensor:
        """(E,) the anomaly index of each class; differences below a twentieth of the unit mean nothing."""
        return anomaly_index(self.values, least_spread=0.05 * self.unit)

    @property
    def lead(self) -> Tensor:
        """(E,) how far each class is above the highest of the others, in units."""
        first, second = self.values.topk(2).values
        highest_other = first.expand_as(self.values).clone()
        highest_other[self.values.argmax()] = second
        lead: Tensor = (self.values - highest_other) / self.unit
        return lead

    @property
    def evidence(self) -> dict[str, Tensor]:
        """What speaks for each class, (E,): the logarithms of anomaly index and lead, with their signs.

        Among few classes, an index is large by chance more often; each is brought to what it would be worth among
        :data:`USUAL`.
        """
        worth = chance_index(USUAL) / chance_index(len(self.values))
        return {self.test: _signed_log(worth * self.anomaly), f"{self.test} lead": _signed_log(self.lead)}

    def with_others(self, others: ClassScores, places: Tensor) -> ClassScores:
        """The scores of the classes at ``places`` of more, of which the rest are ``others``'."""
        values = others.values.clone()
        values[places] = self.values
        return replace(others, values=values)


def _signed_log(values: Tensor) -> Tensor:
    return values.sign() * values.abs().log1p()


def anomaly_index(values: Tensor, *, least_spread: float) -> Tensor:
    """Distance from the median in units of the median absolute deviation, as if the values were normal: (E,) to (E,).

    Source: Wang et al., "Neural Cleanse", 2019, where an index above 2 is an outlier.

    >>> import torch
    >>> anomaly_index(torch.tensor([1.0, 2.0, 3.0, 4.0, 100.0]), least_spread=0.1)[-1] > 60
    tensor(True)
    """
    middle = values.median()
    spread = 1.4826 * (values - middle).abs().median()
    index: Tensor = (values - middle) / spread.clamp_min(least_spread)
    return index


@cache
def chance_index(classes: int) -> float:
    """The anomaly index that the largest of so many normal values exceeds in one of twenty draws.

    >>> 5 < chance_index(10) < 6
    True
    >>> chance_index(5) > chance_index(43)
    True
    """
    drawn = torch.randn(DRAWS, classes, generator=random_stream(0, f"anomaly indices of {classes} classes"))
    middle = drawn.median(dim=1, keepdim=True).values
    spread = 1.4826 * (drawn - middle).abs().median(dim=1, keepdim=True).values
    largest = ((drawn - middle) / spread.clamp_min(1e-6)).amax(dim=1)
    return float(largest.quantile(1 - 1 / ONE_IN))
