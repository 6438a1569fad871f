"""The search by replayed steps, with a recording that any machine can play: what is real on a GPU is in test_cuda."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from sau_adapters.architectures.cifar_networks import CIFAR_NETWORKS
from sau_cli.images import as_pixels
from sau_cli.unlearning.cuda_graphs import Graphs, Recording
from sau_cli.unlearning.draws import draws_needed
from sau_cli.unlearning.frozen_batch_norm import FrozenBatchNorms
from sau_cli.unlearning.recipes import Recipe
from sau_cli.unlearning.replayed_search import ReplayedSearch, padded
from sau_cli.unlearning.search_space import drawn_space
from sau_cli.unlearning.shared_examples import Search, find_shared_examples
from tests.support.toys import describe, random_images

RECIPE = Recipe(
    universal=True, smooth=True, warp_share=0.4, wave_share=0.3, patch_share=0.3, epsilon=0.1, step=0.1, steps=3
)


class Played(Graphs):
    """Keeps how many images each recording is of; a replay calls the function."""

    def __init__(self):
        super().__init__()
        self.sizes = []

    def record(self, function, tensors, kept):
        self.sizes.append(len(tensors[0]))
        inputs, result = tuple(tensor.clone() for tensor in tensors), torch.zeros(len(tensors[0]), dtype=torch.bool)
        return Recording(
            graph=SimpleNamespace(replay=lambda: result.copy_(function(*inputs))), inputs=inputs, result=result
        )


class Refusing(Graphs):
    def record(self, function, tensors, kept):
        raise RuntimeError("operation not permitted when stream is capturing\nand more")


class Full(Graphs):
    def record(self, function, tensors, kept):
        raise torch.OutOfMemoryError("CUDA out of memory")


def networks():
    torch.manual_seed(0)
    models = [describe(CIFAR_NETWORKS["wrn_16_1"](10, 3), channels=3, size=8) for _ in range(2)]
    with torch.no_grad():
        for model in models:
            for layer in model.modules():
                if isinstance(layer, nn.BatchNorm2d):
                    layer.running_mean.normal_(0, 0.1)
                    layer.running_var.uniform_(0.5, 2)
                    layer.weight.uniform_(0.5, 2)
                    layer.bias.normal_(0, 0.1)
    return [model.double().requires_grad_(False) for model in models]


def found(search, models, count, seed=0, groups=None):
    data = random_images(count, channels=3, size=8, seed=seed)
    pixels = as_pixels(data.images).double()
    draws = torch.rand(count, draws_needed(3, RECIPE), generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        own, others = (model(pixels).argmax(1) for model in models)
    groups = groups or [8] * (count // 8) + [count % 8] * (count % 8 > 0)
    return find_shared_examples(
        *models,
        pixels,
        data.labels,
        purified_labels=own,
        received_labels=others,
        space=drawn_space(pixels, draws, RECIPE, groups),
        recipe=RECIPE,
        groups=groups,
        at_once=-(-count // 2),
        search=search,
    )


@pytest.mark.long
@pytest.mark.parametrize("graphs", [Played(), Refusing()])
def test_replayed_steps_find_what_steps_find(graphs):
    models = networks()
    search = ReplayedSearch(*models, RECIPE, graphs)
    for count, seed in ((40, 0), (13, 1), (40, 2), (50, 3)):  # one that is larger than those before, too
        expected, ours = found(Search(*models, RECIPE), models, count, seed), found(search, models, count, seed)
        assert torch.equal(ours.received_labels, expected.received_labels)
        assert (ours.delta - expected.delta).abs().max() < 1e-9
        with torch.no_grad():
            next(layer for layer in models[0].modules() if isinstance(layer, nn.BatchNorm2d)).bias.add_(0.05)
    if isinstance(graphs, Played):
        assert graphs.reason == ""
        assert set(graphs.sizes) <= {8, 12, 16, 24, 32}
        assert len(graphs.sizes) < 16, "recordings are used again"
    else:
        assert graphs.reason == "operation not permitted when stream is capturing"


def test_where_memory_does_not_suffice_nothing_is_recorded_any_more():
    graphs = Played()
    assert graphs.run("double", lambda numbers: numbers > 1, torch.arange(4)).tolist() == [False, False, True, True]
    assert graphs.run("double", lambda numbers: numbers > 1, torch.tensor([5, 0, 5, 0])).tolist() == [
        True,
        False,
        True,
        False,
    ]
    graphs.stop("memory does not suffice")
    assert graphs.run("double", lambda numbers: numbers > 1, torch.arange(3)).tolist() == [False, False, True]
    assert (graphs.sizes, graphs.recordings) == ([4], {})
    with pytest.raises(torch.OutOfMemoryError):
        Full().run("double", lambda numbers: numbers * 2, torch.arange(3))


def test_images_at_work_are_few_and_groups_stay_whole():
    models, seen = networks(), []

    class Watched(Search):
        def step(self, at):
            seen.append(at)
            return super().step(at)

    found(Watched(*models, RECIPE), models, 40, groups=[10, 10, 10, 10])
    assert max(len(at) for at in seen) == 20
    first_step = {}
    for number, at in enumerate(seen):
        for image in at.tolist():
            first_step.setdefault(image, number)
    assert sorted(first_step) == list(range(40))
    for group in range(4):
        assert len({first_step[image] for image in range(10 * group, 10 * group + 10)}) == 1


@pytest.mark.parametrize("affine", [True, False])
def test_frozen_batch_norms_are_those_of_eval_mode(affine):
    torch.manual_seed(1)
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, affine=affine), nn.Flatten(), nn.BatchNorm1d(144))
    network.train()(torch.randn(20, 3, 8, 8))
    network.eval()
    frozen, images = FrozenBatchNorms(network), torch.randn(5, 3, 8, 8)
    frozen.follow()
    scales = frozen.scales
    for _ in range(2):
        expected = network(images)
        with frozen.used():
            assert torch.allclose(network(images), expected, atol=1e-5)
            assert network[1].forward.__name__ == "forward"
            assert network[1].forward.__qualname__.startswith("_scaled")
        assert torch.equal(network(images), expected)
        network[1].running_mean.add_(1)
        frozen.follow()
        assert frozen.scales is scales, "in place"


def test_networks_without_batch_norm_are_left_as_they_are():
    frozen = FrozenBatchNorms(nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2)))
    frozen.follow()
    with frozen.used():
        pass
    assert frozen.scales == []


@pytest.mark.parametrize(("count", "size"), [(1, 8), (9, 12), (33, 48), (49, 64), (128, 128)])
def test_few_sizes(count, size):
    assert padded(count) == size
