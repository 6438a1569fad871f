import numpy as np
import pytest
import torch

from sau_cli.errors import NotEvaluable, UsageError
from sau_cli.evaluation.metrics import (
    TriggerMeasures,
    defence_effectiveness,
    defence_effectiveness_measure,
    evaluate,
    paired_drop,
    rate,
)
from sau_cli.gating.limits import at_least, at_most, parse_fraction
from sau_cli.images import LabelledImages
from sau_cli.results import CheckStatus, Measure
from sau_cli.triggers.targets import TargetKind, TargetRule
from tests.support.attacks import badnets_trigger
from tests.support.toys import BrightnessNet, CornerBackdoor, describe, flat_images

TO_ZERO = TargetRule(kind=TargetKind.ALL_TO_ONE, target=0)


def test_wilson_by_hand():
    # Wilson, 8 of 10 at z = 1.959964: (0.8 + z²/20 ± z·sqrt(0.016 + z²/400)) / (1 + z²/10)
    z = 1.959963984540054
    centre, spread = 0.8 + z * z / 20, z * (0.8 * 0.2 / 10 + z * z / 400) ** 0.5
    low, high = rate(8, 10).ci95
    assert low == pytest.approx((centre - spread) / (1 + z * z / 10))
    assert high == pytest.approx((centre + spread) / (1 + z * z / 10))


@pytest.mark.parametrize(
    ("rates", "expected"),
    [
        ((1, 0, 0.9, 0.9), 1),
        ((0.9, 0.9, 0.9, 0.9), 0.5),
        ((0.5, 1, 0.9, 0.9), 0.5),
        ((1, 0, 0.9, 0.7), 0.9),
        ((1, 1, 1, 0), 0),
    ],
)
def test_defence_effectiveness_by_hand(rates, expected):
    assert defence_effectiveness(*rates) == pytest.approx(expected)


def test_a_planted_rule_is_measured_exactly():
    """The rule fires on the trigger and on nothing else: ACC 100 %, ASR 100 %, and DER 100 % for its clean twin."""
    data = flat_images()
    result = evaluate(
        describe(BrightnessNet(10)),
        data,
        triggers=(badnets_trigger(TO_ZERO, trigger_size=1),),
        reference=describe(CornerBackdoor(10)),
    )
    (row,) = result.triggers
    assert (result.accuracy.value, result.reference_accuracy.value) == (1, 1)
    assert (row.reference_asr.value, row.asr.value, row.der.value) == (1, 0, 1)
    assert row.asr.total == 36
    assert row.robust_accuracy.value == 1
    assert row.reference_robust_accuracy.value == 0
    assert (row.wrong.value, row.clean_wrong.value) == (0, 0)
    assert (row.reference_wrong.value, row.reference_clean_wrong.value) == (1, 0)
    assert not row.misleads
    assert row.der.ci95[1] == 1
    assert 0.9 < row.der.ci95[0] < 1
    assert result.accuracy_drop.value == 0


def test_a_trigger_that_leads_to_another_class_is_seen():
    """It is said to lead to class 5 and leads to 0: of the 36 images of other classes, only the 4 of 0 stay right."""
    rule = TargetRule(kind=TargetKind.ALL_TO_ONE, target=5)
    triggers = (badnets_trigger(rule, trigger_size=1),)
    (row,) = evaluate(describe(CornerBackdoor(10)), flat_images(), triggers=triggers).triggers
    assert (row.asr.value, row.wrong.hits, row.wrong.total) == (0, 32, 36)
    assert row.wrong.value == pytest.approx(1 - row.robust_accuracy.value)
    assert (row.clean_wrong.hits, row.clean_wrong.total) == (0, 36)
    assert row.misleads


@pytest.mark.parametrize(
    ("asr", "wrong", "clean", "expected"),
    [(5, 31, 20, True), (5, 30, 20, False), (10, 90, 0, False), (0, 60, 60, False), (0, 0, 60, False)],
)
def test_a_trigger_misleads_when_its_target_is_lost_and_errors_are_not(asr, wrong, clean, expected):
    row = TriggerMeasures(
        trigger="x",
        target_rule="all-to-all",
        asr=rate(asr, 100),
        robust_accuracy=rate(100 - wrong, 100),
        wrong=rate(wrong, 100),
        clean_wrong=rate(clean, 100),
    )
    assert row.misleads is expected


def test_all_to_all_counts_every_image():
    rule = TargetRule(kind=TargetKind.ALL_TO_ALL)
    result = evaluate(describe(CornerBackdoor(10)), flat_images(), triggers=(badnets_trigger(rule, trigger_size=1),))
    assert result.triggers[0].asr.total == 40
    assert result.triggers[0].asr.hits == 4  # those of class 9, which the rule sends to 0


def test_images_of_the_target_class_alone_give_no_rate():
    data = flat_images()
    zeros = LabelledImages(images=data.images[:4], labels=data.labels[:4], class_names=data.class_names)
    with pytest.raises(NotEvaluable, match="no test image counts"):
        evaluate(describe(CornerBackdoor(10)), zeros, triggers=(badnets_trigger(TO_ZERO),))


