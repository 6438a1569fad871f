"""The tests of a model's behaviour, in the order in which they are run."""

from __future__ import annotations

from sau_cli.errors import UsageError
from sau_cli.inspection.adversarial_flow import AdversarialFlow
from sau_cli.inspection.behaviour_test import BehaviourTest
from sau_cli.inspection.effort import EASIEST_CHANGE, AskedTests
from sau_cli.inspection.feature_shifts import FeatureShiftTest
from sau_cli.inspection.head_probing import HeadProbing
from sau_cli.inspection.inverted_changes import InvertedMask, InvertedSmooth, InvertedSquare
from sau_cli.inspection.maximum_margins import MaximumMargin

TESTS: tuple[BehaviourTest, ...] = (
    HeadProbing(),
    FeatureShiftTest(),
    MaximumMargin(),
    InvertedSquare(),
    InvertedMask(),
    InvertedSmooth(),
    AdversarialFlow(),
)


def chosen_tests(asked: AskedTests) -> tuple[BehaviourTest, ...]:
    """The tests that are asked for; none where that is the easiest change alone.

    Raises:
        UsageError: a name that no test has, or no test is left.
    """
    known = [*(test.id for test in TESTS), EASIEST_CHANGE]
    for name in (*asked.only, *asked.without):
        if name not in known:
            raise UsageError(f"there is no test {name!r}; choose from {', '.join(known)}")
    if not any(asked.wants(name) for name in known):
        raise UsageError(f"no test is left; leave out fewer of {', '.join(known)}")
    return tuple(test for test in TESTS if asked.wants(test.id))
