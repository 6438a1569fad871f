"""The same work on a GPU: skipped where there is none. Run with ``pytest -m gpu``."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial

import pytest
import torch

from sau_adapters.architectures.cifar_networks import CIFAR_NETWORKS
from sau_cli.attacks.planting import attack
from sau_cli.attacks.table import ATTACKS
from sau_cli.images import CleanData, ImageData
from sau_cli.precision import Precision
from sau_cli.predictions import predicted_logits
from sau_cli.unlearning import outer_step, shared_unlearning
from sau_cli.unlearning.cuda_graphs import Graphs
from sau_cli.unlearning.methods import MethodName, settings_for
from sau_cli.unlearning.purifier import purify
from sau_cli.unlearning.recipes import Optimiser, Recipe, RecipeName, recipe_for
from tests.contracts.test_attacks import TRAINING, quick
from tests.support.attacks import fresh_for, planned
from tests.support.toys import describe, random_images

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine"),
]
CUDA = torch.device("cuda")


def network(name: str = "wrn_16_1", *, on: torch.device | str = CUDA):
    torch.manual_seed(0)
    return describe(CIFAR_NETWORKS[name](10, 3), channels=3, size=32).to(on)


def weights(result) -> dict[str, torch.Tensor]:
    return {name: tensor.double().cpu() for name, tensor in result.classifier.network.state_dict().items()}


def apart(first, second) -> float:
    return max((first[name] - second[name]).abs().max().item() for name in first)


def clean(count: int = 64) -> CleanData:
    data = random_images(count, channels=3, size=32)
    return CleanData(learning=data, held_back=data.take(range(10)))


@pytest.mark.parametrize("name", list(RecipeName))
def test_the_first_step_is_that_of_a_cpu(name, monkeypatch):
    """In double precision, so that hardly a sign of a gradient differs."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    recipe = recipe_for(name, epochs=1, batch_size=64, optimiser=Optimiser.SGD, lr=0.01)
    start = {name: tensor.double().cpu() for name, tensor in network().network.state_dict().items()}
    ends = [weights(purify(network(on=on).double(), clean(), recipe=recipe, seed=0)) for on in (CUDA, "cpu")]
    assert apart(*ends) < 1e-6 < 1e-4 < apart(start, ends[0])


@pytest.mark.parametrize("name", list(RecipeName))
def test_what_is_replayed_is_what_would_have_been_done(name, monkeypatch):
    """In double precision, over batches of two sizes and two epochs of changing weights."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)

    class Unrecorded(Graphs):
        def __init__(self):
            super().__init__()
            self.reason = "not in this test"

    data = clean(148)
    recipe = recipe_for(name, learning=data.learning, epochs=2, batch_size=64, optimiser=Optimiser.SGD, lr=0.01)
    replayed = purify(network().double(), data, recipe=recipe, seed=0)
    monkeypatch.setattr(shared_unlearning, "Graphs", Unrecorded)
    called = purify(network().double(), data, recipe=recipe, seed=0)
    assert (replayed.cuda_graphs, called.cuda_graphs) == ("recorded", "not in this test")
    assert apart(weights(replayed), weights(called)) < 1e-9


class Inconstant(torch.nn.Module):
    """Asks what its images hold, which no recording can."""

    def __init__(self):
        super().__init__()
        self.inside = CIFAR_NETWORKS["small_cnn"](10, 3)

    def forward(self, x):
        return self.inside(x) if x.mean() < 100 else self.inside(x / 2)


def test_a_network_that_cannot_be_recorded_is_purified_all_the_same():
    torch.manual_seed(0)
    classifier = describe(Inconstant(), channels=3, size=32).to(CUDA)
    done = purify(classifier, clean(), recipe=Recipe(epochs=2, batch_size=32), seed=0)
    assert done.finished
    assert done.cuda_graphs not in {None, "recorded"}
    assert all(torch.isfinite(tensor).all() for tensor in weights(done).values())


@pytest.mark.parametrize("precision", list(Precision))
@pytest.mark.parametrize("method", list(MethodName))
def test_every_method_runs_and_goes_on_from_its_states(method, precision):
    settings, states = settings_for(method, learning=clean().learning, epochs=3, batch_size=32), []
    whole = purify(network("small_cnn"), clean(), recipe=settings, seed=0, precision=precision, save=states.append)
    again = purify(network("small_cnn"), clean(), recipe=settings, seed=0, precision=precision, resume=states[1])
    assert [epoch.number for epoch in again.epochs] == [1, 2, 3]
    assert apart(weights(whole), weights(again)) < 0.02
    assert all(torch.isfinite(tensor).all() for tensor in weights(whole).values())


def test_a_batch_that_does_not_fit_is_worked_off_in_parts(monkeypatch):
    real, sizes = outer_step.find_shared_examples, []

    def greedy(purified, received, images, *others, **options):
        sizes.append(len(images))
        if len(images) > 16:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")
        return real(purified, received, images, *others, **options)

    recipe = Recipe(epochs=1, batch_size=64)
    whole = purify(network(), clean(), recipe=recipe, seed=0)
    monkeypatch.setattr(outer_step, "find_shared_examples", greedy)
    parts = purify(network(), clean(), recipe=recipe, seed=0)
    assert max(sizes) == 64
    assert min(sizes) <= 16
    assert apart(weights(whole), weights(parts)) < 1e-3


@pytest.mark.parametrize("name", list(ATTACKS))
def test_every_attack_is_planted_and_goes_on(name):
    images = random_images(60, channels=3)
    data = ImageData(name="random", train=images, test=random_images(30, channels=3, seed=1))
    classifier, training, states = fresh_for(images).to(CUDA), replace(TRAINING, precision=Precision.BF16), []
    work = partial(attack, classifier, data, planned=[planned(quick(name))], training=training, seed=0)
    whole = work(save=states.append)
    again = work(resume=states[-1])
    for done in (whole, again):
        assert done.finished
        assert torch.isfinite(predicted_logits(done.classifier, done.triggers[0].stamp(data.test.images))).all()


def test_the_commands_from_attack_to_export(sau, tmp_path):
    steps = [
        "attack --attack badnets --arch small_cnn --device cuda --data digits --epochs 6 -o bad.safetensors",
        "inspect bad.safetensors --device cuda --data digits --effort quick --json inspect.json",
        "purify bad.safetensors --device cuda --data digits --clean-frac 0.1 -o good.safetensors",
        (
            "evaluate good.safetensors -r bad.safetensors -t bad.trigger.safetensors --data digits --device cuda "
            "--reactivate --json evaluate.json"
        ),
        "export good.safetensors --data digits -o good.onnx",
    ]
    for step in steps:
        words = step.split()
        done = sau(*words, cwd=tmp_path)
        assert done.code in ({0, 1, 6} if words[0] == "inspect" else {0}), (words, done)
    checks = {check["id"]: check["value"] for check in json.loads((tmp_path / "evaluate.json").read_text())["checks"]}
    assert checks["reference.asr.badnets"] > 0.9 > 0.1 > checks["asr.badnets"]
