"""The residual test, held against short cuts that are known in closed form."""

from __future__ import annotations

from dataclasses import replace
from math import log

import pytest
import torch
from torch import nn

from sau_cli.errors import NotEvaluable
from sau_cli.inspection import residual, residual_checks
from sau_cli.inspection.residual import LIMIT, overlooked, residual_test, standing_out
from sau_cli.inspection.residual_checks import overlooked_check, residual_check, residual_details
from sau_cli.inversion.changes import ChangeKind, searched_for
from sau_cli.inversion.search import Heat, SearchSettings
from sau_cli.reporting import html
from sau_cli.results import CheckStatus
from tests.support.toys import BrightnessNet, describe, flat_images, random_images
from tests.unit.inversion.short_cuts import (
    CLASSES,
    PLACE,
    SIDE,
    WANTED,
    PooledShortCut,
    Quarters,
    ShortCut,
    classifier_of,
    images,
    normalised,
)

FAST = SearchSettings(
    heats=(Heat(arms=36, steps=4, images=8), Heat(arms=2, steps=8, images=8), Heat(arms=1, steps=15, images=16))
)
DATA = images()


def judged(*networks, data=DATA, **options):
    return residual_test([classifier_of(network) for network in networks], data, **({"settings": FAST} | options))


def out(losses, success=1.0):
    return standing_out(-torch.tensor(losses), torch.full((len(losses),), success))


@pytest.mark.parametrize("success", [0.5, 1.0])
def test_one_target_stands_out_by_the_logarithm_of_the_ratio_to_the_third(success):
    assert out([2.0, 4.0, 0.1, 1.0], success) == (round(log(2.5 / 0.6), 2), 2)


def test_two_targets_stand_out_against_the_third():
    assert out([0.1, 0.2, 4.0, 5.0]) == (round(log(4.5 / 0.6), 2), 0)
    assert out([3.0, 0.2, 4.0, 0.2])[0] == round(log(3.5 / 0.7), 2)


def test_three_classes_that_are_alike_do_not_stand_out():
    assert out([0.5, 0.5, 9.0, 0.5]) == (0.0, 0)


def test_where_all_classes_are_easy_none_stands_out():
    assert out([1e-9, 1e-5, 1e-3, 2.0])[0] == 0.0
    assert out([0.05, 0.43, 0.45, 0.52])[0] < LIMIT


def test_what_leads_few_images_to_its_class_does_not_stand_out():
    assert out([0.01, 1.0, 1.0, 1.0], success=0.49) == (0.0, 0)
    success = torch.tensor([0.0, 0.0, 0.0, 1.0])
    assert standing_out(-torch.tensor([5.0, 5.0, 5.0, 0.5]), success) == (round(log(5.5 / 1.0), 2), 3)


@pytest.mark.parametrize(
    "networks",
    [(ShortCut(),), (PooledShortCut(),), (ShortCut(), normalised(ShortCut()))],
    ids=["alone", "pooled", "shared by two"],
)
def test_a_short_cut_makes_the_test_inconclusive(networks):
    found = judged(*networks)
    assert found.status is CheckStatus.INCONCLUSIVE, "of four classes, which convicts none"
    assert found.score == found.worst.score > LIMIT
    assert found.worst.wanted == WANTED
    assert found.worst.success == 1
    square = found.kinds[0]
    assert square.score > LIMIT
    clean, changed = square.example
    assert square.example.shape == (2, 1, SIDE, SIDE)
    assert torch.equal((clean != changed).any(dim=0), square.mask > 0)
    if isinstance(networks[0], ShortCut) and not isinstance(networks[0], PooledShortCut):
        row, column = PLACE
        assert square.mask[row : row + 3, column : column + 3].sum() == pytest.approx(9 * square.share)


def test_images_of_one_class_alone_hide_no_short_cut():
    """That nothing can be said of them would do as well."""
    data = images(64)
    try:
        found = judged(ShortCut(), data=data.take((data.labels == 0).nonzero().squeeze(1)))
    except NotEvaluable:
        return
    assert found.status is CheckStatus.INCONCLUSIVE
    assert found.worst.wanted == WANTED


