import pytest
import torch

from sau_adapters.architectures.cifar_networks import CIFAR_NETWORKS
from sau_cli.errors import UsageError
from sau_cli.images import CleanData
from sau_cli.precision import Precision, bf16_pays, check_precision, chosen_precision, running_in
from sau_cli.unlearning.purifier import purify
from sau_cli.unlearning.recipes import Recipe
from tests.support.toys import describe, random_images

CPU = torch.device("cpu")


def test_products_run_in_the_precision_that_was_asked_for():
    for precision, dtype in ((Precision.FP32, torch.float32), (Precision.BF16, torch.bfloat16)):
        with running_in(precision, CPU):
            assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == dtype


def test_a_device_without_it_is_refused():
    with pytest.raises(UsageError, match="mps"):
        check_precision(Precision.BF16, torch.device("mps"))
    check_precision(Precision.FP32, torch.device("mps"))
    assert not bf16_pays(torch.device("mps"), torch.nn.Linear(2, 2))


def test_depthwise_convolutions_run_in_single_precision_on_a_cpu_unless_asked(monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": True}, raising=False)
    dense, grouped, depthwise = (torch.nn.Sequential(torch.nn.Conv2d(4, 8, 3, groups=n)) for n in (1, 2, 4))
    assert [chosen_precision(None, CPU, network) for network in (dense, grouped)] == [Precision.BF16] * 2
    assert chosen_precision(None, CPU, depthwise) is Precision.FP32
    assert chosen_precision(Precision.BF16, CPU, depthwise) is Precision.BF16
    assert bf16_pays(CPU, torch.nn.Conv2d(1, 8, 3)), "one channel is no reason"
    monkeypatch.setattr(torch.cpu, "get_capabilities", dict, raising=False)
    assert chosen_precision(None, CPU, dense) is Precision.FP32


def test_a_run_in_bf16_ends_near_one_in_fp32_with_weights_in_fp32():
    torch.manual_seed(0)
    classifier, data = describe(CIFAR_NETWORKS["small_cnn"](10, 1)), random_images(40)
    results = [
        purify(
            classifier,
            CleanData(learning=data, held_back=data),
            recipe=Recipe(epochs=2, batch_size=20),
            seed=0,
            precision=precision,
        )
        for precision in Precision
    ]
    first, second = (result.epochs[-1].clean_loss for result in results)
    assert first == pytest.approx(second, rel=0.02)
    assert first != second
    assert all(parameter.dtype == torch.float32 for parameter in results[1].classifier.parameters())
