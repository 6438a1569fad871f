"""The behaviour tests, on models whose answers are known."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from sau_cli.errors import NotEvaluable, UsageError
from sau_cli.head import Head
from sau_cli.images import LabelledImages
from sau_cli.inspection.adversarial_flow import AdversarialFlow
from sau_cli.inspection.behaviour import SUSPECTS, Behaviour, cost, examine_behaviour, most_suspicious
from sau_cli.inspection.behaviour_checks import behaviour_checks, behaviour_details
from sau_cli.inspection.behaviour_test import BehaviourTest, Subject
from sau_cli.inspection.behaviour_tests import TESTS, chosen_tests
from sau_cli.inspection.calibration import Calibration, KindOfInput, judge_behaviour, judge_seeds, shipped_calibration
from sau_cli.inspection.channel_bounds import channel_bounds
from sau_cli.inspection.class_scores import ClassScores, anomaly_index
from sau_cli.inspection.climbing import margins
from sau_cli.inspection.effort import AskedTests, Effort
from sau_cli.inspection.feature_shifts import FeatureShiftTest
from sau_cli.inspection.head_probing import HeadProbing
from sau_cli.inspection.maximum_margins import MaximumMargin, p_value
from sau_cli.inspection.over_said import over_said
from sau_cli.results import CheckStatus
from tests.support.toys import describe, names, random_images

CLASSES = 6


class QuadrantNet(nn.Module):
    """Class k is how bright the k-th pair of rows of a 12 x 8 image is; the target counts ``boost`` times more there.

    With ``corner`` the target also wins by so much through the first two pixels alone, as with a patch.
    """

    def __init__(self, target: int | None = None, boost: float = 1.0, corner: float = 0.0) -> None:
        super().__init__()
        self.rows = nn.Linear(96, CLASSES + 1, bias=False)
        self.head = nn.Linear(CLASSES + 1, CLASSES)
        pairs = torch.eye(CLASSES).repeat_interleave(16, dim=1) / 16
        first = torch.zeros(1, 96)
        first[0, :2] = 0.5
        self.rows.weight.data = torch.cat([pairs, first])
        self.head.weight.data = torch.cat([10 * torch.eye(CLASSES), torch.zeros(CLASSES, 1)], dim=1)
        self.head.bias.data.zero_()
        if target is not None:
            self.head.weight.data[target, target] *= boost
            self.head.weight.data[target, CLASSES] = corner

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.rows(x.flatten(1)))


def a_classifier(network: nn.Module) -> object:
    classifier = describe(network, classes=CLASSES)
    spec = replace(classifier.description.input, height=12, width=8)
    classifier.description = replace(classifier.description, input=spec)
    return classifier


@cache
def examined(*, target: int | None = None, boost: float = 1.0, corner: float = 0.0, data: bool = True) -> Behaviour:
    """What the tests find in such a network; done once."""
    network = QuadrantNet(target=target, boost=boost, corner=corner)
    images = bright_images() if data else None
    return examine_behaviour(a_classifier(network), images, effort=Effort.STANDARD)


def bright_images(each: int = 20) -> LabelledImages:
    """Dark images with the rows of their class a little brighter, and noise; the first two pixels are black."""
    labels = torch.arange(CLASSES).repeat(each)
    stream = torch.Generator().manual_seed(1)
    pixels = 0.2 * torch.rand(len(labels), CLASSES, 16, generator=stream)
    pixels[torch.arange(len(labels)), labels] += 0.3
    pixels[:, 0, :2] = 0
    images = pixels.reshape(-1, 1, 12, 8).mul(255).round().to(torch.uint8)
    return LabelledImages(images=images, labels=labels, class_names=names(CLASSES))


def test_a_margin_is_the_distance_to_the_highest_other():
    logits = torch.tensor([[1.0, 4.0, 2.5], [0.0, -1.0, -3.0]])
    assert margins(logits, torch.tensor([1, 2])).tolist() == [1.5, -3.0]


@settings(deadline=None)
@given(st.lists(st.floats(-100, 100), min_size=4, max_size=20), st.floats(0.5, 20), st.floats(-50, 50))
def test_an_anomaly_index_does_not_depend_on_scale_or_place(values, scale, shift):
    one = torch.tensor(values, dtype=torch.float64)
    first = anomaly_index(one, least_spread=1e-3)
    second = anomaly_index(scale * one + shift, least_spread=1e-3 * scale)
    torch.testing.assert_close(first, second, rtol=1e-6, atol=1e-6)


def test_a_lead_is_over_the_highest_other():
    scores = ClassScores(test="any", values=torch.tensor([1.0, 9.0, 5.0]), unit=2.0)
    assert scores.lead.tolist() == [-4.0, 2.0, -2.0]


def test_maximum_margins_climb_to_the_known_maximum():
    """Of this linear model the margin of a class is largest where its rows are white and all others black: 10 w."""
    classifier = a_classifier(QuadrantNet(target=2, boost=3.0)).requires_grad_(False)
    nothing = torch.zeros(0)
    looked_at = Subject(
        classifier=classifier, classes=torch.arange(CLASSES), images=nothing, labels=nothing.long(), seed=0
    )
    found = MaximumMargin().run(looked_at).scores
    expected = torch.tensor([10.0, 10.0, 30.0, 10.0, 10.0, 10.0])
    assert bool((found.values <= expected + 1e-4).all())
    assert bool((found.values >= 0.4 * expected).all())
    assert float(found.values[2]) >= 0.8 * 30
    assert int(found.lead.argmax()) == 2
    assert p_value(found.values) < 0.01


def test_a_p_value_is_small_for_an_outlier_alone():
    assert p_value(torch.tensor([10.0, 11, 9, 10, 12, 8, 100])) < 1e-3
    assert p_value(torch.tensor([10.0, 11, 9, 10, 12, 8, 13])) > 0.05
    assert p_value(torch.tensor([1.0, 50.0])) == 1.0


def subject(network: nn.Module, images: LabelledImages) -> Subject:
    classifier = a_classifier(network).requires_grad_(False)
    pixels = images.images.float() / 255
    return Subject(classifier=classifier, classes=torch.arange(CLASSES), images=pixels, labels=images.labels, seed=0)


def the_test(name: str) -> BehaviourTest:
    return next(test for test in TESTS if test.id == name)


def test_the_two_pixels_that_lead_to_the_target_are_found():
    found = the_test("inverted-square").run(subject(QuadrantNet(target=4, corner=40.0), bright_images()))
    assert int(found.scores.lead.argmax()) == 4
    assert float(found.success[4]) == 1.0
    changed = found.changes[4].abs().sum(dim=0)
    assert int((changed > 0).sum()) <= 9
    assert float(changed[0, :2].min()) > 0.9


def test_the_class_that_a_shade_leads_to_is_found():
    """The target's rows count six times, so a picture of 0.1 there is worth one of 0.6 elsewhere."""
    found = the_test("inverted-smooth").run(subject(QuadrantNet(target=1, boost=6.0), bright_images()))
    assert int(found.scores.lead.argmax()) == 1
    assert float(found.success[1]) == 1.0
    assert float(found.changes.abs().max()) <= 0.1 + 1e-6


