"""D3 and FST: the head that they draw anew, and each step held against the formula."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from torch import nn
from torch.nn.functional import adaptive_avg_pool2d, cross_entropy

from sau_cli.errors import NotEvaluable
from sau_cli.head import head_name
from sau_cli.images import CleanData, as_pixels
from sau_cli.seeding import random_stream
from sau_cli.unlearning.batch_step import NotFiniteError
from sau_cli.unlearning.compared_methods import Distancing, FeatureShift
from sau_cli.unlearning.d3 import Distancer
from sau_cli.unlearning.new_head import bring_to, draw_anew, norm_over
from sau_cli.unlearning.purifier import purify
from sau_cli.unlearning.recipes import Schedule
from tests.support.toys import BrightnessNet, describe, random_images, work_of

DATA = random_images(32)
CLEAN = CleanData(learning=DATA, held_back=DATA)
PLAIN = {"epochs": 1, "batch_size": 32, "lr": 0.5, "augment": False, "schedule": Schedule.CONSTANT}


class HeadFirst(nn.Module):
    """A network whose head stands before its body, of one hidden layer."""

    def __init__(self, *, bias: bool = True) -> None:
        super().__init__()
        self.last = nn.Linear(5, 10, bias=bias)
        self.first = nn.Linear(64, 5)
        self.unused = nn.Linear(5, 10)

    def forward(self, x):
        return self.last(torch.relu(self.first(x.flatten(1))))


class Pooled(nn.Module):
    """A network that ends with a convolution and the mean over places."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 10, size)

    def forward(self, x):
        return adaptive_avg_pool2d(self.conv(x), 1).flatten(1)


def received(network: type[nn.Module] = HeadFirst, **options):
    torch.manual_seed(0)
    return describe(network(**options))


def test_the_head_is_what_a_pass_ends_with_wherever_it_stands():
    assert head_name(received()) == "network.last"
    assert head_name(received(Pooled, size=1)) == "network.conv"


@pytest.mark.parametrize(
    ("classifier", "told"),
    [
        (describe(BrightnessNet(10)), "no layer of the kind"),
        (received(Pooled, size=3), "'conv'"),
        (
            describe(
                nn.Sequential(
                    nn.Flatten(), nn.Linear(64, 20), nn.Unflatten(1, (2, 10)), nn.MaxPool2d((2, 1)), nn.Flatten()
                )
            ),
            "'1'",
        ),
        (describe(nn.Sequential(nn.Flatten(), nn.utils.parametrizations.weight_norm(nn.Linear(64, 10)))), "'1'"),
    ],
)
@pytest.mark.parametrize("recipe", [Distancing(epochs=1), FeatureShift(epochs=1)])
def test_a_network_without_a_head_is_refused(classifier, told, recipe):
    with pytest.raises(NotEvaluable, match=f"no head that can be told.*{told}"):
        purify(classifier, CLEAN, recipe=recipe, seed=0)


def test_a_head_drawn_anew_keeps_its_norms_and_follows_the_seed():
    heads = []
    for seed in (0, 0, 1):
        heads.append(received().network.last)
        draw_anew(heads[-1], random_stream(seed, "head"))
    before = received().network.last
    for after in heads:
        assert after.weight.norm().item() == pytest.approx(before.weight.norm().item(), rel=1e-6)
        assert after.bias.norm().item() == pytest.approx(before.bias.norm().item(), rel=1e-6)
        assert not torch.allclose(after.weight, before.weight, atol=0.1)
    assert torch.equal(heads[0].weight, heads[1].weight)
    assert not torch.equal(heads[0].weight, heads[2].weight)
    largest = heads[0].weight.abs().max() / heads[0].weight.std()
    assert largest < 3**0.5 * 1.2, "uniform: nothing is farther out than the root of 3 deviations"


def test_a_head_of_zeros_stays_one():
    head = nn.Linear(3, 2)
    nn.init.zeros_(head.bias)
    draw_anew(head, random_stream(0, "head"))
    assert not head.bias.any()


def test_the_sphere_is_over_all_parameters_together():
    """(3, 4) and (12,) have a norm of 13; at 26, each is twice as long."""
    parts = [nn.Parameter(torch.tensor([3.0, 4.0])), nn.Parameter(torch.tensor([12.0]))]
    assert norm_over(parts) == 13
    bring_to(torch.tensor(26.0), parts)
    assert [part.tolist() for part in parts] == [[6, 8], [24]]
    bring_to(torch.tensor(26.0), parts)
    assert [part.tolist() for part in parts] == [[6, 8], [24]]
    with pytest.raises(NotFiniteError):
        bring_to(torch.tensor(1.0), [nn.Parameter(torch.tensor([float("inf")]))])


