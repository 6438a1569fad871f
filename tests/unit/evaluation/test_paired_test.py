import numpy as np
import pytest

from sau_cli.evaluation.metrics import evaluate
from sau_cli.evaluation.paired_test import paired_test
from sau_cli.triggers.targets import TargetKind, TargetRule
from tests.support.attacks import badnets_trigger
from tests.support.toys import BrightnessNet, CornerBackdoor, describe, flat_images


def pairs(both, only_before, only_after, neither):
    before = [True] * (both + only_before) + [False] * (only_after + neither)
    after = [True] * both + [False] * only_before + [True] * only_after + [False] * neither
    return np.array(before), np.array(after)


def test_the_p_value_by_hand():
    """Of 10 images that differ, 2 or fewer on one side: 2·(1 + 10 + 45) / 1024."""
    found = paired_test(*pairs(50, 8, 2, 7))
    assert (found.only_before, found.only_after) == (8, 2)
    assert found.p_value == pytest.approx(2 * (1 + 10 + 45) / 1024)


def test_images_on_which_both_agree_do_not_count():
    assert paired_test(*pairs(0, 8, 2, 0)).p_value == paired_test(*pairs(1000, 8, 2, 500)).p_value


def test_equal_models_and_even_splits_are_no_evidence():
    assert paired_test(*pairs(5, 0, 0, 5)).p_value == 1
    assert paired_test(*pairs(5, 4, 4, 5)).p_value == 1


def test_before_and_after_can_change_places():
    first, second = pairs(3, 9, 1, 4)
    assert paired_test(first, second).p_value == paired_test(second, first).p_value


def test_an_evaluation_with_a_reference_has_both_tests():
    rule = TargetRule(kind=TargetKind.ALL_TO_ONE, target=0)
    result = evaluate(
        describe(BrightnessNet(10)),
        flat_images(),
        triggers=(badnets_trigger(rule, trigger_size=1),),
        reference=describe(CornerBackdoor(10)),
    )
    (row,) = result.triggers
    assert result.accuracy_change.p_value == 1
    assert (row.asr_change.only_before, row.asr_change.only_after) == (36, 0), "images of the target do not count"
    assert row.asr_change.p_value == pytest.approx(2 * 0.5**36)
    assert evaluate(describe(BrightnessNet(10)), flat_images()).accuracy_change is None
