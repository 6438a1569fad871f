"""Re-activation and relearning, on classifiers of which the answer is known."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from sau_adapters.cifar_networks import CIFAR_NETWORKS
from sau_cli.errors import NotEvaluable, UsageError
from sau_cli.evaluation.reactivation import perturbed, reactivate, universal_perturbation
from sau_cli.evaluation.relearning import relearn
from sau_cli.images import parted
from sau_cli.triggers.targets import TargetKind, TargetRule
from tests.support.attacks import badnets_trigger
from tests.support.toys import BrightnessNet, CornerBackdoor, describe, flat_images, random_images

TO_ZERO = TargetRule(kind=TargetKind.ALL_TO_ONE, target=0)


class Linear(nn.Module):
    """Two classes; class 0 is what the weights say."""

    def __init__(self) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.randn(1, 8, 8, generator=torch.Generator().manual_seed(0)))

    def forward(self, x):
        score = (x * self.weights).sum(dim=(1, 2, 3))
        return torch.stack([score, torch.zeros_like(score)], dim=1)


class SleepingBackdoor(nn.Module):
    """A brightness classifier in which a white corner means class 0 only where its neighbour is a little brighter.

    The images are flat, so by itself the trigger does nothing; by itself a small perturbation does nothing either.
    """

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.clean = BrightnessNet(classes)

    def forward(self, x):
        logits = self.clean(x)
        fires = (x[:, 0, -1, -1] > 0.9).float() * (x[:, 0, 0, 0] - x[:, 0, 4, 4])
        push = torch.zeros_like(logits)
        push[:, 0] = 400 * fires
        return logits + push


def test_of_a_linear_classifier_the_best_perturbation_is_known():
    """ε·sign(w) on every pixel, in whole steps of 8 bits: 12 of 255 for 0.05."""
    network = Linear()
    images = random_images(64, classes=2)
    delta = universal_perturbation(
        describe(network, 2), images.images, torch.zeros(64, dtype=torch.int64), epsilon=0.05, seed=0
    )
    assert torch.equal(delta[0], 12 / 255 * network.weights.sign())


def test_no_pixel_moves_by_more_than_allowed():
    images = random_images(16).images
    delta = torch.full((1, 1, 8, 8), 12 / 255)
    moved = perturbed(images, delta).int() - images.int()
    assert moved.max() == 12
    assert moved.min() >= 0
    assert bool((moved[images < 243] == 12).all())


def test_a_sleeping_backdoor_is_woken_and_its_control_is_not():
    classifier = describe(SleepingBackdoor(10))
    made_on, measured_on = parted(flat_images(each=8), 0.5, seed=0)
    found = reactivate(classifier, made_on, measured_on, badnets_trigger(TO_ZERO, trigger_size=1), seed=0)
    assert (found.asr.value, found.untouched.value) == (0, 0)
    assert found.reactivated.value > 0.9
    assert found.control.value < 0.2
    assert found.reactivated.total == found.control.total == 36


def test_where_nothing_sleeps_the_perturbation_does_as_little_as_its_control():
    classifier = describe(BrightnessNet(10))
    made_on, measured_on = parted(flat_images(each=8), 0.5, seed=0)
    found = reactivate(classifier, made_on, measured_on, badnets_trigger(TO_ZERO, trigger_size=1), seed=0)
    assert found.reactivated.value == found.control.value < 0.2


def small():
    torch.manual_seed(0)
    return describe(CIFAR_NETWORKS["small_cnn"](10, 1))


def test_relearning_teaches_a_copy_and_leaves_the_model():
    classifier, data = small(), random_images(200)
    before = {name: tensor.clone() for name, tensor in classifier.state_dict().items()}
    learned_on, measured_on = parted(data, 0.5, seed=0)
    found = relearn(classifier, learned_on, measured_on, badnets_trigger(TO_ZERO, trigger_size=3), poisoned=40, seed=0)
    assert all(torch.equal(before[name], tensor) for name, tensor in classifier.state_dict().items())
    assert not any(parameter.requires_grad is False for parameter in classifier.parameters())
    assert found.poisoned == 40
    assert found.relearned.value > found.asr.value
    assert found.control is not None
    assert found.accuracy.total == 100


def test_a_trigger_that_is_the_same_upside_down_has_no_control():
    trigger = badnets_trigger(TO_ZERO, trigger_size=8)
    learned_on, measured_on = parted(random_images(100), 0.5, seed=0)
    assert relearn(small(), learned_on, measured_on, trigger, poisoned=5, seed=0).control is None


@pytest.mark.parametrize("poisoned", [0, 26, 10_000])
def test_more_images_than_there_are_are_refused(poisoned):
    learned_on, measured_on = parted(random_images(100), 0.5, seed=0)
    with pytest.raises(UsageError, match="give 1 to 25"):
        relearn(small(), learned_on, measured_on, badnets_trigger(TO_ZERO), poisoned=poisoned, seed=0)


def test_parts_have_no_image_in_common():
    data = random_images(97)
    first, second = parted(data, 0.5, seed=3)
    assert len(first) + len(second) == 97
    assert not {image.numpy().tobytes() for image in first.images} & {
        image.numpy().tobytes() for image in second.images
    }
    assert first.labels.bincount().max() - first.labels.bincount().min() <= 1
    with pytest.raises(NotEvaluable, match="too few"):
        parted(random_images(1), 0.5, seed=0)


def test_a_half_without_an_image_that_counts_is_not_measured():
    images = flat_images().take(torch.arange(4))  # all of class 0
    with pytest.raises(NotEvaluable, match="no perturbation"):
        reactivate(describe(CornerBackdoor(10)), images, flat_images(), badnets_trigger(TO_ZERO), seed=0)
