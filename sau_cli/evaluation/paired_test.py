"""Whether two models differ on the same images by more than chance: McNemar's test, exact."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest


@dataclass(frozen=True, slots=True, kw_only=True)
class PairedTest:
    """Images on which the two models differ, and how likely so uneven a split is by chance.

    Attributes:
        only_before, only_after: images of which it was true of the one model alone.
        p_value: two-sided, of no difference between the models; 1 where no image tells them apart.
    """

    only_before: int
    only_after: int
    p_value: float


def paired_test(before: NDArray[np.bool_], after: NDArray[np.bool_]) -> PairedTest:
    """McNemar's exact test on what is true of each image under each model; (N,) bool twice.

    >>> test = paired_test(np.array([True] * 5 + [False]), np.zeros(6, dtype=bool))
    >>> test.only_before, test.only_after, test.p_value
    (5, 0, 0.0625)

    Source: McNemar 1947; the exact form is the binomial test of a fair coin on the images that differ.
    """
    only_before, only_after = int((before & ~after).sum()), int((~before & after).sum())
    differ = only_before + only_after
    p_value = float(binomtest(only_before, differ, 0.5).pvalue) if differ else 1.0
    return PairedTest(only_before=only_before, only_after=only_after, p_value=p_value)