def test_random_features_are_given_to_the_class_whose_weights_are_largest():
    even_head = Head(weight=torch.eye(CLASSES), bias=torch.zeros(CLASSES), features=torch.eye(CLASSES))
    stream = torch.Generator().manual_seed(0)
    shares = HeadProbing().shares(even_head, stream)
    assert float(shares.sum()) == pytest.approx(1)
    assert shares.tolist() == pytest.approx([1 / CLASSES] * CLASSES, abs=0.03)
    weight = torch.eye(CLASSES)
    weight[2] = 1.0  # the sum of all features, which is above each of them
    greedy = replace(even_head, weight=weight)
    assert HeadProbing().shares(greedy, stream)[2] == 1
    away = replace(even_head, features=torch.eye(CLASSES) - 0.5)  # below 0 too, so the sum is not always above
    assert HeadProbing().shares(replace(away, weight=weight), stream)[2] < 1


def test_a_shift_of_features_comes_to_the_end_of_its_length():
    """Of two classes that are one feature each, the shift that wins most is along their difference."""
    features = torch.tensor([[1.0, -1.0], [-1.0, 1.0], [1.0, -1.0], [-1.0, 1.0]])
    head = Head(weight=torch.eye(2), bias=torch.zeros(2), features=features)
    found = FeatureShiftTest().margins(head, torch.tensor([0, 1, 0, 1]), torch.arange(2))
    spread = float(features.std(dim=0)[0])
    length = FeatureShiftTest().length * 2**0.5
    expected = -2 + spread * length * 2**0.5  # of the other class's images, and (1, -1) / sqrt(2) of that length
    assert found.tolist() == pytest.approx([expected] * 2, abs=1e-3)


