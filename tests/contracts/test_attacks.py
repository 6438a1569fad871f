"""What every attack must do: stamp images of any size, poison as it says, be written and read, train and go on."""

from __future__ import annotations

from dataclasses import fields

import pytest
import torch

from sau_adapters.run_states import read_attack_state, write_state
from sau_adapters.triggers import open_trigger, write_trigger
from sau_cli.attacks.attack import Attack, InBatchesAttack
from sau_cli.attacks.planting import attack
from sau_cli.attacks.table import ATTACKS, attack_class
from sau_cli.errors import UsageError
from sau_cli.images import ImageData
from sau_cli.training import TrainingSettings
from sau_cli.triggers.trigger import Trigger
from tests.support.attacks import ROUND, TO_ZERO, fresh_for, planned, prepared, scene
from tests.support.toys import random_images

QUICK = {
    "sig": {"frequency": 2.0},
    "lc": {"robust_epochs": 1, "pgd_steps": 3, "trigger_size": 2},
    "lf": {"clean_epochs": 1, "iterations": 3},
    "ssba": {"bits": 8, "encoder_steps": 3},
    "trojannn": {"clean_epochs": 1, "iterations": 5, "trigger_size": 3},
    "input-aware": {"mask_steps": 3},
    "distributed": {"trigger_size": 2, "trigger_margin": 1},
}
"""Settings that fit small images and learn little."""
TRAINING = TrainingSettings(epochs=3, peak_lr=0.05, batch_size=16)
every_attack = pytest.mark.parametrize("name", list(ATTACKS))


def quick(name: str) -> Attack:
    return attack_class(name)(**QUICK.get(name, {}))


def trigger_at(name: str, channels: int = 3, size: int = 8) -> Trigger:
    one, at = quick(name), scene(random_images(64, channels=channels, size=size))
    return Trigger(name=name, stamping=one.stamping(at, one.learn(at)), rule=TO_ZERO)


@every_attack
def test_settings_are_flags_with_help_and_defaults(name):
    found = attack_class(name)
    assert str(found.__doc__).strip().splitlines()[0].endswith(".")
    flags = found.flags()
    assert set(flags) == {field.name for field in fields(found)} == set(found().settings())
    for kind, default, what in flags.values():
        assert kind in {int, float, str, bool}
        assert type(default) is kind
        assert what


@every_attack
@pytest.mark.parametrize("channels", [1, 3])
def test_stamping_gives_images_of_the_same_kind_and_is_the_same_each_time(name, channels):
    trigger = trigger_at(name, channels)
    for size in (8, 13, 32):
        images = random_images(6, channels=channels, size=size).images
        before = images.clone()
        stamped = trigger.stamp(images)
        assert (stamped.shape, stamped.dtype) == (images.shape, torch.uint8)
        assert torch.equal(images, before), "the clean images are not changed"
        assert torch.equal(stamped, trigger.stamp(images))
        alone = torch.cat([trigger.stamp(image[None]) for image in images])
        assert (alone.int() - stamped.int()).abs().max() <= 1, "an image is stamped by itself, but for rounding"
    pixels = images.float() / 255
    assert torch.equal(trigger.stamp_pixels(pixels).mul(255).round().to(torch.uint8), stamped)


@every_attack
def test_a_file_is_enough_to_stamp_any_image(name, tmp_path):
    trigger = trigger_at(name)
    path = tmp_path / "x.trigger.safetensors"
    write_trigger(path, trigger, visibility={"linf": 0.5}, force=False)
    again = open_trigger(str(path), None)
    images = random_images(6, channels=3, size=20).images
    assert torch.equal(again.stamp(images), trigger.stamp(images))
    assert (again.name, again.rule) == (name, TO_ZERO)


@every_attack
def test_what_is_poisoned_is_counted_and_nothing_else_changes(name):
    data = random_images(200, channels=3)
    ready = prepared(data, planned(quick(name)))
    (count,), one = ready.poisoned, quick(name)
    changed = (ready.images.images != data.images).flatten(1).any(dim=1)
    assert not bool((changed & ready.free).any())
    assert count.stamped + count.decoys == int((~ready.free).sum())
    assert count.relabelled == int((ready.images.labels != data.labels).sum())
    if isinstance(one, InBatchesAttack):
        assert count.stamped == 0
        assert one.in_training(ready.scenes[0], ready.triggers[0]) is not None
    elif one.clean_label:
        assert (count.stamped, count.relabelled) == (20 * one.poison_rate, 0)
    else:
        assert count.stamped == 20
    again = prepared(data, planned(quick(name)))
    assert torch.equal(again.images.images, ready.images.images)


@every_attack
def test_a_rate_of_nothing_or_everything_is_refused(name):
    for rate in (0.0, 1.0, 0.001, 0.999):
        with pytest.raises(UsageError, match="poison rate"):
            prepared(random_images(100), planned(quick(name), rate=rate))


@every_attack
def test_it_trains_and_goes_on_from_every_state_to_the_same_weights(name, tmp_path):
    images = random_images(60, channels=3)
    data = ImageData(name="random", train=images, test=random_images(30, channels=3, seed=1))
    classifier = fresh_for(images)
    kept: list[str] = []

    def keep(state):
        kept.append(f"{len(kept)}.resume.safetensors")
        write_state(tmp_path / kept[-1], state)

    whole = attack(classifier, data, planned=[planned(quick(name))], training=TRAINING, seed=0, save=keep)
    assert whole.finished
    assert whole.evaluation.triggers[0].asr.total == 27
    learns = bool(quick(name).learn(scene(images)))
    assert len(kept) == 2 + learns, "two epochs of three, and what is learned before"
    images_seen = random_images(5, channels=3, seed=2).images
    for file in kept:
        state = read_attack_state(tmp_path / file)
        again = attack(classifier, data, planned=[planned(quick(name))], training=TRAINING, seed=0, resume=state)
        for key, tensor in whole.classifier.network.state_dict().items():
            assert torch.equal(again.classifier.network.state_dict()[key], tensor), (file, key)
        assert torch.equal(again.triggers[0].stamp(images_seen), whole.triggers[0].stamp(images_seen))
    with pytest.raises(UsageError, match="belongs to another"):
        attack(classifier, data, planned=[planned(quick(name), ROUND)], training=TRAINING, seed=0, resume=state)