def drawn(classifier, seed):
    """A copy in double precision with the head that a run with this seed begins with."""
    naive = deepcopy(classifier)
    draw_anew(naive.network.last, random_stream(seed, "head"))
    return naive.double()


def stepped(naive, loss, sphere, norm):
    """The weights after one step of SGD, with these parameters back on their sphere."""
    trained = [parameter for parameter in naive.parameters() if parameter.requires_grad]
    gradients = torch.autograd.grad(loss, trained, allow_unused=True)
    with torch.no_grad():
        for parameter, gradient in zip(trained, gradients, strict=True):
            if gradient is not None:
                parameter.sub_(0.5 * gradient)
        now = torch.cat([tensor.flatten() for tensor in sphere]).norm()
        for tensor in sphere:
            tensor.mul_(norm / now)
    return naive.network.state_dict()


def same(result, expected):
    for name, tensor in result.classifier.network.state_dict().items():
        assert torch.allclose(tensor.double(), expected[name], atol=1e-5), name


@pytest.mark.parametrize("whole", [False, True])
def test_a_step_of_d3_is_that_of_the_formula(whole):
    """λ = 3: (3 · mean of max(0, cross-entropy - 2.3) - ‖W - W0‖) / 4, and back to ‖W0‖."""
    classifier = received()
    naive, before = drawn(classifier, 5), deepcopy(classifier).double()
    pairs = [
        (parameter, dict(before.named_parameters())[name])
        for name, parameter in naive.named_parameters()
        if (whole and "unused" not in name) or name == "network.last.weight"
    ]
    losses = cross_entropy(naive(as_pixels(DATA.images).double()), DATA.labels, reduction="none")
    assert (losses < 2.3).any(), "some images are learned well enough"
    distance = torch.cat([(tensor - was).flatten() for tensor, was in pairs]).norm()
    loss = (3 * (losses - 2.3).clamp(min=0).mean() - distance) / 4
    norm = torch.cat([was.flatten() for _, was in pairs]).norm()
    expected = stepped(naive, loss, [tensor for tensor, _ in pairs], norm)
    result = purify(classifier, CLEAN, recipe=Distancing(**PLAIN, clean_weight=3.0, margin=2.3, whole=whole), seed=5)
    same(result, expected)
    after = [
        dict(result.classifier.named_parameters())[name]
        for name, parameter in naive.named_parameters()
        if any(parameter is other for other, _ in pairs)
    ]
    assert norm_over(after).item() == pytest.approx(norm.item(), rel=1e-6)


def test_a_step_of_fst_is_that_of_the_formula():
    """Cross-entropy + 0.3 · ⟨W, W0⟩, and back to ‖W0‖."""
    classifier = received()
    naive, was = drawn(classifier, 5), classifier.network.last.weight.detach().double()
    weight = naive.network.last.weight
    loss = cross_entropy(naive(as_pixels(DATA.images).double()), DATA.labels) + 0.3 * (weight * was).sum()
    expected = stepped(naive, loss, [weight], was.norm())
    same(purify(classifier, CLEAN, recipe=FeatureShift(**PLAIN, alpha=0.3), seed=5), expected)


def test_where_nothing_is_apart_the_distance_has_no_gradient():
    classifier = received(bias=False)
    tuner = Distancer(work_of(deepcopy(classifier), CLEAN.learning, received=classifier), Distancing())
    tuner.purified.load_state_dict(classifier.state_dict())
    weight = tuner.purified.network.last.weight
    weight.grad = torch.ones_like(weight)
    tuner.steer()
    assert torch.allclose(weight.grad, torch.full_like(weight, 10 / 11))


@pytest.mark.parametrize("recipe", [Distancing(epochs=3, batch_size=8), FeatureShift(epochs=3, batch_size=8)])
def test_the_head_ends_far_from_the_received_one_at_its_norm(recipe):
    classifier = received()
    ends = [purify(classifier, CLEAN, recipe=recipe, seed=seed).classifier.network.last.weight for seed in (0, 0, 1)]
    was = classifier.network.last.weight
    assert torch.equal(ends[0], ends[1])
    assert not torch.equal(ends[0], ends[2])
    for head in ends:
        assert head.norm().item() == pytest.approx(was.norm().item(), rel=1e-5)
        assert (head - was).norm() > was.norm()
    assert torch.equal(was, received().network.last.weight), "the received model is as it was"


def test_a_batch_in_parts_comes_to_the_same():
    for recipe in (Distancing(**PLAIN), FeatureShift(**PLAIN)):
        whole, parts = (purify(received(), CLEAN, recipe=recipe, seed=0, max_batch=size) for size in (None, 5))
        same(parts, {name: tensor.double() for name, tensor in whole.classifier.network.state_dict().items()})