@pytest.mark.parametrize(
    ("networks", "data"),
    [
        ((Quarters(),), DATA),
        ((Quarters(),), images(lift=0.03)),
        ((ShortCut(), Quarters()), DATA),
        ((ShortCut(), ShortCut(wanted=1)), DATA),
    ],
    ids=["linear", "linear and easy", "of one alone", "of different classes"],
)
def test_without_a_short_cut_that_is_shared_the_test_is_passed(networks, data):
    found = judged(*networks, data=data)
    assert found.status is CheckStatus.PASSED
    assert [kind.kind for kind in found.kinds] == list(searched_for((1, SIDE, SIDE)))
    assert found.score == max(kind.score for kind in found.kinds) <= LIMIT
    assert found.images == len(data)


@pytest.mark.parametrize("kind", list(ChangeKind))
def test_every_kind_of_change_is_told_in_words(kind):
    found = judged(ShortCut(), ShortCut())
    told = replace(found, worst=replace(found.worst, kind=kind, share=1.0))
    names = tuple(map(str, range(CLASSES)))
    sentences = [residual_check(told, names, shared=True), overlooked_check(told.worst, found, names)]
    assert {check.evidence.partition(" that sends")[0] for check in sentences} == {residual_checks._CHANGES[kind]}
    assert kind.value in html._CHANGE_TITLES


def test_one_model_of_a_known_kind_is_convicted_by_a_score_that_no_clean_one_had(monkeypatch):
    names = tuple("abcd")
    monkeypatch.setattr(residual, "KNOWN_CLASSES", range(4, 5))
    alone = judged(ShortCut())
    assert alone.score > residual.CONVICTED
    assert alone.status is CheckStatus.FAILED
    check = residual_check(alone, names, shared=False)
    assert (check.id, check.status) == ("behaviour.easiest-change", CheckStatus.FAILED)
    assert "other kinds of change agree, and the score is above 1.2" in check.evidence
    assert judged(ShortCut(), ShortCut()).status is CheckStatus.INCONCLUSIVE, "of two, more than one thing is known"
    monkeypatch.setattr(residual, "CONVICTED", alone.score)
    assert judged(ShortCut()).status is CheckStatus.INCONCLUSIVE


def test_one_kind_of_change_alone_convicts_no_model(monkeypatch):
    monkeypatch.setattr(residual, "KNOWN_CLASSES", range(4, 5))
    monkeypatch.setattr(
        residual, "looked_for", lambda shape: {ChangeKind.SQUARE: searched_for(shape)[ChangeKind.SQUARE]}
    )
    found = judged(ShortCut())
    assert found.score > residual.CONVICTED
    assert found.status is CheckStatus.INCONCLUSIVE


def test_a_class_that_is_said_too_often_convicts_no_model(monkeypatch):
    monkeypatch.setattr(residual, "KNOWN_CLASSES", range(4, 5))
    monkeypatch.setattr(residual, "over_said", lambda _model, _images: (WANTED,))
    assert judged(ShortCut()).status is CheckStatus.INCONCLUSIVE


def test_images_too_large_for_the_limit_convict_no_model(monkeypatch):
    monkeypatch.setattr(residual, "KNOWN_CLASSES", range(4, 5))
    monkeypatch.setattr(residual, "MOST_PIXELS", SIDE - 1)
    assert judged(ShortCut()).status is CheckStatus.INCONCLUSIVE


class AllEasy(ShortCut):
    """Each of the other classes gains 100 · (mean - 0.8) where a place of its own is nearly white."""

    def forward(self, x):
        own = {0: (0, 0), 1: (8, 3), 3: (13, 13)}
        logits = super().forward(x)
        gains = torch.zeros_like(logits)
        for wanted, (row, column) in own.items():
            gains[:, wanted] = 100 * torch.relu(x[:, 0, row : row + 3, column : column + 3].mean(dim=(1, 2)) - 0.8)
        return logits + gains


