"""A purification, as checks of a report, a table for people, and a line of progress."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Group

from sau_cli.reporting.terminal import percent, table
from sau_cli.results import Check, CheckStatus
from sau_cli.unlearning.methods import MethodName
from sau_cli.unlearning.recipes import Recipe

if TYPE_CHECKING:
    from sau_cli.unlearning.purifier import Purification
    from sau_cli.unlearning.trail import PurifyProgress

MUCH_LOST = 0.05
"""Accuracy lost of which more is remarked upon."""


def measures_of(at: PurifyProgress, method: MethodName) -> str:
    """What a line of progress says."""
    if at.searching:
        return f"searching {at.searching.kind} changes, {percent(at.searching.done / at.searching.of)}"
    own = f" sar {at.unlearning_loss:.3f} SAE {percent(at.shared_share)}" if method is MethodName.SAU else ""
    if at.rounds:
        last = at.rounds[-1]
        found = ", ".join(f"{suspect.kind.value} to {suspect.wanted}" for suspect in last.suspects) or "none"
        own += f" round {len(at.rounds)}: {found}"
    return f"cl {at.clean_loss:.3f}{own} acc {percent(at.held_back_accuracy)}"


def not_shown_check(classes: Sequence[str], *, of: int) -> Check:
    """That these classes have no clean image to learn from."""
    some = ", ".join(repr(name) for name in classes[:5]) + ", ..." * (len(classes) > 5)
    sentence = (
        f"no clean image to learn from is of {len(classes)} of {of} classes ({some}): their accuracy is likely to "
    )
    return Check(
        id="clean-classes", status=CheckStatus.SKIPPED, evidence=f"{sentence}be lost, so give an image of every class"
    )


def purification_checks(purified: Purification) -> tuple[Check, ...]:
    """What was watched, each as a check with status "measured"."""
    checks = [
        Check(
            id="held-back-accuracy.before",
            status=CheckStatus.MEASURED,
            value=purified.held_back_accuracy_before,
            evidence=f"of the received model on {purified.held_back} clean images that are not learned from",
        ),
        Check(
            id="held-back-accuracy",
            status=CheckStatus.MEASURED,
            value=purified.held_back_accuracy,
            evidence="of the purified model on the same images",
        ),
    ]
    if purified.epochs and isinstance(purified.recipe, Recipe):
        checks.append(
            Check(
                id="shared-adversarial-examples",
                status=CheckStatus.MEASURED,
                value=purified.epochs[-1].shared_share,
                evidence="share of the clean images with an adversarial example common to both models, last epoch",
            )
        )
    return tuple(checks)


def purification_summary(purified: Purification) -> Group:
    """Accuracy before and after, and losses of the first and the last epoch."""
    first, last = purified.epochs[0], purified.epochs[-1]
    before, after = percent(purified.held_back_accuracy_before), percent(purified.held_back_accuracy)
    halved = f" The learning rate fell to {purified.rate:g} of itself, as the loss stopped being finite."
    accuracy = table(
        f"Clean accuracy on {purified.held_back} images held back", ("received", "purified"), [(before, after)]
    )
    rows, legend = [("clean loss (cl)", f"{first.clean_loss:.3f}", f"{last.clean_loss:.3f}")], ""
    if isinstance(purified.recipe, Recipe):
        rows.insert(0, ("shared adversarial examples (SAE)", percent(first.shared_share), percent(last.shared_share)))
        rows.append(("unlearning loss (sar)", f"{first.unlearning_loss:.3f}", f"{last.unlearning_loss:.3f}"))
        legend = (
            "A trigger works by adversarial examples that both models share: the fewer\n"
            "are found, the less of a backdoor within epsilon is left."
        )
    title = f"{len(purified.epochs)} epoch{'s' * (len(purified.epochs) != 1)}"
    legend += halved if purified.rate < 1 else ""
    epochs = table(title, ("", "first epoch", "last epoch"), rows, legend=legend.strip())
    lost = purified.held_back_accuracy_before - purified.held_back_accuracy
    much = f"The accuracy on clean images fell by {percent(lost)}; more clean images help most, then more --epochs.\n"
    return Group(accuracy, epochs, *([much] if lost > MUCH_LOST else []))
