import pytest
import torch

from sau_cli.attacks.badnets import BadNets
from sau_cli.attacks.blended import drawn_picture
from sau_cli.errors import NotEvaluable, UsageError
from sau_cli.triggers.kinds import ChainStamp
from sau_cli.triggers.stamps import AddStamp, PatchStamp, Place
from sau_cli.triggers.targets import TargetKind, TargetRule, parse_target
from sau_cli.triggers.trigger import Trigger, trigger_from_parts
from tests.support.attacks import ROUND, TO_ZERO, badnets_trigger, blended_trigger, planned, prepared
from tests.support.toys import random_images


def test_badnets_whitens_the_corner_and_nothing_else():
    clean = random_images(channels=3)
    stamped = badnets_trigger().stamp(clean.images)
    assert bool((stamped[:, :, -3:, -3:] == 255).all())
    assert torch.equal(stamped[:, :, :-3], clean.images[:, :, :-3])
    assert torch.equal(stamped[:, :, :, :-3], clean.images[:, :, :, :-3])


def test_the_grid_alternates_and_the_margin_moves_it():
    stamped = badnets_trigger(trigger_pattern="grid", trigger_margin=1).stamp(
        torch.full((1, 1, 8, 8), 7, dtype=torch.uint8)
    )
    assert stamped[0, 0, 4:7, 4:7].tolist() == [[255, 0, 255], [0, 255, 0], [255, 0, 255]]
    assert bool((stamped[0, 0, 7] == 7).all())


def test_blended_mixes_and_rounds_to_8_bits():
    clean = random_images(channels=3)
    trigger = blended_trigger(channels=3, alpha=0.2)
    expected = (0.8 * clean.images.double() + 0.2 * 255 * trigger.stamping.pattern.double()).round()
    assert (trigger.stamp(clean.images).double() - expected).abs().max() <= 1
    assert torch.equal(trigger.stamp(clean.images), trigger.stamp(clean.images))


def test_blended_stays_within_its_opacity():
    clean = random_images()
    stamped = blended_trigger(alpha=0.1).stamp(clean.images)
    assert (stamped.int() - clean.images.int()).abs().max() <= 26


def test_a_full_size_trigger_fits_itself_to_another_size():
    trigger = blended_trigger()
    assert trigger.stamp(random_images(size=20).images).shape == (40, 1, 20, 20)


def test_the_drawn_picture_uses_the_whole_range():
    picture = drawn_picture(3, 32, 32)
    assert picture.shape == (3, 32, 32)
    assert picture.min() < 0.05
    assert picture.max() > 0.95


@pytest.mark.parametrize("trigger", [badnets_trigger(ROUND, trigger_margin=2), blended_trigger(channels=3)])
def test_a_trigger_survives_being_taken_apart(trigger):
    again = trigger_from_parts(trigger.tensors(), trigger.description())
    images = random_images(channels=3).images
    assert torch.equal(again.stamp(images), trigger.stamp(images))
    assert again.rule == trigger.rule


def test_a_trigger_that_does_not_fit_is_refused():
    with pytest.raises(NotEvaluable, match="does not fit into 8x8"):
        badnets_trigger(trigger_size=9).stamp(random_images().images)


def test_a_colour_trigger_on_grey_images_is_refused():
    with pytest.raises(NotEvaluable, match="in colour"):
        blended_trigger(channels=3).stamp(random_images().images)


def test_adding_is_clipped_to_the_valid_range():
    trigger = Trigger(name="add", stamping=AddStamp(pattern=torch.full((1, 8, 8), 0.5)), rule=TO_ZERO)
    stamped = trigger.stamp(torch.tensor([0, 200], dtype=torch.uint8).reshape(2, 1, 1, 1).expand(2, 1, 8, 8))
    assert stamped[0].unique().tolist() == [128]
    assert stamped[1].unique().tolist() == [255]


@pytest.mark.parametrize(
    ("pattern", "mask"),
    [
        (torch.full((1, 2, 2), 1.5), torch.ones(1, 2, 2)),
        (torch.zeros(2, 2, 2), torch.ones(1, 2, 2)),
        (torch.zeros(1, 2, 2), torch.ones(1, 3, 2)),
    ],
)
def test_impossible_triggers_are_refused(pattern, mask):
    with pytest.raises(NotEvaluable):
        PatchStamp(pattern=pattern, mask=mask)


def test_target_rules():
    labels = torch.tensor([0, 1, 9])
    assert TO_ZERO.targets(labels, 10).tolist() == [0, 0, 0]
    assert TO_ZERO.counted(labels).tolist() == [False, True, True]
    assert ROUND.targets(labels, 10).tolist() == [1, 2, 0]
    assert ROUND.counted(labels).tolist() == [True, True, True]


@pytest.mark.parametrize("text", ["-1", "two", "", "1.5", "all_to_all"])
def test_unknown_targets_are_refused(text):
    with pytest.raises(UsageError):
        parse_target(text)


def test_poisoning_stamps_relabels_and_counts():
    clean = random_images(200)
    ready = prepared(clean, planned(BadNets(), rate=0.1))
    (trigger,), (count,), stamped = ready.triggers, ready.poisoned, ~ready.free
    assert (int(stamped.sum()), count.stamped, count.decoys) == (20, 20, 0)
    assert count.relabelled == int((clean.labels[stamped] != 0).sum())
    assert bool((ready.images.labels[stamped] == 0).all())
    assert torch.equal(ready.images.images[stamped], trigger.stamp(clean.images[stamped]))
    assert torch.equal(ready.images.images[ready.free], clean.images[ready.free])
    assert torch.equal(ready.images.labels[ready.free], clean.labels[ready.free])


@pytest.mark.parametrize("rate", [0, 1, -1, 2, 0.001, float("nan")])
def test_impossible_poison_rates_are_refused(rate):
    with pytest.raises(UsageError):
        prepared(random_images(), planned(BadNets(), rate=rate))


def test_a_target_outside_the_classes_is_refused():
    rule = TargetRule(kind=TargetKind.ALL_TO_ONE, target=10)
    with pytest.raises(UsageError, match="not one of the 10 classes"):
        prepared(random_images(), planned(BadNets(), rule))


def test_the_parts_of_a_chain_are_triggers_that_together_are_the_whole():
    whole = Trigger(
        name="two",
        stamping=ChainStamp(
            parts=tuple(
                PatchStamp(pattern=torch.ones(1, 2, 2), mask=torch.ones(1, 2, 2), place=place)
                for place in (Place.TOP_LEFT, Place.BOTTOM_RIGHT)
            )
        ),
        rule=TargetRule(kind=TargetKind.ALL_TO_ONE, target=3),
    )
    images = torch.randint(0, 200, (4, 3, 8, 8), dtype=torch.uint8)
    first, second = whole.parts()
    assert (first.name, first.rule) == (whole.name, whole.rule)
    assert (first.stamp(images) != images).sum() == (second.stamp(images) != images).sum() == 4 * 3 * 4
    assert torch.equal(second.stamp(first.stamp(images)), whole.stamp(images))
    assert first.parts() == ()
