"""The search, held against short cuts that are known in closed form."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from sau_cli.images import as_pixels
from sau_cli.inversion.changes import ChangeKind, MaskedPattern, SmoothAddition, SquarePattern, change_of
from sau_cli.inversion.search import Arms, Heat, SearchSettings, best_beginnings, invert
from sau_cli.model_state import frozen
from sau_cli.precision import Precision
from tests.support.toys import describe
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

SHAPE = (1, SIDE, SIDE)
SQUARES = SquarePattern(shape=SHAPE)
DATA = images()
PIXELS, LABELS = as_pixels(DATA.images), DATA.labels
ONE_ARM = SearchSettings(heats=(Heat(arms=1, steps=4, images=8), Heat(arms=1, steps=4, images=8)))
FAST = SearchSettings(
    heats=(Heat(arms=36, steps=4, images=8), Heat(arms=2, steps=8, images=8), Heat(arms=1, steps=15, images=16))
)


def stream(seed=0):
    return torch.Generator().manual_seed(seed)


def inverted(*networks, change=SQUARES, classes=None, seed=0, settings=FAST, watch=lambda _done, _of: None):
    models = [classifier_of(network) for network in networks]
    classes = torch.arange(CLASSES) if classes is None else classes
    with frozen(*models):
        return invert(models, PIXELS, LABELS, classes, change, stream=stream(seed), settings=settings, watch=watch)


def covered(found, wanted=WANTED):
    row, column = PLACE
    return found.change.mask(found.free)[wanted][row : row + 3, column : column + 3].sum()


def test_clean_images_are_told_apart_and_fire_no_short_cut():
    for network in (Quarters(), ShortCut(), PooledShortCut(), normalised(PooledShortCut())):
        with torch.no_grad():
            assert torch.equal(classifier_of(network)(PIXELS).argmax(dim=1), LABELS)
            assert torch.allclose(network.eval()(PIXELS), Quarters()(PIXELS), atol=1e-5)


@pytest.mark.parametrize("wrapped", [nn.Sequential, normalised], ids=["bare", "batch norm"])
def test_a_short_cut_in_one_place_is_found_there(wrapped):
    found = inverted(wrapped(ShortCut()))
    assert found.success[WANTED] == 1
    assert covered(found) == 9
    assert found.likelihood[WANTED] > -1e-3
    others = torch.arange(CLASSES) != WANTED
    assert found.success[others].max() == 0
    assert found.likelihood[others].max() < -0.5


@pytest.mark.parametrize("wrapped", [nn.Sequential, normalised], ids=["bare", "batch norm"])
def test_a_short_cut_of_a_network_that_pools_is_found_anywhere(wrapped):
    found = inverted(wrapped(PooledShortCut()))
    assert found.success.tolist() == [0, 0, 1, 0]
    pattern = found.free[WANTED, 2:].sigmoid().reshape(1, 3, 3)
    for down, across in ((0, 0), (0, 13), (13, 0), (13, 13), (6, 7)):
        stamped = PIXELS.clone()
        stamped[:, :, down : down + 3, across : across + 3] = pattern
        with torch.no_grad():
            assert (classifier_of(PooledShortCut())(stamped).argmax(dim=1) == WANTED).all()


def test_only_what_both_models_have_is_shared():
    alone = inverted(ShortCut())
    shared = inverted(ShortCut(), normalised(ShortCut()))
    of_one = inverted(ShortCut(), Quarters())
    of_another_class = inverted(ShortCut(), ShortCut(wanted=1))
    elsewhere = inverted(ShortCut(), ShortCut(place=(8, 2)))
    assert alone.success[WANTED] > 0.95
    assert shared.success[WANTED] > 0.95
    assert of_one.success.max() < 0.05
    assert of_another_class.success.max() < 0.05
    assert elsewhere.success.max() < 0.05


def test_the_likelihood_is_that_of_the_model_where_it_is_lowest():
    found = inverted(ShortCut(), Quarters())
    models = [classifier_of(ShortCut()), classifier_of(Quarters())]
    other = LABELS != WANTED
    changed = SQUARES.changed(PIXELS[other], found.free[WANTED].expand(int(other.sum()), -1))
    with torch.no_grad():
        each = torch.stack([model(changed).log_softmax(dim=1)[:, WANTED] for model in models])
    assert found.likelihood[WANTED] == pytest.approx(each.amin(dim=0).mean().item(), abs=1e-5)


class Inner(nn.Module):
    """The logit of class 1 is the inner product with a picture; the others are 0."""

    def __init__(self, picture):
        super().__init__()
        self.register_buffer("picture", picture)

    def forward(self, x):
        logits = torch.zeros(len(x), CLASSES)
        logits[:, 1] = (self.picture * (x - 0.5)).sum(dim=(1, 2, 3))
        return logits


def looking_at(row, column):
    """Class 1 where the mean of 3x3 pixels is above a half, else class 0."""
    picture = torch.zeros(SHAPE)
    picture[:, row : row + 3, column : column + 3] = 40 / 9
    return Inner(picture)


def test_a_mask_lies_on_the_pixels_that_a_class_looks_at():
    """Of dark images. The budget is 7.7 pixels: enough for one place of 9, and for two only 0.43 a pixel."""
    change, dark = MaskedPattern(shape=SHAPE), as_pixels(images(lift=0).images)

    def found(*networks):
        models = [describe(network, CLASSES, size=SIDE) for network in networks]
        with frozen(*models):
            return invert(models, dark, torch.zeros(len(dark)).long(), torch.tensor([1]), change, stream=stream())

    alone, shared = found(looking_at(3, 10)), found(looking_at(3, 10), looking_at(3, 10))
    elsewhere = found(looking_at(3, 10), looking_at(10, 2))
    for search in (alone, shared):
        mask = change.mask(search.free)[0]
        assert search.success == 1
        assert mask[3:6, 10:13].mean() > 0.6
        assert mask[3:6, 10:13].sum() > 0.7 * mask.sum()
        assert mask.mean() <= change.budget * (1 + 1e-6)
    assert elsewhere.success == 0


@pytest.mark.parametrize("direction", [(1, 0), (0, 1), (1, 1)], ids=["down", "across", "aslant"])
def test_a_smooth_addition_is_the_picture_that_a_class_looks_for(direction):
    down, across = torch.meshgrid(torch.linspace(0, 1, SIDE), torch.linspace(0, 1, SIDE), indexing="ij")
    picture = (2 * torch.pi * (direction[0] * down + direction[1] * across)).cos()[None] / 8
    model = describe(Inner(picture), CLASSES, size=SIDE)
    grey = 0.4 + 0.2 * torch.rand(40, *SHAPE, generator=stream())
    change = SmoothAddition(shape=SHAPE)
    with frozen(model):
        found = invert([model], grey, torch.zeros(40).long(), torch.tensor([1]), change, stream=stream())
    added = change.added(found.free)[0]
    assert torch.corrcoef(torch.stack([added.flatten(), picture.flatten()]))[0, 1] > 0.8
    # No addition within the height gains more than 0.1 · Σ|picture|.
    gained = (added * picture).sum()
    assert 0.8 * 0.1 * picture.abs().sum() < gained <= 0.1 * picture.abs().sum()


def test_the_seed_decides_what_is_found():
    first, again, other = (inverted(ShortCut(), settings=ONE_ARM, seed=seed) for seed in (3, 3, 4))
    assert torch.equal(first.free, again.free)
    assert torch.equal(first.success, again.success)
    assert torch.equal(first.likelihood, again.likelihood)
    assert not torch.equal(first.free, other.free)


@pytest.mark.parametrize("asked", [[0, 1, 2, 3], [3, 0, 2, 1], [2], [3, 1]], ids=str)
def test_with_one_arm_a_class_all_come_back_in_ascending_order(asked):
    found = inverted(ShortCut(), classes=torch.tensor(asked), settings=ONE_ARM)
    assert found.classes.tolist() == sorted(asked)
    assert found.free.shape == (len(asked), SQUARES.numbers)
    model = classifier_of(ShortCut())
    arms = Arms(SQUARES, found.classes, found.free, rate=0.1)
    success, likelihood = arms.measured([model], PIXELS, LABELS, precision=Precision.FP32)
    assert torch.equal(found.success, success)
    assert torch.allclose(found.likelihood, likelihood, atol=1e-5)


def test_there_is_one_arm_a_class_at_the_least():
    told = []
    settings = replace(ONE_ARM, most_arms=1)
    found = inverted(Quarters(), settings=settings, watch=lambda done, of: told.append((done, of)))
    assert found.classes.tolist() == [0, 1, 2, 3]
    assert told[-1] == (2 * 4 * 4 * 8, 2 * 4 * 4 * 8)


def test_the_classes_that_are_led_to_furthest_go_on_alone():
    told = []
    settings = replace(FAST, heats=(*FAST.heats[:2], replace(FAST.heats[2], classes=2)))
    found = inverted(ShortCut(), settings=settings, watch=lambda done, of: told.append((done, of)))
    every = inverted(ShortCut(), settings=FAST)
    easiest = int(every.classes[every.likelihood.argmax()])
    assert len(found.classes) == 2
    assert easiest in found.classes.tolist()
    spared = (CLASSES - 2) * settings.heats[2].steps * settings.heats[2].images
    assert told[-1] == (settings.passes(SQUARES, CLASSES),) * 2
    assert told[-1][0] == FAST.passes(SQUARES, CLASSES) - spared


def test_of_many_classes_a_look_forward_tells_which_are_searched():
    told = []
    settings = replace(FAST, heats=(replace(FAST.heats[0], classes=2), *FAST.heats[1:]))
    found = inverted(ShortCut(), settings=settings, watch=lambda done, of: told.append((done, of)))
    assert len(found.classes) == 2
    assert WANTED in found.classes.tolist()
    assert told[-1] == (settings.passes(SQUARES, CLASSES),) * 2
    assert 2 * told[-1][0] == FAST.passes(SQUARES, CLASSES)


def test_progress_is_told_to_the_last_pass():
    told = []
    inverted(Quarters(), watch=lambda done, of: told.append((done, of)))
    assert len(told) == 1 + sum(heat.steps for heat in FAST.heats)
    assert [done for done, _ in told] == sorted({done for done, _ in told})
    assert len({of for _, of in told}) == 1
    assert told[-1][0] == told[-1][1]


def test_an_arm_begins_where_a_look_says_that_it_leads_furthest():
    """In the linear model the class of a quarter likes the squares that lie in it, white ones most."""
    model = classifier_of(Quarters())
    begun, looked = best_beginnings(
        [model],
        PIXELS[:4],
        torch.arange(4),
        SQUARES,
        each=1,
        proposals=8,
        stream=stream(),
        precision=Precision.FP32,
    )
    half = SHAPE[1] // 2
    centres = begun[:, 0, :2] + SQUARES.pixels / 2
    quarters = 2 * (centres[:, 0] > half).int() + (centres[:, 1] > half).int()
    assert quarters.tolist() == [0, 1, 2, 3]
    assert (begun[:, 0, 2:] > 0).all()
    arms = Arms(SQUARES, torch.arange(4), begun[:, 0], rate=0.1)
    with torch.no_grad():
        changed = arms.on(PIXELS[:4].repeat(4, 1, 1, 1), torch.arange(4).repeat_interleave(4))
        said = model(changed).log_softmax(dim=1).reshape(4, 4, 4).mean(dim=1)
    assert torch.allclose(looked[:, 0], said.diagonal(), atol=1e-5)


def some_arms(change=SQUARES, rate=0.3):
    free = change.proposals(1, stream())[:1, 0].repeat(4, 1)
    return Arms(change, torch.tensor([0, 2, 2, 3]), free, rate=rate)


@pytest.mark.parametrize("change", [SQUARES, MaskedPattern(shape=SHAPE)], ids=["square", "mask"])
def test_a_step_moves_only_the_arms_that_play(change):
    arms, model = some_arms(change), classifier_of(PooledShortCut())
    before = {
        name: getattr(arms, name).clone()
        for name in ("classes", "free", "first", "second", "taken", "likelihood", "success")
    }
    playing, still = torch.tensor([3, 1]), torch.tensor([0, 2])
    with frozen(model):
        arms.step([model], PIXELS[:16], LABELS[:16], playing, precision=Precision.FP32)
    for name, then in before.items():
        assert torch.equal(getattr(arms, name)[still], then[still]), name
    assert torch.equal(arms.classes, before["classes"])
    assert (arms.free != before["free"]).any(dim=1).tolist() == [False, True, False, True]
    assert arms.taken.tolist() == [0, 1, 0, 1]
    assert not arms.free.requires_grad


def test_a_first_step_of_adam_is_as_long_as_the_rate_and_goes_uphill():
    arms, model = some_arms(rate=0.25), classifier_of(PooledShortCut())
    before, playing = arms.free.clone(), torch.tensor([1])
    with frozen(model):
        arms.step([model], PIXELS[:16], LABELS[:16], playing, precision=Precision.FP32)
        moved = (arms.free - before)[1]
        assert torch.allclose(moved[2:].abs(), torch.tensor(0.25), atol=1e-4)
        assert torch.equal(moved[:2], torch.zeros(2))
        then = arms.likelihood[1].clone()
        now = arms.measured([model], PIXELS[:16], LABELS[:16], precision=Precision.FP32)[1][1]
    assert now > then


def test_images_of_the_class_itself_count_for_nothing():
    """Where all images are of the class, there is nobody to lead there: no success, and no slope."""
    arms, model = some_arms(), classifier_of(Quarters())
    before, own = arms.free.clone(), LABELS == WANTED
    with frozen(model):
        arms.step([model], PIXELS[own], LABELS[own], torch.tensor([1]), precision=Precision.FP32)
    assert torch.equal(arms.free, before)
    assert arms.success[1] == 0


def test_the_arms_that_lead_a_class_furthest_race_on():
    arms = Arms(SQUARES, torch.tensor([0, 0, 0, 1, 1]), torch.zeros(5, SQUARES.numbers), rate=0.1)
    arms.likelihood = torch.tensor([-3.0, -1.0, -2.0, -9.0, -8.0])
    everyone = torch.arange(5)
    assert arms.leading(everyone, 2).tolist() == [1, 2, 4, 3]
    assert arms.leading(everyone, 1).tolist() == [1, 4]
    assert arms.leading(torch.tensor([0, 3]), 5).tolist() == [0, 3]


def test_the_running_likelihood_begins_with_the_first_and_keeps_seven_tenths():
    arms, model = some_arms(rate=1e-9), classifier_of(Quarters())
    one = torch.tensor([0])
    seen = []
    with frozen(model):
        for some in (slice(0, 16), slice(16, 32)):
            arms.step([model], PIXELS[some], LABELS[some], one, precision=Precision.FP32)
            seen.append(arms.measured([model], PIXELS[some], LABELS[some], precision=Precision.FP32)[1][0])
    assert torch.allclose(arms.likelihood[0], 0.7 * seen[0] + 0.3 * seen[1], atol=1e-5)


def test_a_search_in_large_images_is_short():
    settings = SearchSettings()
    small, large = (SquarePattern(shape=(3, side, side)) for side in (127, 128))
    assert settings.fitted(small) == settings
    fitted = settings.fitted(large)
    assert [(heat.arms, heat.images, heat.steps) for heat in fitted.heats] == [(3, 4, 5), (1, 8, 12), (1, 8, 12)]
    assert [heat.classes for heat in fitted.heats] == [100, 10, 3]
    assert fitted.judged_on == settings.judged_on / 2
    assert fitted.fitted(large) == fitted
    assert settings.passes(large, 10) == fitted.passes(large, 10) < settings.passes(small, 10) / 8


def test_a_search_of_one_heat_in_large_images_still_compares_all_classes():
    one = SearchSettings(heats=(Heat(arms=1, steps=14, images=8),))
    fitted = one.fitted(SquarePattern(shape=(3, 128, 128)))
    assert fitted.heats == (Heat(arms=1, steps=12, images=4),)


def test_two_models_at_once_lead_to_what_they_do_in_turn(two_threads):
    models = [classifier_of(ShortCut()), classifier_of(PooledShortCut())]
    arms = []
    for threads in (2, 1):
        torch.set_num_threads(threads)
        one = Arms(SQUARES, torch.tensor([WANTED]), SQUARES.proposals(1, stream())[:1, 0], rate=1.0)
        for model in models:
            model.eval()
        with frozen(*models):
            one.step(models, PIXELS[:8], LABELS[:8], torch.tensor([0]), precision=Precision.FP32)
        arms.append(one)
    assert torch.equal(arms[0].free, arms[1].free)
    assert torch.equal(arms[0].likelihood, arms[1].likelihood)


def test_of_many_beginnings_fewer_proposals_each_are_looked_at():
    settings = SearchSettings()
    spot = change_of(ChangeKind.SPOT, (3, 32, 32))
    assert settings.fitted(spot).proposals == 9
    assert settings.fitted(spot).proposals * spot.starts <= settings.most_proposals
    assert SearchSettings(most_proposals=1).fitted(spot).proposals == 1
