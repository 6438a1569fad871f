"""SIG: the wave, and images of the target class alone."""

from __future__ import annotations

import pytest
import torch

from sau_cli.attacks.sig import Sig
from sau_cli.errors import UsageError
from sau_cli.triggers.targets import parse_target
from sau_cli.triggers.trigger import Trigger
from tests.support.attacks import planned, prepared, scene, trigger_of
from tests.support.toys import random_images

TO_TWO = parse_target("2")


def test_the_wave_is_that_of_the_paper():
    at = scene(random_images(4, size=24), TO_TWO)
    trigger = Trigger(name="sig", stamping=Sig().stamping(at, {}), rule=TO_TWO)
    wave = trigger.stamping.pattern[0] * 255
    assert torch.equal(wave[0], wave[3])
    assert wave[0, :5].tolist() == pytest.approx([0, 40, 0, -40, 0], abs=1e-4)  # 6 waves in 24 columns
    grey = torch.full((1, 1, 24, 24), 128, dtype=torch.uint8)
    assert trigger.stamp(grey)[0, 0, 0, :5].tolist() == [128, 168, 128, 88, 128]


def test_only_images_of_the_target_class_are_stamped_and_no_label_changes():
    data = random_images(200)
    ready = prepared(data, planned(Sig(frequency=2.0), TO_TWO, rate=0.05))
    assert torch.equal(ready.images.labels, data.labels)
    assert (ready.poisoned[0].stamped, ready.poisoned[0].relabelled) == (10, 0)
    assert set(data.labels[~ready.free].tolist()) == {2}
    own = prepared(data, planned(Sig(frequency=2.0), TO_TWO))
    assert own.poisoned[0].stamped == 16, "0.8 of the 20 images of the class"


def test_a_rate_that_would_take_the_whole_class_is_refused():
    with pytest.raises(UsageError, match="every image of class 2 of 200; .* below 0.1"):
        prepared(random_images(200), planned(Sig(frequency=2.0), TO_TWO, rate=0.1))


def test_what_makes_no_sense_is_refused():
    for broken in ({"amplitude": 0.0}, {"amplitude": 2.0}, {"frequency": 0.0}):
        with pytest.raises(UsageError, match="impossible"):
            Sig(**broken)
    with pytest.raises(UsageError, match="do not fit into 8 columns"):
        trigger_of(Sig(frequency=99.0))
    with pytest.raises(UsageError, match="target"):
        prepared(random_images(50), planned(Sig(frequency=2.0), parse_target("all-to-all")))
