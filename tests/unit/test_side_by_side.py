"""Two networks at once compute what each computes by itself."""

from __future__ import annotations

import pytest
import torch
from torch.nn import Conv2d, Flatten, Linear, Module, ReLU, Sequential

from sau_cli.side_by_side import SideBySide, in_halves

pytestmark = pytest.mark.usefixtures("two_threads")


def two_networks() -> tuple[Module, Module]:
    torch.manual_seed(0)
    first, second = (Sequential(Conv2d(3, 8, 3), ReLU(), Flatten(), Linear(8 * 36, 5)) for _ in range(2))
    return first.requires_grad_(False), second.requires_grad_(False)


def passes(both, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
    images = images.clone().requires_grad_(True)
    first, second = both(images + 0)  # of a leaf autocast would keep one cast for both
    objective = (first.float().softmax(1)[:, 0] * second.float().softmax(1)[:, 1]).sum()
    return first.detach(), second.detach(), torch.autograd.grad(objective, images)[0]


@pytest.mark.parametrize("in_bf16", [False, True])
def test_logits_and_gradients_are_those_of_each_alone_with_half_of_the_threads(in_bf16):
    first, second = two_networks()
    images = torch.rand(16, 3, 8, 8)
    with torch.autocast("cpu", torch.bfloat16, enabled=in_bf16):
        ours = passes(SideBySide(first, second), images)
        torch.set_num_threads(1)
        expected = passes(lambda images: (first(images), second(images)), images)
    assert ours[0].dtype == (torch.bfloat16 if in_bf16 else torch.float32)
    assert float(expected[2].abs().max()) > 0
    assert all(torch.equal(logits, expected_logits) for logits, expected_logits in zip(ours, expected, strict=True))


@pytest.mark.parametrize("count", [2, 7])
def test_halves_are_the_whole(count):
    network, _ = two_networks()
    images = torch.rand(count, 3, 8, 8, requires_grad=True)
    ours = in_halves(network, images)
    assert torch.allclose(ours, network(images), atol=1e-6)
    weights = torch.rand_like(ours)
    (gradient,) = torch.autograd.grad((ours * weights).sum(), images)
    (expected,) = torch.autograd.grad((network(images) * weights).sum(), images)
    assert torch.allclose(gradient, expected, atol=1e-6)
    assert float(expected.abs().max()) > 0
    with torch.no_grad():
        assert torch.allclose(in_halves(network, images), network(images), atol=1e-6)


def test_a_linear_network_has_its_weights_for_a_gradient():
    first, second = Linear(3, 1, bias=False), Linear(3, 1, bias=False)
    images = torch.rand(4, 3).requires_grad_(True)
    one, other = SideBySide(first, second)(images)
    (gradient,) = torch.autograd.grad(2 * one.sum() - 3 * other.sum(), images)
    assert torch.allclose(gradient, (2 * first.weight - 3 * second.weight).expand(4, 3))
    assert first.weight.grad is None, "the images alone have gradients"


def test_the_threads_of_the_one_who_asks_stay_as_they_are():
    SideBySide(*two_networks())(torch.rand(2, 3, 8, 8))
    assert torch.get_num_threads() == 2


def test_what_goes_wrong_in_one_is_told_once_the_other_is_done():
    done = []

    def fails(images: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("not enough memory")

    def works(images: torch.Tensor) -> torch.Tensor:
        done.append(True)
        return images.flatten(1)

    for pair in ((fails, works), (works, fails)):
        with pytest.raises(RuntimeError, match="not enough memory"):
            SideBySide(*pair)(torch.rand(2, 3, 8, 8))
    assert done == [True, True]