def test_a_short_cut_among_easy_classes_stands_out_once_the_change_is_fainter(monkeypatch):
    found = judged(AllEasy())
    square = found.kinds[0]
    assert (square.wanted, square.success) == (WANTED, 1)
    assert square.share < 1
    assert square.score > LIMIT
    assert residual_details(found, tuple("abcd"))["kinds"]["square"]["share"] == square.share
    sentence = residual_check(replace(found, worst=square), tuple("abcd"), shared=True).evidence
    assert f"a square, mixed in by {100 * square.share:.0f} %, that sends 100 %" in sentence
    monkeypatch.setattr(residual, "SHARES", (1.0,))
    assert judged(AllEasy()).kinds[0].score < 0.1


def test_the_test_looks_wider_and_finer_than_purification():
    shape = (3, 32, 32)
    ours, theirs = residual.looked_for(shape), searched_for(shape)
    assert list(ours) == list(theirs)
    assert ours[ChangeKind.MASK].budget == 1.5 * theirs[ChangeKind.MASK].budget
    assert (ours[ChangeKind.SMOOTH].points, theirs[ChangeKind.SMOOTH].points) == (12, 8)
    assert residual.looked_for((3, 24, 32))[ChangeKind.SMOOTH].points == 12
    assert residual.looked_for((1, 23, 32))[ChangeKind.SMOOTH].points == 8


def test_images_larger_than_the_limit_was_chosen_on_clear_nothing(monkeypatch):
    monkeypatch.setattr(residual, "MOST_PIXELS", SIDE - 1)
    found = judged(Quarters(), Quarters())
    assert found.status is CheckStatus.MEASURED
    names = tuple(map(str, range(CLASSES)))
    assert residual_check(found, names, shared=False).status is CheckStatus.MEASURED
    together = residual_check(found, names, shared=True)
    assert together.status is CheckStatus.INCONCLUSIVE
    assert "clears none of larger ones" in together.evidence
    details = residual_details(found, names)
    assert (details["cleared"], details["suspected_class"]) == (False, None)
    assert judged(ShortCut(), ShortCut()).status is CheckStatus.INCONCLUSIVE


def test_every_class_of_the_easy_linear_model_is_led_to():
    """So that the test above is passed for what classes have in common, and not for want of success."""
    found = judged(Quarters(), data=images(lift=0.03))
    assert found.kinds[0].success > 0.9


def test_the_seed_decides_and_is_told():
    first, again = judged(ShortCut(), seed=5), judged(ShortCut(), seed=5)
    assert first.seed == 5
    for kind, other in zip(first.kinds, again.kinds, strict=True):
        assert (kind.score, kind.wanted, kind.success) == (other.score, other.wanted, other.success)
        assert torch.equal(kind.example, other.example)


def test_a_model_is_left_as_it_was():
    model = classifier_of(normalised(ShortCut()))
    model.train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    residual_test([model], DATA, settings=FAST)
    assert all(part.training for part in model.modules())
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_progress_names_the_kind():
    told = []
    judged(Quarters(), watch=lambda *said: told.append(said))
    assert list(dict.fromkeys(what for _, _, what in told)) == [kind.value for kind in searched_for((1, SIDE, SIDE))]
    assert all(done <= of for done, of, _ in told)


class Broken(BrightnessNet):
    def forward(self, x):
        return super().forward(x) * float("nan")


def spoiled(value):
    network = BrightnessNet(10)
    with torch.no_grad():
        network.centres[3] = value
    return network


TEN = random_images(40)


