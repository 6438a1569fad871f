"""Which triggers are inverted and at work while they are unlearned, on short cuts that are known in closed form."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from sau_cli.images import as_pixels
from sau_cli.inversion.changes import SEARCHED, ChangeKind, SmoothAddition, SquarePattern
from sau_cli.inversion.search import Arms, Inverted
from sau_cli.model_state import frozen
from sau_cli.precision import Precision
from sau_cli.unlearning.draws import draws_needed, read_draws
from sau_cli.unlearning.inverted_triggers import InvertedTriggers, Round, Suspect, rounds_at, standing_out
from sau_cli.unlearning.recipes import DEFAULT
from sau_cli.unlearning.search_space import aimed, drawn_space, patches
from tests.unit.inversion.short_cuts import (
    CLASSES,
    PLACE,
    SIDE,
    WANTED,
    Quarters,
    ShortCut,
    classifier_of,
    images,
)

SHAPE = (1, SIDE, SIDE)
DATA = images()
PIXELS, LABELS = as_pixels(DATA.images), DATA.labels
RECIPE = replace(DEFAULT, epochs=10, trigger_rounds=2, trigger_until=0.6)


def stream(seed=0):
    return torch.Generator().manual_seed(seed)


def leaking():
    """With a little slope below the threshold, so that unlearning has something to go by."""
    return ShortCut(leak=0.02)


def triggers_of(received, purified, recipe=RECIPE):
    return InvertedTriggers(classifier_of(received), classifier_of(purified), DATA, recipe)


def searched(triggers, epoch, seed=0):
    with frozen(triggers.received, triggers.purified):
        triggers.search(epoch, stream(seed), Precision.FP32, lambda _how_far: None)
    return triggers


def moved(triggers, count=8):
    with frozen(triggers.received, triggers.purified):
        return triggers.changed(PIXELS[:count], LABELS[:count], precision=Precision.FP32)


def squares(*classes, places=None):
    """Arms of squares for these classes."""
    change = SquarePattern(shape=SHAPE)
    free = 0.5 * torch.randn(len(classes), change.numbers, generator=stream())
    free[:, :2] = torch.tensor(places or [PLACE] * len(classes))
    return Arms(change, torch.tensor(classes), free, rate=0.2)


def smooth_arms():
    return Arms(SmoothAddition(shape=SHAPE), torch.tensor([1]), torch.randn(1, 64, generator=stream()), rate=0.2)


@pytest.mark.parametrize(
    ("epochs", "rounds", "until", "at"),
    [
        (10, 1, 0.6, (1,)),
        (10, 2, 0.6, (1, 4)),
        (10, 3, 0.6, (1, 3, 5)),
        (100, 4, 1.0, (1, 26, 51, 76)),
        (10, 2, 0.0, (1,)),
        (1, 5, 1.0, (1,)),
        (3, 9, 1.0, (1, 2, 3)),
        (10, 0, 0.6, ()),
    ],
)
def test_rounds_begin_with_the_first_epoch_and_are_spread_evenly(epochs, rounds, until, at):
    assert rounds_at(epochs, rounds, until) == at


def test_no_round_comes_after_the_last_epoch_of_the_purge():
    for epochs in (1, 3, 7, 10, 40):
        for rounds in (1, 2, 4, 10):
            for until in (0.05, 0.2, 0.35, 0.6, 1.0):
                recipe = replace(RECIPE, epochs=epochs, trigger_rounds=rounds, trigger_until=until)
                triggers = triggers_of(Quarters(), Quarters(), recipe)
                assert max(triggers.at) <= triggers.last, (epochs, rounds, until)


def inverted_with(losses, success):
    change = SquarePattern(shape=(1, 4, 4))
    return Inverted(
        change=change,
        classes=torch.arange(len(losses)) + 5,
        free=torch.arange(len(losses))[:, None].expand(-1, change.numbers).float(),
        success=torch.tensor(success),
        likelihood=-torch.tensor(losses),
    )


@pytest.mark.parametrize(
    ("losses", "success", "wanted"),
    [
        ([1.0, 0.1, 3.0], [0.0, 1.0, 0.0], [6]),
        ([0.19, 0.1, 0.21], [1.0, 1.0, 1.0], [5, 6]),
        ([0.001, 0.019, 0.021], [1.0, 1.0, 1.0], [5, 6]),
        ([0.1, 0.1, 0.1], [0.89, 0.9, 0.91], [7]),
        ([1.0, 1.0, 1.0], [0.1, 0.2, 0.3], []),
    ],
    ids=["one", "near", "surely", "too few images", "none"],
)
def test_those_that_come_near_the_surest_class_stand_out_with_it(losses, success, wanted):
    found = standing_out(ChangeKind.SQUARE, inverted_with(losses, success), least=0.905)
    assert [suspect.wanted for suspect, _ in found] == [label for label in wanted if success[label - 5] >= 0.905]
    for suspect, free in found:
        assert suspect.kind is ChangeKind.SQUARE
        assert suspect.success == pytest.approx(success[suspect.wanted - 5])
        assert (free == suspect.wanted - 5).all()


def test_the_first_round_finds_the_class_that_a_short_cut_leads_to():
    triggers = searched(triggers_of(leaking(), Quarters()), 1)
    (made,) = triggers.rounds
    assert made.epoch == 1
    assert Suspect(kind=ChangeKind.SQUARE, wanted=WANTED, success=1.0) in made.suspects
    assert {suspect.wanted for suspect in made.suspects} == {WANTED}
    square = triggers.arms[ChangeKind.SQUARE]
    assert square.classes.tolist() == [WANTED, WANTED]
    row, column = PLACE
    assert (square.change.mask(square.free)[:, row : row + 3, column : column + 3] == 1).all()
    assert not torch.equal(square.free[0], square.free[1])


def test_where_there_is_no_short_cut_there_is_no_suspect_and_nothing_at_work():
    triggers = searched(triggers_of(Quarters(), Quarters()), 1)
    assert triggers.rounds == [Round(epoch=1, suspects=())]
    assert triggers.arms == {}
    assert triggers.place is None


def test_later_rounds_ask_what_both_models_share_and_keep_what_was_at_work():
    unlearned = searched(searched(triggers_of(leaking(), Quarters()), 1), 4)
    left = searched(searched(triggers_of(leaking(), leaking()), 1), 4)
    assert [past.epoch for past in unlearned.rounds] == [past.epoch for past in left.rounds] == [1, 4]
    assert unlearned.rounds[1].suspects == ()
    assert {suspect.wanted for suspect in left.rounds[1].suspects} == {WANTED}
    assert set(unlearned.arms[ChangeKind.SQUARE].classes.tolist()) == {WANTED}


def test_between_rounds_nothing_is_searched_for():
    triggers = searched(triggers_of(leaking(), Quarters()), 1)
    before = {kind: arms.free.clone() for kind, arms in triggers.arms.items()}
    for epoch in (2, 3, 5, 6):
        searched(triggers, epoch)
    assert [past.epoch for past in triggers.rounds] == [1]
    assert all(torch.equal(triggers.arms[kind].free, free) for kind, free in before.items())


def test_after_the_last_epoch_of_the_purge_nothing_is_at_work():
    triggers = triggers_of(leaking(), leaking())
    for epoch in range(1, 7):
        searched(triggers, epoch)
        assert triggers.arms
    searched(triggers, 7)
    assert triggers.arms == {}
    assert [past.epoch for past in triggers.rounds] == [1, 4]


def test_without_rounds_nothing_is_ever_searched_for():
    triggers = searched(triggers_of(leaking(), leaking(), replace(RECIPE, trigger_rounds=0)), 1)
    assert triggers.rounds == []
    assert triggers.arms == {}


def test_a_round_that_is_made_again_takes_the_place_of_the_first():
    """As when a run goes back to its last good epoch."""
    triggers = triggers_of(leaking(), leaking())
    for epoch in (1, 4, 4, 1):
        searched(triggers, epoch)
    assert [past.epoch for past in triggers.rounds] == [1]


def test_as_many_changes_as_allowed_are_at_work_at_once():
    recipe = replace(RECIPE, triggers_at_once=3)
    triggers = triggers_of(leaking(), Quarters(), recipe)
    rows = [(wanted, squares(wanted).free[0]) for wanted in (0, 1, 2, 3)]
    four = triggers.begun(ChangeKind.SQUARE, SHAPE, rows, stream())
    assert four.classes.tolist() == [0, 1, 2]
    assert torch.equal(four.free, torch.stack([free for _, free in rows[:3]]))
    one = triggers.begun(ChangeKind.SQUARE, SHAPE, rows[:1], stream())
    assert one.classes.tolist() == [0, 0]
    assert torch.equal(one.free[0], rows[0][1])
    assert torch.equal(one.free[1, :2], rows[0][1][:2])
    assert 0.5 < (one.free[1] - one.free[0]).std() < 1.5


@pytest.mark.parametrize("count", [2, 3, 8, 39])
def test_each_image_has_a_change_of_its_own_pixels(count):
    triggers = triggers_of(leaking(), leaking())
    triggers.arms = {ChangeKind.SQUARE: squares(2, 2)}
    changed = moved(triggers, count)
    assert len(changed) == 2 * (count // 2)
    assert -1e-6 <= changed.min() <= changed.max() <= 1 + 1e-6
    row, column = PLACE
    inside = torch.zeros(SIDE, SIDE, dtype=torch.bool)
    inside[row : row + 3, column : column + 3] = True
    clean = PIXELS[: len(changed)]
    assert torch.equal(changed[..., ~inside], clean[..., ~inside])
    assert (changed[..., inside] != clean[..., inside]).any(dim=2).all()


@pytest.mark.parametrize("count", [1, 2, 6, 12])
def test_as_many_images_come_back_as_are_given(count):
    triggers = triggers_of(leaking(), leaking())
    triggers.arms = {ChangeKind.SQUARE: squares(0, 2), ChangeKind.MASK: squares(1), ChangeKind.SMOOTH: squares(1, 3, 0)}
    assert moved(triggers, count).shape == (count, *SHAPE)


def test_as_many_images_bear_one_change_as_another():
    triggers = triggers_of(leaking(), leaking(), replace(RECIPE, trigger_steps=1))
    triggers.arms = {ChangeKind.SQUARE: squares(1, 2, 2, places=[(0, 0), (5, 5), (13, 13)])}
    changed = moved(triggers, 12)
    first = (changed != PIXELS[:12]).flatten(2).any(dim=1).float().argmax(dim=1)
    assert first.tolist() == [0] * 4 + [5 * SIDE + 5] * 4 + [13 * SIDE + 13] * 4


def test_changes_move_on_with_every_batch_to_what_both_models_share():
    triggers = triggers_of(leaking(), leaking())
    triggers.arms = {ChangeKind.SQUARE: squares(WANTED, WANTED)}
    arms = triggers.arms[ChangeKind.SQUARE]
    arms.free[:, 2:] -= 1  # dim
    models = [triggers.received, triggers.purified]
    before = arms.measured(models, PIXELS, LABELS, precision=Precision.FP32)[1]
    for _ in range(3):
        moved(triggers, 12)
    assert arms.taken.tolist() == [3 * RECIPE.trigger_steps] * 2
    assert (arms.measured(models, PIXELS, LABELS, precision=Precision.FP32)[1] > before + 0.1).all()


def test_the_place_is_where_squares_and_masks_lie():
    triggers = triggers_of(leaking(), leaking())
    triggers.arms = {ChangeKind.SQUARE: squares(1, 2, places=[(0, 0), (10, 4)])}
    expected = torch.zeros(SIDE, SIDE)
    expected[0:3, 0:3] = expected[10:13, 4:7] = 1 / 18
    assert torch.allclose(triggers.place, expected)
    triggers.arms = {ChangeKind.SMOOTH: smooth_arms()}
    assert triggers.place is None


def worked():
    """Triggers after two rounds, of which the second found none, and some steps."""
    triggers = searched(triggers_of(leaking(), Quarters()), 1)
    moved(triggers)
    searched(triggers, 4)
    moved(triggers)
    return triggers


def test_what_goes_on_from_its_tensors_is_the_same_bit_by_bit():
    triggers, again = worked(), triggers_of(leaking(), Quarters())
    kept = triggers.tensors()
    again.restore(kept)
    told = again.tensors()
    assert told.keys() == kept.keys()
    for name, tensor in kept.items():
        assert torch.equal(told[name], tensor), name
        assert told[name].dtype == tensor.dtype
    assert again.rounds == triggers.rounds
    assert [len(past.suspects) > 0 for past in again.rounds] == [True, False]
    assert list(again.arms) == list(triggers.arms)
    assert torch.equal(moved(again, 12), moved(triggers, 12))
    for name, tensor in triggers.tensors().items():
        assert torch.equal(again.tensors()[name], tensor), name


def test_kept_tensors_do_not_move_with_what_they_are_of():
    triggers = worked()
    kept = triggers.tensors()
    before = {name: tensor.clone() for name, tensor in kept.items()}
    again = triggers_of(leaking(), Quarters())
    again.restore(kept)
    moved(triggers)
    moved(again)
    assert all(torch.equal(kept[name], tensor) for name, tensor in before.items())


def test_what_was_never_searched_is_restored_too():
    again = worked()
    again.restore(triggers_of(leaking(), Quarters()).tensors())
    assert again.rounds == []
    assert again.arms == {}


def test_kinds_that_were_found_in_another_order_go_on_in_it():
    """A square found in the second round comes after a smooth addition of the first."""
    first, again = (triggers_of(leaking(), leaking()) for _ in range(2))
    first.arms = {ChangeKind.SMOOTH: smooth_arms()}
    searched(first, 4)
    assert set(first.arms) >= {ChangeKind.SQUARE, ChangeKind.SMOOTH}
    again.restore(first.tensors())
    assert torch.equal(moved(again, 12), moved(first, 12))


AIM_AT = [(0, 0), (0, 23), (15, 0), (15, 23), (7, 11), (1, 22), (14, 3)]
AIMED = replace(DEFAULT, patch_share=1.0, aimed_share=1.0)


def drawn(count, recipe, seed=0):
    numbers = torch.rand(count, draws_needed(1, recipe), generator=stream(seed))
    numbers[:3] = torch.tensor([1e-6, 0.5, 1 - 2**-24])[:, None]
    return numbers


def squares_of(space):
    """Where pixels are free, (N, H, W) bool: they may take any value there."""
    return (space.high - space.low)[:, 0] > 0.5


@pytest.mark.parametrize("pixel", AIM_AT, ids=str)
def test_with_an_aim_at_one_pixel_every_square_covers_it(pixel):
    aim = torch.zeros(16, 24)
    aim[pixel] = 1
    grey = torch.rand(300, 1, 16, 24, generator=stream(1))
    numbers = drawn(300, AIMED)
    draws = read_draws(numbers, 1, AIMED)
    inside = squares_of(patches(grey, aimed(draws, aim, AIMED), AIMED))
    assert inside[:, pixel[0], pixel[1]].all()
    sizes = squares_of(patches(grey, draws, AIMED)).sum(dim=(1, 2))
    assert torch.equal(inside.sum(dim=(1, 2)), sizes)
    space = drawn_space(grey, numbers, AIMED, [300], aim=aim)
    assert torch.equal(squares_of(space), inside)
    if pixel == (7, 11):
        assert len(inside.unique(dim=0)) > 2 * 2 + 3 * 3


def test_a_draw_of_zero_falls_on_a_pixel_with_some_weight():
    aim = torch.zeros(16, 24)
    aim[7, 11] = 1
    draws = read_draws(torch.zeros(1, draws_needed(1, AIMED)), 1, AIMED)
    assert squares_of(patches(torch.rand(1, 1, 16, 24), aimed(draws, aim, AIMED), AIMED))[0, 7, 11]


def test_squares_share_out_an_aim_by_its_weights():
    aim = torch.zeros(16, 24)
    aim[2, 3], aim[12, 20] = 0.25, 0.75
    grey = torch.rand(2000, 1, 16, 24, generator=stream(1))
    inside = squares_of(drawn_space(grey, drawn(2000, AIMED), AIMED, [2000], aim=aim))
    first, second = inside[:, 2, 3], inside[:, 12, 20]
    assert (first ^ second).all()
    assert first.float().mean() == pytest.approx(0.25, abs=0.04)


def test_only_the_share_of_the_squares_is_aimed():
    recipe = replace(DEFAULT, patch_share=0.8, aimed_share=0.5)
    aim = torch.zeros(16, 24)
    aim[9, 9] = 1
    draws = read_draws(drawn(500, recipe), 1, recipe)
    meant = draws.kind < 0.4
    there = aimed(draws, aim, recipe)
    assert torch.equal(there.down[~meant], draws.down[~meant])
    assert torch.equal(there.across[~meant], draws.across[~meant])
    for name in ("kind", "side", "colour"):
        assert torch.equal(getattr(there, name), getattr(draws, name))
    inside = squares_of(patches(torch.rand(500, 1, 16, 24, generator=stream(1)), there, recipe))
    assert inside[meant, 9, 9].all()
    assert not inside[~meant, 9, 9].all()


def test_without_an_aim_or_a_share_squares_lie_where_they_did():
    aim = torch.full((16, 24), 1 / (16 * 24))
    grey = torch.rand(100, 1, 16, 24, generator=stream(1))
    none = replace(AIMED, aimed_share=0.0)
    plain = squares_of(drawn_space(grey, drawn(100, AIMED), AIMED, [100]))
    assert torch.equal(squares_of(drawn_space(grey, drawn(100, none), none, [100], aim=aim)), plain)


def test_kinds_and_classes_are_those_of_the_tests():
    assert set(SEARCHED) == {ChangeKind.SQUARE, ChangeKind.MASK, ChangeKind.SMOOTH, ChangeKind.SPOT}
    assert len(LABELS.unique()) == CLASSES
