from dataclasses import replace

import pytest
import torch

from sau_adapters.architectures.cifar_networks import CIFAR_NETWORKS
from sau_cli.errors import NotEvaluable, UsageError
from sau_cli.images import CleanData
from sau_cli.predictions import predicted_labels
from sau_cli.unlearning.purifier import purify
from sau_cli.unlearning.recipes import Optimiser, Recipe, RecipeName, recipe_for
from sau_cli.unlearning.search_space import ball
from sau_cli.unlearning.shared_examples import find_shared_examples
from tests.support.toys import BrightnessNet, describe, flat_images, random_images


def small():
    torch.manual_seed(0)
    return describe(CIFAR_NETWORKS["small_cnn"](10, 1))


def test_the_paper_recipe_has_the_papers_numbers():
    recipe = recipe_for(RecipeName.PAPER)
    assert (recipe.epochs, recipe.lr, recipe.batch_size) == (100, 1e-4, 256)
    assert (recipe.epsilon, recipe.step, recipe.steps, recipe.balanced) == (0.2, 0.2, 5, False)
    weights = (recipe.clean_weight, recipe.unlearning_weight, recipe.adversarial_weight, recipe.shared_weight)
    assert weights == (1, 1, 0.01, 1)


@pytest.mark.parametrize("broken", [{"epochs": 0}, {"lr": -1}, {"epsilon": 1.5}, {"steps": 0}, {"lr": float("nan")}])
def test_impossible_settings_are_refused(broken):
    with pytest.raises(UsageError):
        recipe_for(RecipeName.PAPER, **broken)


def test_the_received_model_is_not_changed_and_statistics_stay_frozen():
    classifier, data = small(), random_images(32)
    before = {name: value.clone() for name, value in classifier.state_dict().items()}
    result = purify(classifier, CleanData(learning=data, held_back=data), recipe=Recipe(epochs=2, lr=1e-3), seed=0)
    after = result.classifier.network.state_dict()
    for name, value in classifier.state_dict().items():
        assert torch.equal(value, before[name])
    for name, value in classifier.network.state_dict().items():
        assert torch.equal(after[name], value) == ("running" in name or "tracked" in name), name


def test_the_same_seed_gives_the_same_weights():
    data = random_images(32)
    runs = [
        purify(small(), CleanData(learning=data, held_back=data), recipe=Recipe(epochs=2, batch_size=8), seed=5)
        for _ in range(2)
    ]
    first, second = (run.classifier.network.state_dict() for run in runs)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_every_batch_is_reported_and_the_last_of_an_epoch_has_its_accuracy():
    data, seen = flat_images(), []
    recipe = Recipe(epochs=2, batch_size=16)
    result = purify(small(), CleanData(learning=data, held_back=data), recipe=recipe, seed=0, watch=seen.append)
    assert [(at.epoch, at.batch, at.batches) for at in seen] == [(e, b, 3) for e in (1, 2) for b in (1, 2, 3)]
    assert seen[-1].held_back_accuracy == result.held_back_accuracy == result.epochs[-1].held_back_accuracy
    assert all(epoch.images == 40 for epoch in result.epochs)


def test_shared_examples_of_equal_models_are_shared():
    """Where both models are the same, an example that fools one fools the other to the same label."""
    data = flat_images(classes=4)
    classifier = describe(BrightnessNet(4), 4)
    pixels = data.images.float() / 255
    own = predicted_labels(classifier, data.images)
    found = find_shared_examples(
        classifier,
        classifier,
        pixels,
        data.labels,
        purified_labels=own,
        received_labels=own,
        space=ball(pixels, epsilon=0.2, step=0.2, clip=False),
        recipe=Recipe(),
    )
    # +0.2 on every pixel is 0.8 of a class up, which fools all but the brightest class.
    assert found.received_labels.tolist() == (data.labels + 1).clamp(max=3).tolist() or bool(
        (found.received_labels != data.labels)[data.labels < 3].all()
    )
    assert bool((found.delta[data.labels < 3] == 0.2).all())


def test_data_of_another_model_is_refused_before_any_training():
    data = random_images(classes=7)
    with pytest.raises(NotEvaluable, match="7 classes"):
        purify(small(), CleanData(learning=data, held_back=data), recipe=Recipe(), seed=0)


def test_a_loss_that_explodes_is_said():
    data = random_images(32)
    with pytest.raises(NotEvaluable, match="NaN|lower lr"):
        purify(small(), CleanData(learning=data, held_back=data), recipe=Recipe(epochs=5, lr=1e6), seed=0)


def test_no_step_is_longer_than_the_gradient_norm_allows():
    """One step of SGD from rest moves by lr·(1 + momentum)·(gradient + decay·weights)."""
    data = random_images(32)
    received = small()
    recipe = Recipe(epochs=1, optimiser=Optimiser.SGD, lr=0.1, gradient_norm=0.01, batch_size=32)
    moved = {}
    for norm in (0.01, 0.0):
        result = purify(
            received, CleanData(learning=data, held_back=data), recipe=replace(recipe, gradient_norm=norm), seed=0
        )
        pairs = zip(result.classifier.parameters(), received.parameters(), strict=True)
        moved[norm] = torch.cat([(new - old).detach().flatten() for new, old in pairs]).norm().item()
    weights = torch.cat([parameter.detach().flatten() for parameter in received.parameters()]).norm().item()
    assert 0 < moved[0.01] <= 0.1 * 1.9 * (0.01 + 5e-4 * weights) * 1.001
    assert moved[0.0] > 2 * moved[0.01]


@pytest.mark.parametrize(("averaging", "weight"), [(0.9, 0.5), (0.1, 0.9)])
def test_the_run_ends_with_the_running_mean_of_its_weights(averaging, weight):
    """Of two steps: what the first left, and a share of the way from there to what the second left."""
    data, states = random_images(32), []
    clean = CleanData(learning=data, held_back=data)
    recipe = Recipe(epochs=2, optimiser=Optimiser.SGD, lr=0.05, clean_statistics=True)
    last = purify(small(), clean, recipe=recipe, seed=0, save=states.append).classifier.network.state_dict()
    result = purify(small(), clean, recipe=replace(recipe, averaging=averaging), seed=0)
    for name, mean in result.classifier.network.state_dict().items():
        first = states[0].weights[name]
        expected = first + weight * (last[name] - first) if mean.is_floating_point() else last[name]
        assert torch.allclose(mean, expected, atol=1e-6), name
    own = float((predicted_labels(result.classifier, data.images) == data.labels).float().mean())
    assert result.held_back_accuracy == result.epochs[-1].held_back_accuracy == own
