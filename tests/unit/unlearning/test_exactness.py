"""The engine against an independent naive implementation, on the same batches."""

from __future__ import annotations

from copy import deepcopy

import pytest
import timm
import torch
from torch import nn

from sau_adapters.architectures.cifar_networks import CIFAR_NETWORKS
from sau_cli import devices
from sau_cli.images import CleanData, as_pixels
from sau_cli.seeding import random_stream
from sau_cli.unlearning.purifier import purify
from sau_cli.unlearning.recipes import Recipe
from sau_cli.unlearning.search_space import ball
from sau_cli.unlearning.shared_examples import find_shared_examples
from tests.support.naive_sau import Trace, naive_sau, perturb
from tests.support.toys import describe, random_images
from tests.unit.conftest import threads

SIZE, IMAGES = 8, 24


def a_residual_network() -> nn.Module:
    torch.manual_seed(0)
    network = CIFAR_NETWORKS["wrn_16_1"](10, 3)
    network.train()
    with torch.no_grad():  # real running statistics, so that frozen batch norm matters
        network(torch.rand(64, 3, SIZE, SIZE))
    return network.eval()


def a_vision_transformer() -> nn.Module:
    torch.manual_seed(0)
    return timm.create_model(
        "vit_tiny_patch16_224", num_classes=10, img_size=SIZE, patch_size=2, embed_dim=48, depth=2, num_heads=3
    ).eval()


NETWORKS = {
    "residual, batch norm": a_residual_network,
    "transformer, layer norm": a_vision_transformer,
    "channels last": lambda: a_residual_network().to(memory_format=torch.channels_last),
}


def each_way(test):
    """Each network, precision and number of threads; what is slow combines what the fast ones have apart."""
    fast = {
        *((name, torch.float64, 1) for name in NETWORKS),
        ("residual, batch norm", torch.float32, 1),
        ("transformer, layer norm", torch.float64, 2),
    }
    ways = [
        pytest.param(
            make,
            dtype,
            count,
            id=f"{name}, {dtype}, {count}",
            marks=() if (name, dtype, count) in fast else pytest.mark.slow,
        )
        for name, make in NETWORKS.items()
        for dtype in (torch.float32, torch.float64)
        for count in (1, 2)
    ]
    return pytest.mark.parametrize(("make", "dtype", "count"), ways)(test)


@pytest.mark.long
@each_way
def test_same_losses_and_parameters_as_the_naive_implementation(make, dtype, count):
    data = random_images(count=IMAGES, channels=3, size=SIZE)
    classifier = describe(make(), channels=3, size=SIZE, mean=0.4, std=0.3).to(dtype)
    recipe = Recipe(epochs=2, batch_size=IMAGES // 3 + 1, lr=1e-4)

    stream, batches = random_stream(7, "order"), []
    for _ in range(recipe.epochs):
        for at in torch.randperm(len(data), generator=stream).split(recipe.batch_size):
            batches.append((as_pixels(data.images[at]), data.labels[at]))
    expected, trace = naive_sau(classifier, batches)
    with threads(count):
        result = purify(classifier, CleanData(learning=data, held_back=data), recipe=recipe, seed=7)

    # Adam moves each parameter by about lr a step, however small its gradient, so a sign of δ that
    # rounding flips shows as up to 2e-4 in single precision. In double precision none may flip.
    far, allowed = (2e-5, 0.01) if dtype is torch.float32 else (1e-7, 0)
    for (name, ours), theirs in zip(
        result.classifier.network.named_parameters(), expected.network.parameters(), strict=True
    ):
        assert ((ours - theirs).abs() > far).float().mean() <= allowed, name
    for which, losses in (
        (0, [epoch.clean_loss for epoch in result.epochs]),
        (1, [epoch.unlearning_loss for epoch in result.epochs]),
    ):
        naive = [_epoch_mean(trace, batches, epoch, which) for epoch in range(recipe.epochs)]
        assert losses == pytest.approx(naive, rel=2e-3 if dtype is torch.float32 else 1e-6)


def _epoch_mean(trace: Trace, batches: list, epoch: int, which: int) -> float:
    steps = range(epoch * 3, epoch * 3 + 3)
    return sum(trace.losses[step][which] * len(batches[step][0]) for step in steps) / IMAGES


@each_way
def test_delta_equals_the_naive_one_up_to_signs_of_gradients_near_zero(make, dtype, count, record_property):
    data = random_images(count=IMAGES, channels=3, size=SIZE, seed=3)
    received = describe(make(), channels=3, size=SIZE).to(dtype)
    purified = describe(make(), channels=3, size=SIZE).to(dtype)
    with torch.no_grad():
        stream = torch.Generator().manual_seed(1)
        for parameter in purified.network.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=stream))
    pixels = as_pixels(data.images)
    expected = perturb(purified, received, pixels, data.labels, Trace())
    with torch.no_grad():
        own, others = purified(pixels).argmax(1), received(pixels).argmax(1)
    with threads(count):
        found = find_shared_examples(
            purified,
            received,
            pixels,
            data.labels,
            purified_labels=own,
            received_labels=others,
            space=ball(pixels, epsilon=0.2, step=0.2, clip=False),
            recipe=Recipe(),
        )
    assert set(found.delta.mul(5).round(decimals=5).unique().tolist()) <= {-1.0, 0.0, 1.0}
    flipped = float((found.delta != expected).float().mean())
    record_property("share of flipped signs", flipped)
    assert flipped <= (0.01 if dtype is torch.float32 else 1e-5), f"{100 * flipped:.3f} % of the signs differ"
    with torch.no_grad():
        assert torch.equal(found.received_labels, received(pixels + found.delta).argmax(1))


def test_large_images_go_through_the_networks_in_parts_to_the_same_perturbations(monkeypatch):
    data = random_images(count=IMAGES, channels=3, size=SIZE)
    classifier = describe(a_residual_network(), channels=3, size=SIZE).double()
    pixels, received = as_pixels(data.images).double(), deepcopy(classifier)
    said = classifier(pixels).argmax(dim=1)

    def found():
        return find_shared_examples(
            classifier,
            received,
            pixels,
            data.labels,
            purified_labels=said,
            received_labels=said,
            space=ball(pixels, epsilon=0.2, step=0.2, clip=False),
            recipe=Recipe(),
        )

    whole = found()
    monkeypatch.setattr(devices, "PIXELS_A_PASS", 5 * SIZE * SIZE)
    in_parts = found()
    assert torch.equal(whole.delta, in_parts.delta)
    assert torch.equal(whole.received_labels, in_parts.received_labels)
