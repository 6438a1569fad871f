import pytest
import torch

from sau_adapters.cifar_networks import CIFAR_NETWORKS
from sau_cli.augmentation import Augmentation
from sau_cli.errors import NotEvaluable, UsageError
from sau_cli.seeding import seeded
from sau_cli.training import TrainingSettings, train
from tests.support.toys import describe, flat_images, random_images


def fresh():
    with seeded(0, "initial weights"):
        return describe(CIFAR_NETWORKS["small_cnn"](10, 1))


def test_the_same_seed_gives_the_same_weights_and_another_does_not():
    results = []
    for seed in (0, 0, 1):
        classifier = fresh()
        train(
            classifier,
            random_images(64),
            TrainingSettings(epochs=1, peak_lr=0.1, batch_size=16, augmentation=Augmentation(padding=1)),
            seed=seed,
        )
        results.append(classifier.network.state_dict()["conv.0.weight"])
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])


def test_training_learns_and_reports_every_batch():
    seen = []
    train(
        fresh(), flat_images(each=8), TrainingSettings(epochs=3, peak_lr=0.05, batch_size=32), seed=0, watch=seen.append
    )
    assert [(at.epoch, at.batch) for at in seen] == [(epoch, batch) for epoch in (1, 2, 3) for batch in (1, 2, 3)]
    assert seen[-1].loss < seen[2].loss


def test_a_last_batch_of_one_image_is_left_out():
    train(fresh(), random_images(17), TrainingSettings(epochs=1, peak_lr=0.1, batch_size=16), seed=0)


def test_a_loss_that_explodes_is_said():
    with pytest.raises(NotEvaluable, match="lower lr"):
        train(fresh(), random_images(64), TrainingSettings(epochs=3, peak_lr=1e6, batch_size=16), seed=0)


@pytest.mark.parametrize("broken", [{"epochs": 0}, {"peak_lr": 0}, {"batch_size": 1}, {"peak_lr": float("nan")}])
def test_impossible_settings_are_refused(broken):
    with pytest.raises(UsageError):
        TrainingSettings(**{"epochs": 1, "peak_lr": 0.1, **broken})
