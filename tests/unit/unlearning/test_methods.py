"""The methods that are there to compare with, held against answers in closed form."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from sau_adapters.architectures.cifar_networks import CIFAR_NETWORKS
from sau_adapters.run_states import read_state, write_state
from sau_cli.augmentation import Augmentation
from sau_cli.errors import NotEvaluable, UsageError
from sau_cli.images import CleanData, as_pixels
from sau_cli.team import Team
from sau_cli.unlearning.compared_methods import Distancing, FeatureShift, FineTuning, ImplicitUnlearning
from sau_cli.unlearning.implicit_unlearning import ImplicitUnlearner, hypergradient
from sau_cli.unlearning.methods import MethodName, method_of, settings_for, settings_told
from sau_cli.unlearning.purifier import purify
from sau_cli.unlearning.recipes import DEFAULT, Recipe, RecipeName, Schedule
from sau_cli.unlearning.sharpness import ascent, climbed
from tests.support.toys import describe, random_images, work_of

DATA = random_images(40)
CLEAN = CleanData(learning=DATA, held_back=DATA.take(range(10)), augmentation=Augmentation(padding=1, flip=True))
METHODS = {
    "ft": FineTuning(epochs=2, batch_size=16),
    "ft-sam": FineTuning(epochs=2, batch_size=16, rho=2.0, label_smoothing=0.1),
    "i-bau": ImplicitUnlearning(epochs=2, batch_size=16, lr=1e-3),
    "d3": Distancing(epochs=2, batch_size=16),
    "fst": FeatureShift(epochs=2, batch_size=16),
}


def received():
    torch.manual_seed(0)
    return describe(CIFAR_NETWORKS["small_cnn"](10, 1))


def weights(result):
    return result.classifier.network.state_dict()


def test_the_ascent_is_the_best_step_on_a_quadratic():
    """For L = ½ Σ a·w², ε = ρ·a·w³ / ‖a·w²‖: as long as allowed, and no other as long gains more."""
    a, w, rho = torch.tensor([1.0, 4.0, 0.5]), torch.tensor([2.0, -1.0, 3.0]), 0.3
    (step,) = ascent([w], [a * w], rho)
    assert torch.allclose(step, rho * a * w**3 / (a * w**2).norm())
    assert (step / w.abs()).norm() == pytest.approx(rho)
    others = torch.randn(1000, 3, generator=torch.Generator().manual_seed(0))
    others = rho * others / others.norm(dim=1, keepdim=True) * w.abs()
    assert (others @ (a * w)).max() <= (step @ (a * w)) * 1.0001


def test_the_norm_is_over_all_weights_together():
    (whole,) = ascent([torch.tensor([2.0, 3.0])], [torch.tensor([1.0, -1.0])], 1.0)
    parts = ascent([torch.tensor([2.0]), torch.tensor([3.0])], [torch.tensor([1.0]), torch.tensor([-1.0])], 1.0)
    assert torch.equal(torch.cat(parts), whole)


def test_inside_the_block_the_gradient_is_that_of_the_worst_point_and_then_all_is_as_before():
    a, w = torch.tensor([1.0, 4.0]), nn.Parameter(torch.tensor([2.0, -1.0]))
    before = w.detach().clone()
    (a * w.square() / 2).sum().backward()
    (step,) = ascent([before], [a * before], 0.5)
    with climbed([w], 0.5):
        w.grad = None
        (a * w.square() / 2).sum().backward()
    assert torch.allclose(w.grad, a * (before + step))
    assert torch.equal(w, before)


def quadratic():
    """Inner ½ δᵀAδ - δᵀBθ, so δ(θ) = A⁻¹Bθ; outer ½‖δ - c‖² + dᵀθ, so the gradient is BᵀA⁻¹(δ - c) + d."""
    stream = torch.Generator().manual_seed(0)
    draw = torch.rand(3, 3, generator=stream, dtype=torch.float64)
    a = draw @ draw.T + torch.eye(3, dtype=torch.float64)
    b, c, d, theta = (torch.rand(*size, generator=stream, dtype=torch.float64) for size in ((3, 2), (3,), (2,), (2,)))
    theta.requires_grad_(True)
    delta = torch.linalg.solve(a, b @ theta.detach())
    return a, b, c, d, theta, delta


def test_the_implicit_gradient_of_a_quadratic_is_known():
    a, b, c, d, theta, delta = quadratic()
    exact = b.T @ torch.linalg.solve(a, delta - c) + d

    def found(steps):
        value, (gradient,) = hypergradient(
            lambda at: at @ a @ at / 2 - at @ (b @ theta),
            lambda at: (at - c).square().sum() / 2 + d @ theta,
            delta,
            [theta],
            steps=steps,
            rate=0.2,
        )
        assert value == pytest.approx(float((delta - c).square().sum() / 2 + d @ theta.detach()))
        return gradient

    assert torch.allclose(found(400), exact, atol=1e-10)
    # After k steps it is the first k terms of the Neumann series of A⁻¹, exactly.
    step = torch.eye(3, dtype=torch.float64) - 0.2 * a
    series = sum((torch.linalg.matrix_power(step, k) for k in range(5)), torch.zeros_like(a))
    assert torch.allclose(found(5), 0.2 * b.T @ series @ (delta - c) + d, atol=1e-12)
    assert torch.allclose(found(0), d)
    assert not torch.allclose(found(5), exact, atol=1e-3)


def test_a_step_of_fine_tuning_is_that_of_ordinary_training():
    """With batch norm in training mode, and its running statistics too."""
    classifier, data = received(), DATA.take(range(32))
    naive = deepcopy(classifier).train()
    optimiser = torch.optim.SGD(naive.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
    cross_entropy(naive(as_pixels(data.images)), data.labels).backward()
    optimiser.step()
    settings = FineTuning(epochs=1, batch_size=32, lr=0.1, augment=False, schedule=Schedule.CONSTANT)
    result = purify(classifier, CleanData(learning=data, held_back=data), recipe=settings, seed=0)
    for name, tensor in naive.network.state_dict().items():
        if "tracked" not in name:
            assert torch.allclose(weights(result)[name], tensor, atol=1e-5), name


def test_a_step_of_ft_sam_takes_the_gradient_at_the_worst_point():
    classifier, data = received(), DATA.take(range(32))
    naive = deepcopy(classifier).train()
    trained = list(naive.parameters())
    before = [parameter.detach().clone() for parameter in trained]

    def backward():
        naive.zero_grad()
        cross_entropy(naive(as_pixels(data.images)), data.labels, label_smoothing=0.1).backward()

    backward()
    statistics = {name: tensor.clone() for name, tensor in naive.network.state_dict().items() if "running" in name}
    with torch.no_grad():
        for parameter, step in zip(trained, ascent(before, [part.grad for part in trained], 2.0), strict=True):
            parameter.add_(step)
    backward()
    optimiser = torch.optim.SGD(trained, lr=0.1, momentum=0.9, weight_decay=5e-4)
    with torch.no_grad():
        for parameter, was in zip(trained, before, strict=True):
            parameter.copy_(was)
    optimiser.step()
    settings = FineTuning(
        epochs=1, batch_size=32, lr=0.1, augment=False, schedule=Schedule.CONSTANT, rho=2.0, label_smoothing=0.1
    )
    result = purify(classifier, CleanData(learning=data, held_back=data), recipe=settings, seed=0)
    for name, tensor in naive.network.state_dict().items():
        if "tracked" not in name:
            expected = statistics.get(name, tensor)
            assert torch.allclose(weights(result)[name], expected, atol=1e-4), name


def test_the_universal_perturbation_fools_within_its_radius():
    classifier = received()
    learner = ImplicitUnlearner(work_of(classifier, DATA), METHODS["i-bau"])
    said = classifier(as_pixels(DATA.images)).argmax(1)
    learner.begin_epoch(torch.arange(40), 1, lambda _how_far: None)
    assert 0 < learner.delta.norm() <= 10.0001
    pixels = as_pixels(DATA.images)
    assert cross_entropy(classifier(pixels + learner.delta), said) > cross_entropy(classifier(pixels), said)


class StopAfter:
    def __init__(self, steps):
        self.left = steps

    def __call__(self):
        self.left -= 1
        return self.left == 0


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("steps", [2, 3, 4])
def test_stopped_and_gone_on_with_it_ends_the_same_bit_for_bit(tmp_path, name, steps):
    path = tmp_path / "state.safetensors"
    whole = purify(received(), CLEAN, recipe=METHODS[name], seed=1)
    first = purify(
        received(),
        CLEAN,
        recipe=METHODS[name],
        seed=1,
        save=lambda state: write_state(path, state),
        stop=StopAfter(steps),
    )
    assert not first.finished
    second = purify(received(), CLEAN, recipe=METHODS[name], seed=1, resume=read_state(path))
    assert all(torch.equal(weights(second)[key], weights(whole)[key]) for key in weights(whole))
    assert any(not torch.equal(weights(first)[key], weights(whole)[key]) for key in weights(whole))
    for ours, expected in zip(second.epochs, whole.epochs, strict=True):
        assert replace(ours, seconds=0) == replace(expected, seconds=0)


def test_a_state_of_one_method_is_not_gone_on_with_by_another():
    states = []
    purify(received(), CLEAN, recipe=METHODS["ft"], seed=1, save=states.append)
    with pytest.raises(UsageError, match="another model"):
        purify(received(), CLEAN, recipe=METHODS["ft-sam"], seed=1, resume=states[0])


@pytest.mark.parametrize("name", ["ft", "ft-sam", "i-bau"])
def test_a_loss_that_explodes_is_said(name):
    with pytest.raises(NotEvaluable, match="lower lr"):
        purify(received(), CLEAN, recipe=replace(METHODS[name], lr=9e6, epochs=20), seed=0)


def test_what_a_method_cannot_be_is_refused():
    with pytest.raises(UsageError, match="method ft runs in one process"):
        purify(received(), CLEAN, recipe=METHODS["ft"], seed=0, team=Team(0, 2))
    with pytest.raises(UsageError, match="max_batch"):
        purify(received(), CLEAN, recipe=METHODS["i-bau"], seed=0, max_batch=8)
    for wrong in ({"epochs": 0}, {"lr": float("nan")}, {"rho": -1.0}):
        with pytest.raises(UsageError, match="impossible"):
            FineTuning(**wrong)
    for kind, wrong in (
        (Distancing, {"clean_weight": 0.0}),
        (Distancing, {"margin": -0.1}),
        (FeatureShift, {"alpha": -1.0}),
    ):
        with pytest.raises(UsageError, match="impossible"):
            kind(**wrong)


@pytest.mark.parametrize("method", ["ft", "ft-sam", "i-bau", "fst"])
@pytest.mark.parametrize(
    "flag",
    ["epsilon", "step", "steps", "clean_weight", "unlearning_weight", "adversarial_weight", "shared_weight"],
)
def test_settings_of_another_method_are_refused_by_name(method, flag):
    with pytest.raises(UsageError, match=f"{flag} is a setting of method sau, and {method} has none"):
        settings_for(MethodName(method), **{flag: 1})


def test_a_recipe_is_of_sau_alone_and_rho_of_ft_sam():
    with pytest.raises(UsageError, match="recipe is of method sau"):
        settings_for(MethodName.FT, RecipeName.PAPER)
    with pytest.raises(UsageError, match="rho is a setting of method ft-sam"):
        settings_for(MethodName.SAU, rho=2.0)
    assert settings_for(MethodName.FT_SAM, rho=8.0) == FineTuning(rho=8.0, label_smoothing=0.1)


def test_a_new_head_has_settings_of_its_own():
    assert settings_for(MethodName.D3, clean_weight=3.0) == Distancing(clean_weight=3.0)
    assert settings_for(MethodName.FST, alpha=0.2) == FeatureShift(alpha=0.2)
    with pytest.raises(UsageError, match="alpha is a setting of method fst"):
        settings_for(MethodName.D3, alpha=0.2)


@pytest.mark.parametrize("method", MethodName)
def test_settings_come_back_from_what_history_tells(method):
    settings = settings_for(method, epochs=7)
    assert method_of(settings) is method
    told = settings.settings() | {"method": method.value, "clean_frac": 0.1, "precision": "bf16"}
    told = {key: value.value if hasattr(value, "value") else value for key, value in told.items()}
    assert settings_told(told) == settings
    assert settings_told(told | {"lr": "fast"}) is None
    assert settings_told(told | {"epochs": float("inf")}) is None
    assert settings_told(told | {"method": "magic"}) is None


def test_history_without_a_method_is_of_sau():
    assert settings_told(Recipe(epochs=3).settings()) == Recipe(epochs=3)


def test_history_of_the_first_revision_means_what_was_the_rule_then():
    """What its settings do not tell was fixed in the code."""
    newer = {"revision", "sgd_momentum", "sgd_weight_decay", "halvings", "statistics_momentum", "group_size"}
    newer |= {"smallest_group", "recognition", "witnesses", "smallest_patch", "largest_patch", "patch_step"}
    newer |= {"warp_reach", "coarse_points", "fewest_cycles", "lowest_wave"}
    told = {name: value for name, value in DEFAULT.settings().items() if name not in newer}
    assert len(told) == len(DEFAULT.settings()) - len(newer)
    assert settings_told(told) == DEFAULT