@pytest.mark.parametrize("name", ["feature-shift"])
def test_the_class_that_a_change_inside_leads_to_is_found(name):
    found = the_test(name).run(subject(QuadrantNet(target=2, boost=6.0), bright_images()))
    assert int(found.scores.lead.argmax()) == 2
    assert found.changes is None


def test_the_features_of_the_head_are_what_comes_to_it():
    images = bright_images()
    asked = subject(QuadrantNet(target=4, corner=40.0), images)
    head = asked.head
    assert head.features.shape == (len(images), CLASSES + 1)
    torch.testing.assert_close(head.logits(head.features), asked.classifier(asked.images))
    assert head.rectified


def test_a_network_without_a_head_is_never_cleared():
    class Headless(QuadrantNet):
        def forward(self, x):
            return 1.0 * (self.rows(x.flatten(1)) @ self.head.weight.T)[:, :CLASSES]

    behaviour = examine_behaviour(a_classifier(Headless()), bright_images(), effort=Effort.STANDARD)
    assert {test.id for test, _ in behaviour.left_out} == {test.id for test in TESTS if test.needs_head}
    verdict = judge_behaviour(behaviour, even(0.999))
    checks = {check.id: check for check in behaviour_checks(behaviour, verdict, names(CLASSES))}
    assert checks["behaviour.score"].status is CheckStatus.MEASURED
    assert "no head that can be told" in checks["behaviour.head-probing"].evidence


def test_adversarial_examples_flow_to_the_class_that_is_easiest():
    images = bright_images()
    others = images.take((images.labels != 1).nonzero().squeeze(1))
    found = AdversarialFlow().run(subject(QuadrantNet(target=1, boost=6.0), others)).scores
    assert float(found.values.sum()) == pytest.approx(1.0)
    assert int(found.values.argmax()) == 1


class PreActivated(nn.Module):
    """Norm before each convolution: that which the output of ``first`` goes through is ``norm2``."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.first = nn.BatchNorm2d(16), nn.Conv2d(16, 16, 3, bias=False)
        self.norm2, self.second = nn.BatchNorm2d(16), nn.Conv2d(16, 16, 3, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(torch.relu(self.norm1(x)))
        return self.second(torch.relu(self.norm2(x))).mean(dim=(2, 3))


class Branching(nn.Module):
    """Its way depends on values, so its code cannot be traced."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 16, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x) if x.sum() > 0 else -self.conv(x)


def test_the_norm_that_counts_is_that_which_the_output_goes_through():
    torch.manual_seed(0)
    network = PreActivated()
    for conv in (network.first, network.second):
        nn.init.constant_(conv.weight, 0.1)
    network.norm1.weight.data[5] = 50.0  # of the images: in no convolution's output
    network.norm2.weight.data[3] = 20.0
    found = channel_bounds(describe(network, classes=16))
    assert (found.layer, found.channel) == ("first", 3)
    assert found.outliers == 1
    assert found.channels == 32
    assert channel_bounds(describe(Branching(), classes=16)) is None
    assert channel_bounds(describe(nn.Flatten(), classes=16)) is None


def even(threshold: float) -> Calibration:
    measured = dict.fromkeys(
        ("clean_models", "called_backdoored", "clean_inconclusive", "backdoored_models", "found"), 1
    ) | {"backdoored_inconclusive": 0}
    kind = KindOfInput(pixels=(8, 32), classes=(4, 10), threshold=threshold, clean_models=19, accused_at_most=0.05)
    return Calibration(weights={"maximum-margin lead": 2.0}, bias=-2.0, kinds=(kind,), measured=measured)


def test_a_backdoor_is_found_with_its_target_and_a_clean_twin_is_not():
    clean = judge_behaviour(examined(), even(0.5))
    assert clean.status is CheckStatus.PASSED
    behaviour = examined(target=3, corner=40.0)
    bad = judge_behaviour(behaviour, even(0.5))
    assert (bad.status, bad.suspect) == (CheckStatus.FAILED, 3)
    assert bad.score > clean.score
    checks = behaviour_checks(behaviour, bad, names(CLASSES))
    tests = [f"behaviour.{test.id}" for test in TESTS]
    assert [check.id for check in checks] == [*tests, "behaviour.channel-bounds", "behaviour.score"]
    assert checks[-1].status is CheckStatus.FAILED
    assert "'3' as the target" in checks[-1].evidence
    details = behaviour_details(behaviour, bad, names(CLASSES))
    assert details["suspected_class"] == "3"
    assert len(details["seeds"]) == 3


