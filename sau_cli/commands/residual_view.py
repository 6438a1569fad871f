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

NEXT = (
    "try sau purify again with more clean images, with more --epochs, or with another --seed; measure what is known "
    "with sau evaluate"
)


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
    from sau_adapters.pictures import change_shown
    from sau_cli.devices import out_of_memory
    from sau_cli.inspection.residual import overlooked, residual_test
    from sau_cli.inspection.residual_checks import (
        overlooked_check,
        residual_check,
        residual_details,
        unexamined_check,
    )
    from sau_cli.precision import chosen_precision

    precision = chosen_precision(None, models[0].mean.device, models[0])
    names = models[0].description.class_names
    try:
        with ProgressView(session, "residual test" if shared else "easiest change", rounds="") as view:

            def watch(done: int, of: int, what: str) -> None:
                view.update(epoch=1, epochs=1, batch=done, batches=of, measures=f"searching {what} changes")

            found = residual_test(models, images, seed=seed, precision=precision, watch=watch)
            missed = None
            if found.status is CheckStatus.PASSED and unlearned is not None:
                alone = residual_test(models[1:], images, seed=seed, precision=precision, watch=watch)
                missed = overlooked(alone, unlearned)
    except NotEvaluable as error:
        why = error.told(flag_of)
        return unexamined_check(why, shared=shared), {"cleared": False, "reason": why}
    except RuntimeError as error:  # of the network: such as one that lets no gradient through
        if out_of_memory(error):
            raise
        why = f"the network cannot be examined by gradients ({reason_of(error)})"
        return unexamined_check(why, shared=shared), {"cleared": False, "reason": why}
    details = residual_details(found, names)
    details["recovered"] = [
        change_shown(f"{kind.kind.value} to {names[kind.wanted]}", kind.example[0], kind.example[1], kind.success)
        for kind in found.kinds
    ]
    check = residual_check(found, names, shared=shared)
    if missed is not None:
        check = overlooked_check(missed, found, names)
        details |= {"cleared": False, "suspected_class": names[missed.wanted], "overlooked": missed.kind.value}
        details["recovered"].append(
            change_shown(
                f"{missed.kind.value} to {names[missed.wanted]}, received model alone",
                missed.example[0],
                missed.example[1],
                missed.success,
            )
        )
    if check.status is CheckStatus.INCONCLUSIVE and shared:
        session.show(f"not cleared: {check.evidence}; {NEXT}")
    return check, details
