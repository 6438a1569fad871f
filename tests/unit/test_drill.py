"""The drill: parts without an image in common, and nothing counted as removed that was not there."""

from __future__ import annotations

import pytest
import torch

from sau_adapters.architectures.cifar_networks import CIFAR_NETWORKS
from sau_cli.attacks.badnets import BadNets
from sau_cli.attacks.blended import Blended
from sau_cli.attacks.input_aware import InputAware
from sau_cli.attacks.lc import LabelConsistent
from sau_cli.attacks.lf import LowFrequency
from sau_cli.attacks.planting import PlannedAttack
from sau_cli.attacks.ssba import Ssba
from sau_cli.attacks.trojannn import TrojanNN
from sau_cli.drill import Outcome, drill, drill_images
from sau_cli.errors import NotEvaluable
from sau_cli.images import ImageData
from sau_cli.precision import Precision
from sau_cli.training import TrainingSettings
from sau_cli.triggers.targets import TargetKind, TargetRule
from sau_cli.unlearning.compared_methods import FineTuning
from tests.support.toys import describe, random_images

TO_ZERO = TargetRule(kind=TargetKind.ALL_TO_ONE, target=0)


def bytes_of(images):
    return {image.numpy().tobytes() for image in images}


def small():
    torch.manual_seed(0)
    return describe(CIFAR_NETWORKS["small_cnn"](10, 1))


@pytest.mark.parametrize("split", [True, False])
@pytest.mark.parametrize("learned_from", [None, 30, 10_000])
def test_no_image_serves_two_ends(split, learned_from):
    data = ImageData(name="toy", train=random_images(400), test=random_images(80, seed=1) if split else None)
    parts = drill_images(data, learned_from=learned_from, balanced=True, seed=0)
    sets = [parts.planting, parts.purifying.learning, parts.purifying.held_back, parts.measuring]
    every = [bytes_of(part.images) for part in sets]
    assert sum(map(len, every)) == len(set.union(*every)) == (480 if split else 400)
    if learned_from == 30:
        assert len(parts.purifying.learning) == 30
    assert len(parts.planting) >= (200 if split else 150)


def test_too_few_images_for_three_parts():
    data = ImageData(name="toy", train=random_images(3, classes=2), test=None)
    with pytest.raises(NotEvaluable, match="too few"):
        drill_images(data, learned_from=None, balanced=True, seed=0)


def run(planned, **options):
    data = ImageData(name="toy", train=random_images(300), test=None)
    parts = drill_images(data, learned_from=None, balanced=True, seed=0)
    settings = {
        "training": TrainingSettings(epochs=1, peak_lr=0.01),
        "recipe": FineTuning(epochs=1, batch_size=32),
        "precision": Precision.FP32,
        "seed": 0,
    }
    return drill(small(), parts, planned, **(settings | options))


def planned(name="badnets", attack=None, **options):
    return PlannedAttack(name=name, attack=attack or BadNets(), rule=TO_ZERO, **options)


def test_what_was_not_there_is_not_removed():
    """A learning rate that teaches nothing: the backdoor does not take, and no ASR is given for afterwards."""
    found = run([planned()], training=TrainingSettings(epochs=1, peak_lr=1e-12))
    (one,) = found.attacks
    assert one.outcome is Outcome.DID_NOT_TAKE
    assert one.asr is None
    assert one.asr_before.value < 0.5
    assert "3 rounds" in one.reason


def test_an_attack_that_cannot_be_planted_does_not_end_the_others():
    wide = planned("blended", Blended(), rate=0.999999)
    found = run([wide, planned()], training=TrainingSettings(epochs=1, peak_lr=1e-12))
    assert [attack.outcome for attack in found.attacks] == [Outcome.IMPOSSIBLE, Outcome.DID_NOT_TAKE]
    assert "poison" in found.attacks[0].reason


def test_what_there_is_no_time_for_is_skipped():
    asked = []

    def stop():
        asked.append(1)
        return len(asked) > 3

    kept = []
    found = run([planned(), planned("other"), planned("third")], stop=stop, keep=kept.append)
    assert kept[-1] == found
    assert [attack.outcome for attack in found.attacks] == [Outcome.SKIPPED] * 3
    assert "while it was planted" in found.attacks[0].reason
    assert "no time left" in found.attacks[1].reason


def test_the_model_is_not_changed_and_the_same_seed_gives_the_same_drill():
    classifier = small()
    before = {name: tensor.clone() for name, tensor in classifier.state_dict().items()}
    data = ImageData(name="toy", train=random_images(300), test=None)
    parts = drill_images(data, learned_from=None, balanced=True, seed=0)
    runs = [
        drill(
            classifier,
            parts,
            [planned()],
            training=TrainingSettings(epochs=8, peak_lr=0.05),
            recipe=FineTuning(epochs=2, batch_size=32),
            precision=Precision.FP32,
            seed=0,
        )
        for _ in range(2)
    ]
    assert all(torch.equal(before[name], tensor) for name, tensor in classifier.state_dict().items())
    assert runs[0] == runs[1]
    (one,) = runs[0].attacks
    assert one.outcome is Outcome.MEASURED
    assert one.asr_before.value >= 0.5
    assert one.asr.total == one.asr_before.total


def test_what_was_found_is_kept_where_a_later_attack_breaks(monkeypatch):
    import sau_cli.drill as module

    real, kept = module.attack, []

    def broken(*arguments, planned, **options):
        if planned[0].name == "second":
            raise KeyboardInterrupt
        return real(*arguments, planned=planned, **options)

    monkeypatch.setattr(module, "attack", broken)
    with pytest.raises(KeyboardInterrupt):
        run([planned("first"), planned("second")], training=TrainingSettings(epochs=1, peak_lr=1e-12), keep=kept.append)
    assert [attack.attack for attack in kept[-1].attacks] == ["first"]


@pytest.mark.parametrize("attack", [LowFrequency(), LabelConsistent(pgd_steps=1), TrojanNN(), Ssba(), InputAware()])
def test_time_ends_while_an_attack_learns(attack):
    """The stop comes at the third question, long before anything is planted."""
    asked = []

    def stop():
        asked.append(1)
        return len(asked) > 2

    (one,) = run([planned(attack=attack)], stop=stop).attacks
    assert one.outcome is Outcome.SKIPPED
    assert len(asked) <= 4
