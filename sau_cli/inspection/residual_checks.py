"""What the residual test found, as a check and a sentence."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sau_cli.inspection.residual import CONVICTED, LIMIT, MOST_PIXELS, KindFound, Residual
from sau_cli.inversion.changes import ChangeKind
from sau_cli.results import Check, CheckStatus

SHARED_CHECK, ALONE_CHECK = "residual.score", "behaviour.easiest-change"
"""The ids of the check: of a purified model beside the received one, and of a model alone."""
_CHANGES = {
    ChangeKind.SQUARE: "a square",
    ChangeKind.SPOT: "a small square",
    ChangeKind.MASK: "a mask of a few pixels",
    ChangeKind.SMOOTH: "a smooth pattern",
    ChangeKind.WARP: "a warp",
}


def residual_check(found: Residual, class_names: Sequence[str], *, shared: bool) -> Check:
    """The test as a check.

    Args:
        shared: two models were looked at, and not one.
    """
    worst = found.worst
    what = (
        f"{_told(worst)} that sends {100 * worst.success:.0f} % of {found.images} clean images to class "
        f"{class_names[worst.wanted]!r}" + (" in both models" if shared else "")
    )
    status = found.status
    if not found.stands_out:
        told = f"no class is far easier to lead images to than the others; nearest is {what}"
        if status is CheckStatus.MEASURED:
            told += (
                f"; the limit was chosen on images of {MOST_PIXELS} pixels at most, so this clears none of larger ones"
            )
            status = CheckStatus.INCONCLUSIVE if shared else status
    else:
        rest = "a backdoor is likely to be left" if shared else "as in a model with a backdoor"
        if status is CheckStatus.FAILED:
            rest += f"; other kinds of change agree, and the score is above {CONVICTED}"
        told = f"{what} is found far more easily than for other classes: {rest}"
    return Check(
        id=SHARED_CHECK if shared else ALONE_CHECK, status=status, value=found.score, threshold=LIMIT, evidence=told
    )


def overlooked_check(missed: KindFound, found: Residual, class_names: Sequence[str]) -> Check:
    """Of a purification that never unlearned a class which stands out on the received model.

    Args:
        found: of both models, in which nothing stands out.
    """
    told = (
        f"{_told(missed)} that sends {100 * missed.success:.0f} % of {found.images} clean images to "
        f"class {class_names[missed.wanted]!r} in the received model is found far more easily than for others, and "
        "purification did not come to that class: a backdoor is likely to be left, although no change that both models "
        "share stands out"
    )
    return Check(id=SHARED_CHECK, status=CheckStatus.INCONCLUSIVE, value=missed.score, threshold=LIMIT, evidence=told)


def unexamined_check(why: str, *, shared: bool) -> Check:
    """In place of a test that could not be made; never cleared by default."""
    told = f"whether a backdoor is left was not examined: {why}"
    status = CheckStatus.INCONCLUSIVE if shared else CheckStatus.SKIPPED
    return Check(id=SHARED_CHECK if shared else ALONE_CHECK, status=status, threshold=LIMIT, evidence=told)


def residual_details(found: Residual, class_names: Sequence[str]) -> dict[str, Any]:
    """For reports and for the history of a purified file."""
    return {
        "cleared": found.status is CheckStatus.PASSED,
        "score": found.score,
        "limit": LIMIT,
        "suspected_class": class_names[found.worst.wanted] if found.stands_out else None,
        "images": found.images,
        "seed": found.seed,
        "kinds": {kind.kind.value: _kind(kind, class_names) for kind in found.kinds},
    }


def _kind(kind: KindFound, class_names: Sequence[str]) -> dict[str, Any]:
    return {
        "score": kind.score,
        "share": kind.share,
        "class": class_names[kind.wanted],
        "success": round(kind.success, 4),
    }


def _told(found: KindFound) -> str:
    """What the change is, for people.

    >>> from types import SimpleNamespace
    >>> _told(SimpleNamespace(kind=ChangeKind.SPOT, share=0.65))
    'a small square, mixed in by 65 %,'
    """
    faint = f", mixed in by {100 * found.share:.0f} %," if found.share < 1 else ""
    return f"{_CHANGES[found.kind]}{faint}"
