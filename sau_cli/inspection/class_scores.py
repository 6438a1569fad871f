"""What a behaviour test says of each class, and how far one stands out from the others."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor


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
        """What speaks for each class, (E,): the logarithms of anomaly index and lead, with their signs."""
        return {self.test: _signed_log(self.anomaly), f"{self.test} lead": _signed_log(self.lead)}

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