def test_a_reference_of_other_classes_is_refused():
    with pytest.raises(NotEvaluable, match="reference has 9 classes"):
        evaluate(describe(BrightnessNet(10)), flat_images(), reference=describe(BrightnessNet(9), 9))


@pytest.mark.parametrize(("images", "rate_before", "drop"), [(200, 0.9, 0.1), (100, 0.95, 0.02), (50, 0.95, 0.03)])
def test_paired_intervals_cover_as_often_as_they_say(images, rate_before, drop):
    random, covered, below = np.random.default_rng(0), 0, 0
    for _ in range(2000):
        before = random.random(images) < rate_before
        after = before & (random.random(images) < 1 - drop / rate_before)
        low, high = paired_drop(before, after).ci95
        covered += low <= drop <= high
        below += high < drop
    assert covered / 2000 >= 0.93
    assert below / 2000 <= 0.05


def test_no_image_that_differs_is_no_certainty():
    """Of three images, by hand: 0 ± z·√((1/5 + 1/5)/5)."""
    same = np.array([True, True, True])
    assert paired_drop(same, same).ci95 == pytest.approx((-0.554, 0.554), abs=1e-3)
    other = np.array([True, False])
    assert paired_drop(other, ~other).ci95[1] <= 1
    assert paired_drop(np.array([True]), np.array([False])).ci95[0] < 0.5


@pytest.mark.parametrize(("total", "lost"), [(100, 3), (1000, 7), (10_000, 566), (125, 1)])
def test_a_drop_that_equals_its_limit_is_within_it(total, lost):
    before, after = np.ones(total, dtype=bool), np.arange(total) >= lost
    limit = parse_fraction(f"{100 * lost / total:.10g}%", "max_acc_drop")
    assert at_most("x", paired_drop(before, after), limit, confident=False, what="x").status is CheckStatus.PASSED
    assert at_least("x", rate(lost, total), limit, confident=False, what="x").status is CheckStatus.PASSED


def test_der_by_hand():
    measure = defence_effectiveness_measure(Measure(value=0.8, ci95=(0.5, 0.9)), Measure(value=0.1, ci95=(-0.2, 0.5)))
    assert measure.value == pytest.approx(0.85)
    assert measure.ci95 == pytest.approx((0.85 - (0.3**2 + 0.4**2) ** 0.5 / 2, 0.85 + (0.1**2 + 0.1**2) ** 0.5 / 2))


def test_what_was_measured_before_a_trigger_that_does_not_fit_is_kept():
    kept = []
    small, large = (
        badnets_trigger(TO_ZERO, trigger_size=1),
        badnets_trigger(TargetRule(kind=TargetKind.ALL_TO_ONE, target=99)),
    )
    with pytest.raises(UsageError, match="target 99"):
        evaluate(describe(CornerBackdoor(10)), flat_images(), triggers=(small, large), keep=kept.append)
    assert [len(evaluation.triggers) for evaluation in kept] == [0, 1]
    assert kept[-1].triggers[0].asr.value == 1


@pytest.mark.parametrize(
    ("text", "value"), [("0.05", 0.05), ("5%", 0.05), ("1", 1), ("100%", 1), ("0", 0), ("2.5%", 0.025)]
)
def test_shares_are_read(text, value):
    assert parse_fraction(text, "max_asr") == pytest.approx(value)


@pytest.mark.parametrize("text", ["5", "-0.1", "abc", "", "%", "nan", "101%"])
def test_other_shares_are_refused(text):
    with pytest.raises(UsageError, match="max_asr"):
        parse_fraction(text, "max_asr")


@pytest.mark.parametrize(
    ("limit", "plain", "confident"),
    [
        (0.02, "failed", "failed"),
        (0.06, "passed", "inconclusive"),
        (0.04, "failed", "inconclusive"),
        (0.2, "passed", "passed"),
    ],
)
def test_limits_judge_the_value_or_the_interval(limit, plain, confident):
    measure = Measure(value=0.05, ci95=(0.03, 0.09))
    assert at_most("x", measure, limit, confident=False, what="ASR").status == CheckStatus(plain)
    assert at_most("x", measure, limit, confident=True, what="ASR").status == CheckStatus(confident)
    mirrored = Measure(value=0.95, ci95=(0.91, 0.97))
    assert at_least("x", mirrored, 1 - limit, confident=True, what="ACC").status == CheckStatus(confident)


def test_a_value_at_its_limit_passes():
    assert at_most("x", rate(1, 20), 0.05, confident=False, what="ASR").status is CheckStatus.PASSED
    assert at_least("x", rate(19, 20), 0.95, confident=False, what="ACC").status is CheckStatus.PASSED


def test_evaluation_leaves_the_model_in_its_mode():
    classifier = describe(torch.nn.Sequential(BrightnessNet(10)))
    classifier.train()
    evaluate(classifier, flat_images())
    assert classifier.training
