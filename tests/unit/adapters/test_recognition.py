"""Architectures told from names and shapes alone."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch.nn.functional import pad
from torchvision import models

from sau_adapters.architectures.cifar_networks import CIFAR_NETWORKS
from sau_adapters.architectures.index import recognised
from sau_adapters.architectures.state_names import prefixes
from sau_adapters.classifiers.building import as_classifier
from sau_adapters.classifiers.saving import save_classifier
from sau_cli.classifier import Classifier
from sau_cli.description import Description
from sau_cli.errors import NotEvaluable
from tests.conftest import ROOT
from tests.support.models import file_facts, read_checkpoint
from tests.support.toys import names, spec

PLAIN = {"normalisation": ((0.0,), (1.0,)), "image_shape": (3, 64, 64)}


def shapes(network: torch.nn.Module, prefix: str = "") -> dict[str, tuple[int, ...]]:
    return {f"{prefix}{name}": tuple(tensor.shape) for name, tensor in network.state_dict().items()}


def test_one_that_fits_is_told_with_its_counts():
    found = recognised(shapes(CIFAR_NETWORKS["wrn_16_1"](43, 1), "module."))
    assert found.prefix == ("module.",)
    (only,) = found.fitting
    assert (only.name, only.classes, only.channels, only.size) == ("wrn_16_1", 43, 1, None)


def test_the_input_size_is_told_where_tensors_depend_on_it():
    network = timm.create_model("vit_tiny_patch16_224", num_classes=5)
    by_name = {architecture.name: architecture for architecture in recognised(shapes(network)).fitting}
    assert by_name["timm:vit_tiny_patch16_224"].size == 224
    assert {architecture.classes for architecture in by_name.values()} == {5}
    assert "timm:vit_tiny_patch16_384" in by_name, "the same tensors but for their number of positions"
    assert by_name["timm:vit_tiny_patch16_384"].size is None


def test_a_twin_in_another_zoo_that_computes_the_same_is_no_question(tmp_path):
    torch.manual_seed(0)
    network = models.resnext50_32x4d(num_classes=4)
    path = tmp_path / "plain.safetensors"
    save_file(network.state_dict(), path)
    fitting = [architecture.name for architecture in file_facts(path).recognition.fitting]
    assert {"timm:resnext50_32x4d", "torchvision:resnext50_32x4d"} <= set(fitting)
    loaded = as_classifier(read_checkpoint(path), **PLAIN)
    assert loaded.description.classes == 4
    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.allclose(loaded(images), network.eval()(images), atol=1e-5)


def test_tensors_that_fit_networks_which_compute_otherwise_are_asked_about(tmp_path):
    path = tmp_path / "vit.safetensors"
    save_file(timm.create_model("vit_tiny_patch16_224", num_classes=5, img_size=64).state_dict(), path)
    try:
        loaded = as_classifier(read_checkpoint(path), **PLAIN)
    except NotEvaluable as error:
        assert "architecture, such as timm:" in str(error)
    else:
        assert loaded.description.architecture.startswith("timm:vit_tiny_patch16")


def test_an_activation_that_no_tensor_tells_is_asked_for(tmp_path):
    torch.manual_seed(0)
    network = CIFAR_NETWORKS["lenet5_tanh"](10, 1).eval()
    path = tmp_path / "lenet.safetensors"
    save_file(network.state_dict(), path)
    grey = {"normalisation": ((0.0,), (1.0,)), "image_shape": (1, 28, 28)}
    with pytest.raises(NotEvaluable, match="fit lenet5_relu, lenet5_sigmoid, lenet5_tanh, which compute different"):
        as_classifier(read_checkpoint(path), **grey)
    loaded = as_classifier(read_checkpoint(path), architecture="lenet5_tanh", **grey)
    small = torch.rand(2, 1, 28, 28)
    with torch.no_grad():
        assert torch.equal(loaded(small), network(small))
        assert torch.equal(network(pad(small, (2, 2, 2, 2))), network(small)), "a border makes 28 pixels 32"


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ("cifar_torchvision_shufflenetv2_x0_5", "torchvision:shufflenet_v2_x0_5"),
        ("cifar_torchvision_mobilenetv2_x1_0", "torchvision:mobilenet_v2"),
    ],
)
def test_strides_that_no_tensor_tells_are_asked_for(tmp_path, ours, theirs):
    torch.manual_seed(0)
    network = CIFAR_NETWORKS[ours](10, 3)
    for norm in (norm for norm in network.modules() if isinstance(norm, torch.nn.BatchNorm2d)):
        norm.momentum = 1.0  # fresh statistics let nothing of the images through a deep network
    with torch.no_grad():
        network(torch.rand(8, 3, 64, 64))
    network.eval()
    path = tmp_path / "model.safetensors"
    save_file(network.state_dict(), path)
    with pytest.raises(NotEvaluable, match=f"fit {ours}, {theirs}, which compute different things"):
        as_classifier(read_checkpoint(path), **PLAIN)
    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        expected = network(images)
        assert torch.equal(as_classifier(read_checkpoint(path), architecture=ours, **PLAIN)(images), expected)
        assert not torch.allclose(as_classifier(read_checkpoint(path), architecture=theirs, **PLAIN)(images), expected)


def test_a_file_that_we_wrote_names_what_its_tensors_do_not_tell(tmp_path):
    torch.manual_seed(0)
    network = CIFAR_NETWORKS["lenet5_sigmoid"](10, 1).eval()
    description = Description(architecture="lenet5_sigmoid", class_names=names(10), input=spec(size=28))
    path = tmp_path / "lenet.safetensors"
    save_classifier(path, Classifier(network, description), description, force=False)
    again = as_classifier(read_checkpoint(path))
    assert again.description == description
    assert set(read_checkpoint(path).state) == set(network.state_dict())


def test_of_strangers_the_nearest_are_named(tmp_path):
    state = CIFAR_NETWORKS["preact_resnet18"](10, 3).state_dict()
    state["bn.weight"] = torch.ones(512)
    found = recognised({name: tuple(tensor.shape) for name, tensor in state.items()})
    assert found.fitting == ()
    assert found.nearest[0].name == "preact_resnet18"
    assert found.nearest[0].share > 0.9
    path = tmp_path / "strange.safetensors"
    save_file(state, path)
    with pytest.raises(NotEvaluable, match=r"nearest: preact_resnet18 .*, 1 have no place \('bn.weight'\)"):
        as_classifier(read_checkpoint(path), **PLAIN)
    with pytest.raises(NotEvaluable, match=r"1 have no place \('bn.weight'\)"):
        as_classifier(read_checkpoint(path), architecture="preact_resnet18", **PLAIN)
    assert recognised({}).nearest == ()
    assert recognised({"x": (1,)}).fitting == ()


def test_order_of_tensors_plays_no_part_and_position_never_matches():
    own = shapes(CIFAR_NETWORKS["small_cnn"](10, 3))
    assert recognised(dict(reversed(own.items()))).fitting == recognised(own).fitting
    renamed = {f"layer{number}": shape for number, shape in enumerate(own.values())}
    assert recognised(renamed).fitting == ()


def test_prefixes_that_names_share():
    assert prefixes([]) == ((),)
    assert prefixes(["a.weight", "b.weight"]) == ((),), "without them, the two would be one"
    assert prefixes(["net.a.weight", "net.b"]) == ((), ("net.",))
    assert prefixes(["net.a"]) == ((), ("net.",))
    most = [*(f"net.{number}" for number in range(9)), "criterion"]
    assert prefixes(most) == ((), ("net.",))


def test_a_body_and_a_head_with_prefixes_of_their_own():
    network = timm.create_model("resnet18", num_classes=5)
    parts = {
        f"{'head' if name.startswith('fc.') else 'backbone'}.{name}": shape for name, shape in shapes(network).items()
    }
    found = recognised(parts)
    assert found.prefix == ("backbone.", "head.")
    assert "timm:resnet18" in [architecture.name for architecture in found.fitting]


def test_counters_of_averages_and_profilers_are_no_matter(tmp_path):
    state = CIFAR_NETWORKS["small_cnn"](10, 3).state_dict()
    averaged = {"n_averaged": torch.tensor(3)} | {f"module.{name}": tensor for name, tensor in state.items()}
    profiled = state | {"total_ops": torch.zeros(1), "conv.0.total_params": torch.zeros(1)}
    for number, strange in enumerate((averaged, profiled)):
        path = tmp_path / f"{number}.safetensors"
        save_file(strange, path)
        assert [architecture.name for architecture in file_facts(path).recognition.fitting] == ["small_cnn"]
        loaded = as_classifier(read_checkpoint(path), normalisation=((0.0,), (1.0,)), image_shape=(3, 32, 32))
        assert torch.equal(loaded.network.state_dict()["linear.weight"], state["linear.weight"])


def test_the_size_that_tensors_are_made_for_is_named(tmp_path):
    path = tmp_path / "vit.safetensors"
    save_file(timm.create_model("vit_tiny_patch16_224", num_classes=5).state_dict(), path)
    with pytest.raises(NotEvaluable, match="image_size 224"):
        as_classifier(read_checkpoint(path), **PLAIN)


def test_what_keeps_the_nearest_from_fitting_is_told_by_inspect_too(tmp_path):
    state = CIFAR_NETWORKS["small_cnn"](10, 3).state_dict()
    del state["linear.bias"]
    path = tmp_path / "headless.safetensors"
    save_file(state, path)
    nearest = file_facts(path).recognition.nearest[0]
    assert (nearest.name, nearest.unlike) == ("small_cnn", "1 tensors are missing ('linear.bias')")


@pytest.mark.long
def test_a_large_file_is_recognised_without_torch_and_in_a_moment(tmp_path):
    path = tmp_path / "large.safetensors"
    save_file(timm.create_model("convnext_base", num_classes=3).state_dict(), path)
    script = (
        "import sys, time; from pathlib import Path; from sau_adapters.models import locate, open_model; "
        f"names = [one.name for one in open_model(locate(Path({str(path)!r}))).facts.recognition.fitting]; "
        "assert 'timm:convnext_base' in names, names; sys.exit('torch' in sys.modules)"
    )
    started = time.monotonic()
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, env={"PYTHONPATH": ".:adapters"}, check=False)
    assert done.returncode == 0
    assert time.monotonic() - started < 30, "not a benchmark: only far too long fails"
