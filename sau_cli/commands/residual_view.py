"""Make the residual test for a command, and show how far it is and what it found."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any

from sau_cli.commands.options import flag_of
from sau_cli.commands.progress import ProgressView
from sau_cli.commands.session import Session
from sau_cli.errors import NotEvaluable, reason_of
from sau_cli.results import Check, CheckStatus

if TYPE_CHECKING:
    from sau_cli.classifier import Classifier
    from sau_cli.images import LabelledImages
    from sau_cli.inspection.residual import KindFound, Residual

NEXT = "try sau purify again with more clean images, with more --epochs, or with another --seed; "
MEASURE = "measure what is known with sau evaluate"


def residual_of(
    session: Session,
    models: Sequence[Classifier],
    images: LabelledImages,
    *,
    seed: int,
    shared: bool,
    unlearned: Collection[int] | None = None,
) -> tuple[Check, dict[str, Any]]:
    """The check of the residual test, and its details for reports and histories. A test that fails clears nothing.

    Args:
        models: the purified and the received model; or one alone.
        shared: whether there are two.
        unlearned: classes whose triggers were inverted and unlearned; None where that is not known.
    """
    from sau_cli.devices import out_of_memory
    from sau_cli.inspection.residual_checks import overlooked_check, residual_check, residual_details, unexamined_check

    names = models[0].description.class_names
    try:
        found, missed = _searched(session, models, images, seed=seed, shared=shared, unlearned=unlearned)
    except NotEvaluable as error:
        why = error.told(flag_of)
        return unexamined_check(why, shared=shared), {"cleared": False, "reason": why}
    except RuntimeError as error:  # of the network: such as one that lets no gradient through
        if out_of_memory(error):
            raise
        why = f"the network cannot be examined by gradients ({reason_of(error)})"
        return unexamined_check(why, shared=shared), {"cleared": False, "reason": why}
    details = residual_details(found, names)
    details["recovered"] = [_shown(kind, names) for kind in found.kinds]
    check = residual_check(found, names, shared=shared)
    if missed is not None:
        check = overlooked_check(missed, found, names)
        details |= {"cleared": False, "suspected_class": names[missed.wanted], "overlooked": missed.kind.value}
        details["recovered"].append(_shown(missed, names, where=", received model alone"))
    if check.status is CheckStatus.INCONCLUSIVE and shared:
        session.show(f"not cleared: {check.evidence}; {NEXT if found.stands_out or missed else ''}{MEASURE}")
    return check, details


def _searched(
    session: Session,
    models: Sequence[Classifier],
    images: LabelledImages,
    *,
    seed: int,
    shared: bool,
    unlearned: Collection[int] | None,
) -> tuple[Residual, KindFound | None]:
    """What the test finds in all models, and what it finds in the received one alone that was never unlearned."""
    from sau_cli.inspection.residual import overlooked, residual_test
    from sau_cli.precision import chosen_precision

    precision = chosen_precision(None, models[0].mean.device, models[0])
    with ProgressView(session, "residual test" if shared else "easiest change", rounds="") as view:

        def watch(done: int, of: int, what: str) -> None:
            view.update(epoch=1, epochs=1, batch=done, batches=of, measures=f"searching {what} changes")

        found = residual_test(models, images, seed=seed, precision=precision, watch=watch)
        if found.status is not CheckStatus.PASSED or unlearned is None:
            return found, None
        alone = residual_test(models[1:], images, seed=seed, precision=precision, watch=watch)
        return found, overlooked(alone, unlearned)


def _shown(found: KindFound, names: Sequence[str], *, where: str = "") -> dict[str, Any]:
    """A picture of what was found, for reports."""
    from sau_adapters.images.pictures import change_shown

    title = f"{found.kind.value} to {names[found.wanted]}{where}"
    return change_shown(title, found.example[0], found.example[1], found.success)