def seed_of(*values: float) -> dict[str, Tensor]:
    return {"maximum-margin lead": torch.tensor(values, dtype=torch.float32)}


@pytest.mark.parametrize(
    ("seeds", "status", "suspect"),
    [
        ([seed_of(0, 3, 0), seed_of(0, 3, 0), seed_of(0, 3, 0)], "failed", 1),
        ([seed_of(0, 3, 0), seed_of(0, 9, 0), seed_of(1, 0, 0)], "failed", 1),
        ([seed_of(0, 9, 0), seed_of(2, 0, 0), seed_of(0, 0, 2)], "inconclusive", 1),
        ([seed_of(0, 0, 0), seed_of(0, 0, 0), seed_of(0, 0, 0)], "passed", 0),
        ([seed_of(0, 2, 0), seed_of(0.1, 0, 0), seed_of(0, 0.1, 0)], "inconclusive", 1),
        ([seed_of(2, 0, 0), seed_of(0, 2, 0), seed_of(0, 0, 2)], "inconclusive", 0),
    ],
    ids=["agree", "one differs", "one alone", "nothing", "one over, the mean is not", "each another"],
)
def test_seeds_that_disagree_are_inconclusive(seeds, status, suspect):
    """With a weight of 2 and a bias of -2, evidence above 1 is over a threshold of 0.5."""
    found = judge_seeds(seeds, torch.arange(3), 0.0, even(0.5), pixels=8, of=10)
    assert (found.status.value, found.suspect) == (status, suspect)


def test_the_model_is_left_as_it_was():
    classifier = a_classifier(QuadrantNet(target=3, boost=1.6))
    classifier.train()
    before = {name: tensor.clone() for name, tensor in classifier.state_dict().items()}
    examine_behaviour(classifier, bright_images(), effort=Effort.STANDARD)
    assert classifier.training
    assert all(parameter.requires_grad for parameter in classifier.parameters())
    assert all(torch.equal(before[name], tensor) for name, tensor in classifier.state_dict().items())
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in classifier.modules())


def test_without_data_a_model_is_never_cleared():
    behaviour = examined(data=False)
    verdict = judge_behaviour(behaviour, even(0.999))
    assert verdict.status is CheckStatus.PASSED
    checks = {check.id: check for check in behaviour_checks(behaviour, verdict, names(CLASSES))}
    assert checks["behaviour.score"].status is CheckStatus.MEASURED
    assert checks["behaviour.inverted-square"].status is CheckStatus.SKIPPED


def test_later_seeds_look_at_the_suspects_and_keep_the_scores_of_the_others():
    behaviour = examined(target=3, corner=40.0)
    first, second, _ = behaviour.seeds
    places = most_suspicious(first)
    assert 3 in places.tolist()
    assert len(places) == SUSPECTS
    pairs = [(mine.scores, others.scores) for mine, others in zip(second.findings, first.findings, strict=True)]
    left = [place for place in range(CLASSES) if place not in places]
    assert all(torch.equal(mine.values[left], others.values[left]) for mine, others in pairs)
    assert any(not torch.equal(mine.values[places], others.values[places]) for mine, others in pairs)


def test_the_same_seed_finds_the_same():
    first = examined(target=3, corner=40.0)
    again = a_classifier(QuadrantNet(target=3, corner=40.0))
    second = examine_behaviour(again, bright_images(), effort=Effort.STANDARD)
    for seed, other in zip(first.seeds, second.seeds, strict=True):
        for mine, yours in zip(seed.findings, other.findings, strict=True):
            assert torch.equal(mine.scores.values, yours.scores.values)


def test_what_cannot_be_examined_is_said():
    with pytest.raises(NotEvaluable, match="3 classes"):
        examine_behaviour(describe(nn.Flatten(), classes=3), None, effort=Effort.STANDARD)
    few = bright_images(each=1)
    with pytest.raises(NotEvaluable, match="too few"):
        examine_behaviour(a_classifier(QuadrantNet()), few, effort=Effort.STANDARD)
    with pytest.raises(NotEvaluable, match="the model takes 12x8"):
        examine_behaviour(a_classifier(QuadrantNet()), random_images(classes=CLASSES), effort=Effort.STANDARD)