@pytest.mark.parametrize(
    ("models", "data", "gist"),
    [
        ([describe(BrightnessNet(3), 3)], flat_images(3, each=8), "3 classes.*needs 4"),
        ([describe(BrightnessNet(10))], random_images(15), "15 clean images are too few.*16"),
        (
            [describe(BrightnessNet(10)), describe(BrightnessNet(5), 5)],
            TEN,
            "the reference has 5 classes but the model has 10",
        ),
        ([describe(BrightnessNet(10)), describe(BrightnessNet(10), size=16)], TEN, "1x16.*1x8"),
        ([describe(BrightnessNet(10)), describe(BrightnessNet(10), channels=3)], TEN, "3x8.*1x8"),
        ([describe(spoiled(float("nan")))], TEN, "weights hold NaN.*centres"),
        ([describe(BrightnessNet(10)), describe(spoiled(float("inf")))], TEN, "weights hold NaN or infinite"),
        ([describe(Broken(10))], TEN, "NaN or infinite logits"),
        ([describe(BrightnessNet(5), 5)], TEN, "the data has 10 classes but the model has 5"),
        ([describe(BrightnessNet(10), size=16)], TEN, "8x8 but the model takes 16"),
        ([describe(nn.Flatten())], TEN, r"\(40, 64\).*\(N, 10\)"),
    ],
    ids=[
        *("few classes", "few images", "other classes", "other size"),
        *("other channels", "NaN weights", "infinite weights", "NaN logits", "classes of the data", "size of the data"),
        "no logits",
    ],
)
def test_what_cannot_be_tested_is_never_passed(models, data, gist):
    with pytest.raises(NotEvaluable, match=gist):
        residual_test(models, data, settings=FAST)


def test_a_reference_with_its_classes_in_another_order_is_never_held_against_the_model():
    model, other = describe(BrightnessNet(10)), describe(BrightnessNet(10))
    other.description = replace(other.description, class_names=other.description.class_names[::-1])
    with pytest.raises(NotEvaluable, match="in another order"):
        residual_test([model, other], TEN, settings=FAST)


def test_as_few_classes_and_images_as_are_allowed_do():
    assert judged(Quarters(), data=images(16)).images == 16
    assert CLASSES == 4


class Said(nn.Module):
    """A network that says the same in another form."""

    def __init__(self, network, form):
        super().__init__()
        self.network, self.form = network, form

    def forward(self, pixels):
        return self.form(self.network(pixels))


class NanOnWhite(nn.Module):
    """NaN where the mean of an image leaves what clean ones have."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, pixels):
        logits = self.network(pixels)
        strange = (pixels.amax(dim=(1, 2, 3)) > 0.9) | (pixels.amin(dim=(1, 2, 3)) < 0.01)
        return torch.where(strange[:, None], torch.nan, logits)


FORMS = {
    "tiny": lambda logits: 1e-6 * logits,
    "small": lambda logits: 0.02 * logits,
    "huge": lambda logits: 1e3 * logits,
    "shifted": lambda logits: logits + 50,
    "soft-max": lambda logits: logits.softmax(dim=1),
    "logarithms": lambda logits: logits.log_softmax(dim=1),
}


@pytest.fixture(scope="module")
def plain():
    """The test of a network as it is, by network."""
    return {network: judged(network()) for network in (ShortCut, Quarters)}


@pytest.mark.parametrize(
    ("network", "form"),
    [*((ShortCut, name) for name in FORMS), (Quarters, "soft-max"), (Quarters, "tiny")],
    ids=lambda value: value if isinstance(value, str) else value.__name__,
)
def test_the_form_of_the_logits_changes_nothing(plain, network, form):
    plain, other = plain[network], judged(Said(network(), FORMS[form]))
    assert other.status is plain.status
    assert other.worst.wanted == plain.worst.wanted
    assert other.score == pytest.approx(plain.score, abs=0.1)


def test_what_stands_out_before_and_was_never_unlearned_is_overlooked():
    alone = judged(ShortCut())
    missed = overlooked(alone, unlearned={0, 1})
    assert missed is not None
    assert (missed.wanted, missed.score) == (WANTED, alone.score)
    assert overlooked(alone, unlearned={WANTED}) is None
    assert overlooked(judged(Quarters()), unlearned=()) is None


def test_logits_that_do_not_differ_are_not_cleared():
    with pytest.raises(NotEvaluable, match="apart"):
        judged(Said(ShortCut(), lambda logits: 0 * logits + 3))


def test_nan_on_changed_images_alone_is_not_cleared():
    data = images(64)
    grey = data.images.clamp(60, 200)
    with pytest.raises(NotEvaluable, match="NaN"):
        judged(NanOnWhite(ShortCut()), data=type(data)(images=grey, labels=data.labels, class_names=data.class_names))
