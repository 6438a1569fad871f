"""SIG: the wave, and images of the target class alone."""

from __future__ import annotations

import pytest
import torch

from sau_cli.attacks.poisoning import poison
from sau_cli.attacks.sig import sig_trigger
from sau_cli.attacks.targets import parse_target
from sau_cli.errors import UsageError
from tests.support.toys import random_images

TO_TWO = parse_target("2")


def test_the_wave_is_that_of_the_paper():
    trigger = sig_trigger(rule=TO_TWO, height=4, width=24)
    wave = trigger.pattern[0] * 255
    assert torch.equal(wave[0], wave[3])
    assert wave[0, :5].tolist() == pytest.approx([0, 40, 0, -40, 0], abs=1e-4)  # 6 waves in 24 columns
    grey = torch.full((1, 1, 4, 24), 128, dtype=torch.uint8)
    assert trigger.stamp(grey)[0, 0, 0, :5].tolist() == [128, 168, 128, 88, 128]


def test_only_images_of_the_target_class_are_stamped_and_no_label_changes():
    data = random_images(200)
    trigger = sig_trigger(rule=TO_TWO, height=8, width=8, frequency=2)
    poisoned = poison(data, trigger, rate=0.05, seed=0, clean_label=True)
    assert torch.equal(poisoned.images.labels, data.labels)
    assert len(poisoned.chosen) == 10
    assert set(data.labels[poisoned.chosen].tolist()) == {2}
    every = poison(data, trigger, rate=0.9, seed=0, clean_label=True)
    assert len(every.chosen) == int((data.labels == 2).sum()), "no more than there are"


def test_what_makes_no_sense_is_refused():
    for broken in ({"amplitude": 0.0}, {"amplitude": 2.0}, {"frequency": 0.0}, {"frequency": 99.0}):
        with pytest.raises(UsageError):
            sig_trigger(rule=TO_TWO, height=8, width=8, **broken)
    everywhere = sig_trigger(rule=parse_target("all-to-all"), height=8, width=8, frequency=2)
    with pytest.raises(UsageError, match="--target"):
        poison(random_images(50), everywhere, rate=0.1, seed=0, clean_label=True)