def test_more_seeds_and_data_cost_more():
    classifier = describe(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)))
    alone = cost(classifier, with_data=False, effort=Effort.STANDARD)
    each = 2 * (2 * 64 * 10) * MaximumMargin().starts * MaximumMargin().steps
    assert alone == each * (10 + 2 * SUSPECTS)
    assert cost(classifier, with_data=False, effort=Effort.DEEP) == each * (10 + 8 * SUSPECTS)
    assert cost(classifier, with_data=True, effort=Effort.STANDARD) > alone


@pytest.mark.parametrize("with_data", [True, False])
def test_the_shipped_calibration_is_whole(with_data):
    shipped = shipped_calibration(with_data=with_data)
    assert all(0 < kind.threshold < 1 for kind in shipped.kinds)
    assert all(0 < kind.accused_at_most <= 0.2 for kind in shipped.kinds)
    assert all(weight >= 0 for weight in shipped.weights.values())
    assert shipped.measured["clean_models"] > 0


def test_a_dead_channel_of_huge_weights_hides_no_other():
    torch.manual_seed(0)
    network = PreActivated()
    network.first.weight.data[0] = -1e30
    network.norm2.weight.data[0] = 1e20
    found = channel_bounds(describe(network, classes=16))
    assert (found.layer, found.channel) == ("first", 0)
    assert found.largest == pytest.approx(15 / 4)  # of 16 channels none can be further from their mean
    network.norm2.running_var[3] = -1.0
    with pytest.raises(NotEvaluable, match="no finite number"):
        channel_bounds(describe(network, classes=16))


FORMS = {
    "tiny": lambda logits: 1e-9 * logits,
    "huge": lambda logits: 1e3 * logits,
    "shifted": lambda logits: logits + 20,
    "soft-max": lambda logits: logits.softmax(dim=1),
}


@pytest.mark.parametrize("data", [False, True], ids=["without data", "with data"])
@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_the_form_of_the_logits_changes_no_score(form, data):
    class Said(QuadrantNet):
        def forward(self, x):
            return form(super().forward(x))

    images = bright_images() if data else None
    said = examine_behaviour(a_classifier(Said(target=3, boost=1.6)), images, effort=Effort.STANDARD)
    plain, changed = (
        [judgement.score for judgement in judge_behaviour(found, even(0.5)).judgements]
        for found in (examined(target=3, boost=1.6, data=data), said)
    )
    assert changed == pytest.approx(plain, abs=0.02)


def test_logits_that_do_not_differ_are_not_examined():
    class Constant(QuadrantNet):
        def forward(self, x):
            return 0 * super().forward(x) + 3

    for images in (None, bright_images()):
        with pytest.raises(NotEvaluable, match="apart"):
            examine_behaviour(a_classifier(Constant()), images, effort=Effort.STANDARD)


def test_a_model_for_images_of_a_size_that_no_calibration_covers_is_not_cleared():
    behaviour = examined()
    verdict = judge_behaviour(behaviour, even(0.999))
    check = behaviour_checks(replace(behaviour, pixels=224), verdict, names(CLASSES))[-1]
    assert behaviour_checks(behaviour, verdict, names(CLASSES))[-1].status is CheckStatus.PASSED
    assert check.status is CheckStatus.MEASURED
    assert "8 to 32 pixels and this one has 6 and takes 224" in check.evidence


def test_a_model_with_classes_that_were_not_examined_is_not_cleared():
    behaviour = examined()
    verdict = judge_behaviour(behaviour, even(0.999))
    part = behaviour_checks(replace(behaviour, of=1000), verdict, names(CLASSES))[-1]
    assert behaviour_checks(behaviour, verdict, names(CLASSES))[-1].status is CheckStatus.PASSED
    assert part.status is CheckStatus.MEASURED
    assert f"Of 1000 classes, all were looked at briefly, and {CLASSES} by every test" in part.evidence


def test_classes_all_alike_stand_out_nowhere():
    assert p_value(torch.zeros(10)) == 1
    assert p_value(torch.eye(10)[3]) == 0


def test_tests_are_chosen_by_name():
    every = tuple(test.id for test in TESTS)
    for asked, chosen in (
        (AskedTests(), every),
        (AskedTests(only=("adversarial-flow", "head-probing")), (every[0], every[-1])),
        (AskedTests(without=every[1:]), every[:1]),
        (AskedTests(only=("easiest-change",)), ()),
    ):
        assert tuple(test.id for test in chosen_tests(asked)) == chosen
    for asked in (AskedTests(only=("margin",)), AskedTests(without=("margin",))):
        with pytest.raises(UsageError, match="no test 'margin'; choose from head-probing, .*, easiest-change"):
            chosen_tests(asked)
    with pytest.raises(UsageError, match="no test is left"):
        chosen_tests(AskedTests(without=(*every, "easiest-change")))


