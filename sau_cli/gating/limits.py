"""Limits: the only place that rejects a model. Needs no torch."""

from __future__ import annotations

from decimal import Decimal

from sau_cli.errors import UsageError, argument
from sau_cli.results import Check, CheckStatus, Measure


def parse_fraction(text: str, name: str) -> float:
    """``0.05`` or ``5%``, in [0, 1].

    >>> parse_fraction("5%", "max_asr")
    0.05

    Raises:
        UsageError: no number, or one outside [0, 1].
    """
    try:
        # In decimals: 0.7 % is 0.007, and not the float below it.
        value = float(Decimal(text.removesuffix("%")) / (100 if text.endswith("%") else 1))
    except (ValueError, ArithmeticError):
        value = -1.0
    if not 0 <= value <= 1:
        raise UsageError(
            f"{argument(name)} {text!r} is no share; give a fraction such as 0.05, or a percentage such as 5%"
        )
    return value


def at_most(name: str, measure: Measure, limit: float, *, confident: bool, what: str) -> Check:
    """A check that a measure is no more than a limit.

    Args:
        confident: judge the whole 95 % interval: passed only if all of it is within the limit, failed only
            if all of it is beyond, inconclusive otherwise. Without it, the point estimate is judged.
    """
    low, high = measure.ci95 if confident else (measure.value, measure.value)
    status = CheckStatus.PASSED if high <= limit else CheckStatus.FAILED if low > limit else CheckStatus.INCONCLUSIVE
    return _limit_check(name, measure, limit, status, f"{what} is to be at most {100 * limit:g} %", confident)


def at_least(name: str, measure: Measure, limit: float, *, confident: bool, what: str) -> Check:
    """A check that a measure is no less than a limit. See :func:`at_most`."""
    low, high = measure.ci95 if confident else (measure.value, measure.value)
    status = CheckStatus.PASSED if low >= limit else CheckStatus.FAILED if high < limit else CheckStatus.INCONCLUSIVE
    return _limit_check(name, measure, limit, status, f"{what} is to be at least {100 * limit:g} %", confident)


def _limit_check(name: str, measure: Measure, limit: float, status: CheckStatus, wanted: str, confident: bool) -> Check:
    interval = f", 95 % interval {100 * measure.ci95[0]:.1f} to {100 * measure.ci95[1]:.1f} %" if confident else ""
    more = "; more test images would settle it" if status is CheckStatus.INCONCLUSIVE else ""
    return Check(
        id=name,
        status=status,
        value=measure.value,
        threshold=limit,
        ci95=measure.ci95,
        evidence=f"{wanted} and is {100 * measure.value:.1f} %{interval}{more}",
    )