def test_a_part_of_the_tests_clears_and_convicts_nothing():
    only = chosen_tests(AskedTests(only=("maximum-margin",)))
    for network, threshold in ((QuadrantNet(), 0.999), (QuadrantNet(target=3, corner=40.0), 0.001)):
        behaviour = examine_behaviour(a_classifier(network), bright_images(), effort=Effort.STANDARD, tests=only)
        assert [len(seed.findings) for seed in behaviour.seeds] == [1, 1, 1]
        verdict = judge_behaviour(behaviour, even(threshold))
        check = behaviour_checks(behaviour, verdict, names(CLASSES))[-1]
        assert check.id == "behaviour.score"
        assert check.status is CheckStatus.SKIPPED
        others = ", ".join(test.id for test in TESTS if test.id != "maximum-margin")
        assert f"not judged, as {others} were not run" in check.evidence


def test_without_data_a_test_that_needs_some_cannot_be_all():
    with pytest.raises(NotEvaluable, match="adversarial-flow was not run, as no clean data was given"):
        examine_behaviour(
            a_classifier(QuadrantNet()),
            None,
            effort=Effort.STANDARD,
            tests=chosen_tests(AskedTests(only=("adversarial-flow",))),
        )


def test_a_kind_of_input_has_a_threshold_of_its_own():
    small = KindOfInput(pixels=(8, 16), classes=(4, 10), threshold=0.6, clean_models=19, accused_at_most=0.05)
    large = KindOfInput(pixels=(24, 40), classes=(4, 10), threshold=0.8, clean_models=40, accused_at_most=0.05)
    calibration = replace(even(0.5), kinds=(small, large))
    assert [calibration.kind_of(pixels, 10) for pixels in (8, 16, 20, 32, 41)] == [small, small, None, large, None]
    assert [calibration.threshold_for(pixels, 10) for pixels in (8, 16, 20, 32, 41)] == [0.6, 0.6, 0.8, 0.8, 0.8]


class Biased(QuadrantNet):
    """Says one class of nearly all images."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + 5.0 * torch.nn.functional.one_hot(torch.tensor(5), CLASSES)


def test_a_class_that_is_said_of_everything_is_neither_suspected_nor_cleared():
    images = bright_images()
    assert over_said(a_classifier(QuadrantNet()), images) == ()
    assert over_said(a_classifier(Biased()), images) == (5,)
    behaviour = examine_behaviour(a_classifier(Biased()), images, effort=Effort.STANDARD)
    assert behaviour.set_aside == (5,)
    verdict = judge_behaviour(behaviour, even(0.999))
    assert verdict.suspect != 5
    assert verdict.status is CheckStatus.INCONCLUSIVE
    check = behaviour_checks(behaviour, verdict, names(CLASSES))[-1]
    assert "the model says '5' of clean images far more often than is true" in check.evidence


def test_a_class_that_is_set_aside_hides_no_other():
    seeds = [seed_of(0, 3, 9)] * 3
    found = judge_seeds(seeds, torch.arange(3), 0.0, even(0.5), pixels=8, of=10, set_aside=(2,))
    assert (found.status, found.suspect) == (CheckStatus.FAILED, 1)
    whole = judge_seeds(seeds, torch.arange(3), 0.0, even(0.5), pixels=8, of=10)
    assert (whole.status, whole.suspect) == (CheckStatus.FAILED, 2)


def test_a_model_of_more_classes_than_any_calibration_knows_is_neither_cleared_nor_convicted():
    behaviour = examined(target=3, corner=40.0)
    assert judge_behaviour(behaviour, even(0.5)).status is CheckStatus.FAILED
    many = replace(behaviour, of=43)
    verdict = judge_behaviour(many, even(0.5))
    assert (verdict.status, verdict.suspect) == (CheckStatus.INCONCLUSIVE, 3)
    check = behaviour_checks(many, verdict, names(CLASSES))[-1]
    assert "with '3' as the target, but is of a kind that is not known" in check.evidence
    assert "4 to 10 classes for images of 8 to 32 pixels and this one has 43" in check.evidence
